"""The server of rewards between trainers and a judge, all over real sockets; the judge's engines are scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from families import FAMILIES
from fastapi.testclient import TestClient
from scripted_engines import ScriptedEngines, longer
from served import Faulty, app_of, listening

from pipelines.judgment.judge import Judge
from pipelines.rewarding.app import Taken, build_app
from pipelines.rewarding.gathering import GatherRule
from pipelines.rewarding.peers import PolicyText

QWEN = FAMILIES["qwen2_5"]()


def taken(wait: float = 60.0, size: int | None = 3, keys: tuple[str, ...] = ()) -> Taken:
    return Taken(GatherRule(wait, "judge"), size, PolicyText(), "prompt", 100_000, keys)


@contextmanager
def rewarding(rules: Taken, script: Any = longer, faults: Sequence[Any] = ()) -> Iterator[tuple[str, Judge]]:
    """The address of a server of rewards, and its judge, which is a server itself."""
    with (
        listening(Faulty(app_of(ScriptedEngines(QWEN, script)), *faults)) as address,
        Judge(address, deadline=20.0) as judge,
    ):

        async def reward(question: Any, responses: Sequence[str]) -> Any:
            return await judge.areward(question, responses)

        with listening(build_app(reward, judge.model, rules)) as gather:
            yield gather, judge


def ask(address: str, bodies: Sequence[Any], route: str, **more: Any) -> list[httpx2.Response]:
    """All bodies at the same time, as a trainer's processes send them."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(lambda body: httpx2.post(f"{address}{route}", json=body, timeout=60, **more), bodies))


def openrlhf(response: str, prompt: str = "q") -> dict[str, Any]:
    return {"query": [f"{prompt}{response}"], "prompts": [prompt], "labels": [""]}


def gym(response: str, index: int) -> dict[str, Any]:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": response}]}]
    params = {"input": [{"role": "user", "content": "q"}]}
    return {"responses_create_params": params, "response": {"output": output}, "_ng_rollout_index": index}


RESPONSES = ["xx", "xxxx", "x"]
REWARDS = [0.5, 1.0, 0.0]


@pytest.mark.slow
def test_a_group_has_the_same_rewards_whichever_client_asks() -> None:
    with rewarding(taken()) as (address, judge):
        assert list(judge.reward("q", RESPONSES).rewards) == REWARDS
        # OpenRLHF: one sample a request, and several in one.
        answers = [answer.json() for answer in ask(address, [openrlhf(text) for text in RESPONSES], "/openrlhf")]
        assert [answer["rewards"] for answer in answers] == [[reward] for reward in REWARDS]
        assert answers[0] == {"rewards": [0.5], "scores": [0.5], "extra_logs": {"group_members": [3]}}
        whole = {"query": [f"q{text}" for text in RESPONSES], "prompts": ["q"] * 3, "labels": [""] * 3}
        (answer,) = ask(address, [whole], "/openrlhf")
        assert answer.json()["rewards"] == REWARDS
        # NeMo Gym: a rollout a request, echoed with its reward; and all responses at once.
        rollouts = [gym(text, index) for index, text in enumerate(RESPONSES)]
        answers = [answer.json() for answer in ask(address, rollouts, "/verify")]
        assert answers == [{**body, "reward": reward} for body, reward in zip(rollouts, REWARDS, strict=True)]
        asked = {"conversation_history": [{"role": "user", "content": "q"}]}
        (answer,) = ask(address, [{**asked, "response_objs": [body["response"] for body in rollouts]}], "/compare")
        assert answer.json()["rewards"] == REWARDS
        assert ask(address, [{**asked, "response_objs": []}], "/compare")[0].json()["rewards"] == []
        # Clients that state the group.
        members = [{"group": "g", "size": 3, "prompt": "q", "response": text} for text in RESPONSES]
        answers = [answer.json() for answer in ask(address, members, "/v1/reward/member")]
        assert answers == [{"reward": reward, "members": 3, "failures": {}} for reward in REWARDS]
        # TRL asks the judge itself: launch/adapters/trl.py.


@pytest.mark.slow
def test_a_lone_sample_is_refused_after_the_wait_with_a_status_that_is_asked_again() -> None:
    with rewarding(taken(wait=0.1)) as (address, _):
        (answer,) = ask(address, [openrlhf("x")], "/openrlhf")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "1 of 3 members came within 0.1 s" in answer.json()["error"]["message"]
        # The sibling that stalled costs the others no more than the wait.
        answers = ask(address, [openrlhf("x"), openrlhf("xx")], "/openrlhf")
        assert [answer.json()["rewards"] for answer in answers] == [[0.0], [1.0]]


@pytest.mark.slow
def test_a_client_that_goes_away_takes_its_sample_with_it() -> None:
    async def leave(address: str) -> None:
        async with httpx2.AsyncClient(base_url=address) as client:
            task = asyncio.ensure_future(client.post("/openrlhf", json=openrlhf("gone")))
            while (await client.get("/health")).json()["waiting"] != 1:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while (await client.get("/health")).json()["waiting"]:
                await asyncio.sleep(0.01)

    with rewarding(taken()) as (address, _):
        asyncio.run(asyncio.wait_for(leave(address), 30))
        answers = ask(address, [openrlhf(text) for text in RESPONSES], "/openrlhf")
        assert [answer.json()["rewards"][0] for answer in answers] == REWARDS


@pytest.mark.slow
def test_a_response_that_cannot_be_read_is_never_a_reward_and_is_not_waited_for_again() -> None:
    def script(text: str, vote: int) -> str:
        return "I cannot say." if "none" in text else longer(text)

    with rewarding(taken(), script) as (address, _):
        sent = [openrlhf(text) for text in ("xx", "none", "x")]
        answers = ask(address, sent, "/openrlhf")
        assert [answer.status_code for answer in answers] == [200, 422, 200]
        assert "has no reward" in answers[1].json()["error"]["message"]
        # OpenRLHF sends a refused sample again: it must not open a group of its own and wait.
        (again,) = ask(address, [sent[1]], "/openrlhf")
        assert again.status_code == 422
        members = [{"group": "g", "size": 2, "prompt": "q", "response": text} for text in ("none", "x")]
        found = [answer.json() for answer in ask(address, members, "/v1/reward/member")]
        assert [one["reward"] for one in found] == [None, None]
        assert found[0]["failures"]


@pytest.mark.slow
def test_a_judge_that_is_busy_is_waited_for_and_one_that_refuses_is_said() -> None:
    bodies = [openrlhf(text) for text in RESPONSES]
    with rewarding(taken(), faults=[(429, {"retry-after": "0"}), (503, {})]) as (address, _):
        assert [answer.json()["rewards"][0] for answer in ask(address, bodies, "/openrlhf")] == REWARDS
    with rewarding(taken(), faults=[(500, {})]) as (address, _):
        answers = ask(address, bodies, "/openrlhf")
        assert {answer.status_code for answer in answers} == {503}
        assert "status 500" in answers[0].json()["error"]["message"]
        assert [answer.json()["rewards"][0] for answer in ask(address, bodies, "/openrlhf")] == REWARDS


@pytest.mark.slow
def test_keys_in_a_header_or_in_the_address() -> None:
    with rewarding(taken(keys=("secret-key",))) as (address, _):
        assert ask(address, [openrlhf("x")], "/openrlhf")[0].status_code == 401
        assert ask(address, [openrlhf("x")], "/openrlhf", auth=("user", "wrong"))[0].status_code == 401
        bodies = [openrlhf(text) for text in RESPONSES]
        inside = address.replace("http://", "http://user:secret-key@")
        assert [answer.json()["rewards"][0] for answer in ask(inside, bodies, "/openrlhf")] == REWARDS
        bearer = {"authorization": "Bearer secret-key"}
        assert [item.status_code for item in ask(address, bodies, "/openrlhf", headers=bearer)] == [200] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "body", "status", "said"),
    [
        ("/openrlhf", {"query": ["x"]}, 422, "same length"),
        ("/openrlhf", [1], 422, "must be a JSON object"),
        ("/openrlhf", {"query": ["q" * 200_000], "prompts": ["q"], "labels": [""]}, 413, "at most 100000"),
        ("/v1/reward/member", {"group": "g", "size": 1, "prompt": "q", "response": "x"}, 422, "size"),
        ("/v1/reward/member", {"group": "g", "size": 2, "prompt": "q", "response": 3}, 422, "response"),
        ("/v1/reward/member", {"group": "g", "size": 2, "prompt": "q", "response": "x", "more": 1}, 422, "more"),
        ("/openrlhf", {"query": ["x", "y", "z"], "prompts": [""] * 3, "labels": [""] * 3}, 422, "message is empty"),
        ("/verify", {"responses_create_params": {"input": "q"}}, 422, "no `output`"),
        ("/compare", {"response_objs": [{"output": []}], "conversation_history": []}, 422, "list of"),
        ("/compare", {"response_objs": 5}, 422, "must be a list, not int"),
        # At once, and not when the group is whole: its siblings are judged without it.
        ("/v1/reward/member", {"group": "g", "size": 2, "prompt": "", "response": "x"}, 422, "message is empty"),
        (
            "/v1/reward/member",
            {"group": "g", "size": 2, "prompt": [{"role": "user"}], "response": "x"},
            422,
            "needs text",
        ),
        ("/nothing", {}, 404, "no such route"),
    ],
)
def test_what_is_no_request_is_refused(route: str, body: Any, status: int, said: str) -> None:
    with rewarding(taken()) as (address, _):
        (answer,) = ask(address, [body], route)
        assert answer.status_code == status, answer.text
        assert said in json.dumps(answer.json()["error"])


def test_bodies_that_are_no_json_and_defects_are_error_objects() -> None:
    async def broken(question: Any, responses: Sequence[str]) -> Any:
        raise KeyError("ours")

    http = TestClient(build_app(broken, "judge", taken()), raise_server_exceptions=False)
    for content, status, said in (
        (b'{"query": "\xff"}', 400, "not UTF-8"),
        (b"[" * 50_000, 400, "nested too deeply"),
        (b"{", 422, "no JSON"),
        (b'{"query": ["\\ud800"], "prompts": [""], "labels": [""]}', 422, "empty"),
    ):
        answer = http.post("/openrlhf", content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    asked = {"conversation_history": "q", "response_objs": [{"output": []}]}
    assert http.post("/compare", json=asked).json()["error"]["code"] == "internal_error"


@pytest.mark.slow
def test_a_size_that_nobody_states() -> None:
    with rewarding(taken(size=None)) as (address, _):
        (answer,) = ask(address, [openrlhf("x")], "/openrlhf")
        assert answer.status_code == 422
        assert "reward.group_size" in answer.json()["error"]["message"]
