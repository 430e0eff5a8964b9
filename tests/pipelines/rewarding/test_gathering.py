"""Groups that close when they are whole or late, and members that ask again, leave, or contradict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from actors.errors import UserError
from pipelines.judgment.rewards import Rewards
from pipelines.rewarding.gathering import Gatherer, GatherRule, GroupFailed, GroupMismatch, Reward, Short

LONG = 60.0
SOON = 0.05


class Lengths:
    """Rewards a response by its length; None for one that says so."""

    def __init__(self, *answers: Exception | Rewards) -> None:
        self.asked: list[tuple[Any, list[str]]] = []
        self._answers = list(answers)
        self.let = asyncio.Event()
        self.let.set()

    async def __call__(self, question: Any, responses: Sequence[str]) -> Rewards:
        self.asked.append((question, list(responses)))
        await self.let.wait()
        if self._answers:
            answer = self._answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return Rewards(tuple(None if text == "none" else len(text) / 10 for text in responses), 1, {}, {})


def run(
    work: Callable[[Gatherer, Lengths], Coroutine[Any, Any, None]],
    *answers: Exception | Rewards,
    wait: float = LONG,
    short: Short = "judge",
    remembered: int = 100,
) -> None:
    async def inside() -> None:
        judge = Lengths(*answers)
        async with asyncio.timeout(30):
            await work(Gatherer(judge, GatherRule(wait, short, remembered)), judge)

    asyncio.run(inside())


def test_a_group_is_judged_once_when_it_is_whole() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        sent = [("g", "q", "x"), ("h", "r", "xxx"), ("g", "q", "xx"), ("h", "r", "x"), ("g", "q", "x")]
        sizes = {"g": 3, "h": 2}
        found = await asyncio.gather(*(gatherer.join(key, sizes[key], *rest) for key, *rest in sent))
        assert [one.reward for one in found] == [0.1, 0.3, 0.2, 0.1, 0.1]
        assert [one.members for one in found] == [3, 2, 3, 2, 3]
        assert sorted(judge.asked) == [("q", ["x", "xx", "x"]), ("r", ["xxx", "x"])]
        assert gatherer.waiting == 0

    run(work)


def test_a_stalled_sibling_holds_its_group_for_the_wait_and_no_longer() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        found = await asyncio.gather(*(gatherer.join("g", 3, "q", text) for text in ("x", "xx")))
        assert [one.reward for one in found] == [0.1, 0.2]
        assert {one.members for one in found} == {2}
        # The one that stalled is too late: it is alone in a group of its own.
        with pytest.raises(GroupFailed, match=r"1 of 3 members came within 0.05 s, too few"):
            await gatherer.join("g", 3, "q", "xxx")
        assert gatherer.waiting == 0

    run(work, wait=SOON)


def test_short_groups_are_refused_where_that_is_the_rule() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        found = await asyncio.gather(
            *(gatherer.join("g", 3, "q", text) for text in ("x", "xx")), return_exceptions=True
        )
        assert [type(one) for one in found] == [GroupFailed, GroupFailed]
        assert judge.asked == []

    run(work, wait=SOON, short="refuse")


def test_a_named_member_that_asks_again_is_no_further_one_and_gets_the_same() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        first = asyncio.ensure_future(gatherer.join("g", 2, "q", "x", "a"))
        again = asyncio.ensure_future(gatherer.join("g", 2, "q", "x", "a"))
        await asyncio.sleep(0)
        assert gatherer.waiting == 1
        # The first connection broke: its response stays in the group.
        first.cancel()
        other = await gatherer.join("g", 2, "q", "xx", "b")
        assert ((await again).reward, other.reward) == (0.1, 0.2)
        assert await gatherer.join("g", 2, "q", "x", "a") == Reward(0.1, 2, {})
        assert len(judge.asked) == 1

    run(work)


def test_a_member_joins_again_while_its_group_is_judged() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        judge.let.clear()
        tasks = [asyncio.ensure_future(gatherer.join("g", 2, "q", text, text)) for text in ("x", "xx")]
        while not judge.asked:
            await asyncio.sleep(0)
        tasks[0].cancel()
        again = asyncio.ensure_future(gatherer.join("g", 2, "q", "x", "x"))
        await asyncio.sleep(0)
        judge.let.set()
        assert ((await again).reward, (await tasks[1]).reward) == (0.1, 0.2)
        assert len(judge.asked) == 1

    run(work)


def test_a_nameless_member_leaves_with_its_call() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        gone = asyncio.ensure_future(gatherer.join("g", 2, "q", "gone"))
        await asyncio.sleep(0)
        assert gatherer.waiting == 1
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert gatherer.waiting == 0
        found = await asyncio.gather(*(gatherer.join("g", 2, "q", text) for text in ("x", "xx")))
        assert [one.reward for one in found] == [0.1, 0.2]
        assert judge.asked == [("q", ["x", "xx"])]

    run(work)


def test_equal_responses_of_nameless_members_are_two_members() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        found = await asyncio.gather(*(gatherer.join("g", 2, "q", "x") for _ in range(2)))
        assert [one.reward for one in found] == [0.1, 0.1]

    run(work)


@pytest.mark.parametrize(
    "failure", [UserError("the judge is away"), Rewards((None, None), 2, {}, {"engine_error": 1}), KeyError("a defect")]
)
def test_a_group_that_cannot_be_judged_fails_for_all_and_may_be_tried_again(failure: Any) -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        names = ("a", "b")
        found = await asyncio.gather(*(gatherer.join("g", 2, "q", "x", name) for name in names), return_exceptions=True)
        assert [type(one) for one in found] == [GroupFailed, GroupFailed]
        found = await asyncio.gather(*(gatherer.join("g", 2, "q", "x", name) for name in names))
        assert [one.reward for one in found] == [0.1, 0.1]

    run(work, failure)


def test_what_could_not_be_read_is_none_for_its_member_alone() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        found = await asyncio.gather(*(gatherer.join("g", 2, "q", text) for text in ("none", "xx")))
        assert [one.reward for one in found] == [None, 0.2]

    run(work)


def test_members_that_contradict_their_group_are_refused_and_the_group_goes_on() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        first = asyncio.ensure_future(gatherer.join("g", 2, "q", "x", "a"))
        await asyncio.sleep(0)
        for arguments, said in (
            (("g", 3, "q", "y"), "2 members, not 3"),
            (("g", 2, "other", "y"), "another question"),
            (("g", 2, "q", "y", "a"), "another response before"),
            (("new", 1, "q", "y"), "groups of 2 at least"),
        ):
            with pytest.raises(GroupMismatch, match=said):
                await gatherer.join(*arguments)
        await gatherer.join("g", 2, "q", "xx", "b")
        assert (await first).reward == 0.1

    run(work)


def test_the_next_round_of_a_key_is_a_group_of_its_own() -> None:
    """A trainer that counts its prompts anew each step."""

    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        for number in range(1, 4):
            found = await asyncio.gather(*(gatherer.join("g", 2, "q", "x" * number, name) for name in ("a", "b")))
            assert [one.reward for one in found] == [number / 10] * 2
        assert len(judge.asked) == 3

    run(work)


def test_what_is_remembered_is_bounded() -> None:
    async def work(gatherer: Gatherer, judge: Lengths) -> None:
        for number in range(10):
            await asyncio.gather(*(gatherer.join(str(number), 2, "q", "x", name) for name in ("a", "b")))
        assert len(gatherer._answered) == 4

    run(work, remembered=4)
