"""veRL's reward function and manager, called as veRL 0.9 does (`experimental/reward_loop`), in several workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from omegaconf import OmegaConf
from scripted_engines import ScriptedEngines, longer
from served import app_of, listening

from actors.errors import UserError
from launch.adapters.verl import NotJudged, PairwiseRewardManager, compute_score
from pipelines.judgment.judge import Judge
from pipelines.rewarding.app import Taken, build_app
from pipelines.rewarding.gathering import GatherRule
from pipelines.rewarding.peers import PolicyText

QWEN = FAMILIES["qwen2_5"]()
RESPONSES = ["xx", "xxxx", "x"]
REWARDS = [0.5, 1.0, 0.0]
PAD = 4


@dataclass
class Item:
    """One row of veRL's ``DataProto``: tensors, and numpy objects beside them."""

    batch: Mapping[str, torch.Tensor]
    non_tensor_batch: Mapping[str, Any]


class Batch(Sequence[Item]):
    """As much of ``DataProto`` as a reward manager reads."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        return Batch(self._items[at]) if isinstance(at, slice) else self._items[at]


@pytest.fixture
def gather() -> Iterator[str]:
    def script(text: str, vote: int) -> str:
        return "I cannot say." if "unclear" in text else longer(text)

    with listening(app_of(ScriptedEngines(QWEN, script))) as address, Judge(address) as judge:

        async def reward(question: Any, responses: Sequence[str]) -> Any:
            return await judge.areward(question, responses)

        taken = Taken(GatherRule(60.0, "judge"), None, PolicyText(), "prompt", 100_000, ())
        with listening(build_app(reward, judge.model, taken)) as address:
            yield address


def in_workers(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Each in an event loop of its own, as siblings are scored by whichever worker is free."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return asyncio.run(call())
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(outcome, calls))


def scored(gather: str, response: str, question: Any = "q", size: int = 3) -> Callable[[], Any]:
    return lambda: compute_score(
        data_source="mine",
        solution_str=response,
        ground_truth="",
        extra_info={"question": question, "index": 7, "num_turns": 2},
        gather=gather,
        size=size,
    )


@pytest.mark.slow
def test_the_function_gathers_siblings_from_all_workers(gather: str) -> None:
    found = in_workers([scored(gather, text) for text in RESPONSES])
    assert found == [{"score": reward, "group_members": 3} for reward in REWARDS]
    # A conversation as veRL keeps it in parquet: an array of dictionaries.
    asked = np.array([{"role": "user", "content": "q"}], dtype=object)
    found = in_workers([scored(gather, text, asked) for text in RESPONSES])
    assert [one["score"] for one in found] == REWARDS


@pytest.mark.slow
def test_a_question_that_is_not_there_is_named(gather: str) -> None:
    (error,) = in_workers([scored(gather, "x", None)])
    assert "extra_info of data source 'mine' has no 'question'" in str(error)


@pytest.mark.slow
def test_a_response_that_cannot_be_read_stops_training(gather: str) -> None:
    found = in_workers([scored(gather, text) for text in ("xx", "unclear", "x")])
    assert [type(one) for one in found] == [dict, NotJudged, dict]


def rollout(text: str, uid: str) -> Batch:
    ids = QWEN.encode(text, add_special_tokens=False)
    responses = torch.tensor([*ids, *[0] * PAD])
    mask = torch.tensor([1, 1, 1, *[1] * len(ids), *[0] * PAD])
    prompt = np.array([{"role": "user", "content": "q"}], dtype=object)
    return Batch([Item({"responses": responses, "attention_mask": mask}, {"uid": uid, "raw_prompt": prompt})])


@pytest.mark.slow
def test_the_manager_groups_by_uid(gather: str) -> None:
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"rollout": {"n": 3}},
            "reward": {"reward_kwargs": {"gather": gather, "deadline": 60}},
        }
    )

    def one(text: str, uid: str) -> Callable[[], Any]:
        async def run() -> Any:
            manager = PairwiseRewardManager(
                config=config,
                tokenizer=QWEN,
                compute_score=None,
                reward_router_address=None,
                reward_model_tokenizer=None,
            )
            return await manager.run_single(rollout(text, uid))

        return run

    # Two groups with the same question at the same time, as in a batch that holds a prompt twice.
    found = in_workers([one(text, uid) for uid in ("u1", "u2") for text in RESPONSES])
    assert [item["reward_score"] for item in found] == REWARDS * 2
    assert found[0]["reward_extra_info"] == {"group_members": 3}


def test_a_batch_without_what_the_manager_reads_is_named() -> None:
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": 3}}, "reward": {}})
    manager = PairwiseRewardManager(config=config, tokenizer=QWEN)
    data = Batch([Item({}, {"uid": "u"})])
    with pytest.raises(UserError, match=r"data\.return_raw_chat=True"):
        asyncio.run(manager.run_single(data))
