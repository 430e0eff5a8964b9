"""TRL's reward function, called as TRL 1.16 calls it (`GRPOTrainer._calculate_rewards`)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from families import FAMILIES
from scripted_engines import ScriptedEngines, longer
from served import app_of, listening

from actors.errors import UserError
from launch.adapters.trl import PairwiseReward, groups_of
from pipelines.judgment.judge import Judge

QWEN = FAMILIES["qwen2_5"]()
PROMPTS = ["p"] * 3 + ["q"] * 3
COMPLETIONS = ["xx", "xxxx", "x", "y", "y", "yyy"]


@pytest.fixture
def judge() -> Iterator[Judge]:
    def script(text: str, vote: int) -> str:
        return "I cannot say." if "unclear" in text else longer(text)

    with listening(app_of(ScriptedEngines(QWEN, script))) as address, Judge(address) as judge:
        yield judge


def call(function: PairwiseReward, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
    """In an event loop of a thread of its own, with what TRL passes beside the columns of the data set."""
    logged: dict[str, float] = {}
    columns |= {"completion_ids": [[1]] * len(prompts), "trainer_state": None, "log_extra": None}
    rewards = asyncio.run(function(prompts=prompts, completions=completions, log_metric=logged.__setitem__, **columns))
    assert set(logged) == {"judge/unjudged", "judge/comparisons"}
    return rewards


def test_it_is_what_trl_awaits() -> None:
    function = PairwiseReward.__new__(PairwiseReward)
    assert inspect.iscoroutinefunction(function.__call__)
    assert function.__name__ == "pairwise_judge"


@pytest.mark.slow
def test_every_group_of_a_batch_in_its_order(judge: Judge) -> None:
    rewards = call(PairwiseReward(judge, size=3), PROMPTS, COMPLETIONS, answer=["a"] * 6)
    assert rewards == [0.5, 1.0, 0.0, 0.0, 0.0, 1.0]
    mixed = [0, 3, 1, 4, 2, 5]
    again = call(PairwiseReward(judge, size=3), [PROMPTS[at] for at in mixed], [COMPLETIONS[at] for at in mixed])
    assert again == [rewards[at] for at in mixed]


@pytest.mark.slow
def test_conversations(judge: Judge) -> None:
    prompts = [[{"role": "user", "content": [{"type": "text", "text": "p"}]}]] * 2
    completions = [[{"role": "assistant", "content": "xx"}], [{"role": "assistant", "content": "x"}]]
    assert call(PairwiseReward(judge, size=2), prompts, completions) == [1.0, 0.0]


@pytest.mark.slow
def test_what_could_not_be_read_is_none_and_never_zero(judge: Judge) -> None:
    assert call(PairwiseReward(judge), ["p"] * 3, ["xx", "unclear", "x"]) == [1.0, None, 0.0]


def test_groups_of_equal_prompts() -> None:
    assert groups_of(["p", "q", "p", "p", "q", "p"], None) == [[0, 2, 3, 5], [1, 4]]
    assert groups_of(["p", "q", "p", "p", "q", "p"], 2) == [[0, 2], [3, 5], [1, 4]]
    with pytest.raises(UserError, match=r"1 of 2 completions.*per_device_train_batch_size"):
        groups_of(["p", "p", "p"], 2)


@pytest.mark.slow
def test_a_judge_that_fails_stops_training() -> None:
    async def away(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    app = app_of(ScriptedEngines(QWEN, longer))
    with listening(away) as address, Judge(address, deadline=0.5) as judge:
        function = PairwiseReward(judge, size=3)
        with pytest.raises(UserError, match=r"no answer in 0.5 s"):
            asyncio.run(function(prompts=PROMPTS, completions=COMPLETIONS))
