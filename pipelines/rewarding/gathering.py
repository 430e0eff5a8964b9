"""Groups of responses from members that arrive one by one, each of which waits for its own reward.

A group is open until it has as many members as it states, or until ``wait`` seconds after its first one; then it is
judged, and all of its members are answered at once. So a sibling that stalls holds its group for ``wait`` seconds and
no longer. Belongs to one event loop; knows neither HTTP nor a judge.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.errors import UserError
from pipelines.data.schema import DataError
from pipelines.judgment.rewards import Rewards

Short = Literal["judge", "refuse"]
JudgeGroup = Callable[[Any, Sequence[str]], Awaitable[Rewards]]
"""The rewards of a question's responses."""


class GroupFailed(UserError, RuntimeError):
    """A group has no rewards; a member may ask again, and is then a member of another group."""


class GroupMismatch(UserError, ValueError):
    """A member contradicts its group: another size or question, or another response of the same member."""


@dataclass(frozen=True, slots=True)
class GatherRule:
    """How groups close."""

    wait: float
    """Seconds from a group's first member to its judgment, complete or not."""
    short: Short
    """What becomes of a group that is incomplete then: those that are there are judged among themselves, if they are
    two at least; or all are refused."""
    remembered: int = 10_000
    """Named members whose answers are kept, for clients that ask again because an answer got lost."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What one member is answered."""

    reward: float | None
    """None: nothing about its response could be read, see ``failures``."""
    members: int
    """Of the group as it was judged."""
    failures: Mapping[str, int]
    """Votes of the whole group that could not be read, by cause."""


@dataclass(slots=True)
class _Open:
    key: str
    size: int
    question: Any
    done: asyncio.Future[dict[str, Reward]]
    responses: dict[str, str] = field(default_factory=dict)
    """By member."""
    timer: asyncio.TimerHandle | None = None


class Gatherer:
    """The groups of one server."""

    def __init__(self, judge: JudgeGroup, rule: GatherRule) -> None:
        self._judge = judge
        self._rule = rule
        self._open: dict[str, _Open] = {}
        self._answered: OrderedDict[tuple[str, str], tuple[str, asyncio.Future[dict[str, Reward]]]] = OrderedDict()
        self._judging: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Members of groups that are open."""
        return sum(len(group.responses) for group in self._open.values())

    async def join(self, key: str, size: int, question: Any, response: str, member: str | None = None) -> Reward:
        """The reward of one member, once its group is judged.

        ``key`` tells groups that are open at the same time apart. A ``member`` with a name may ask again and is not
        counted twice; one without is a further one each time, and leaves its group when its call is cancelled.

        Raises:
            GroupFailed: the group stayed short, or could not be judged.
            DataError: the judge cannot be asked about these texts.
            GroupMismatch: the member contradicts its group.

        """
        known = self._answered.get((key, member)) if member is not None else None
        if known is not None and known[0] == response and key not in self._open:
            return (await asyncio.shield(known[1]))[str(member)]
        name = uuid.uuid4().hex if member is None else member
        group = self._group(key, size, question)
        if group.responses.setdefault(name, response) != response:
            raise GroupMismatch(f"group {key!r}: member {name!r} has sent another response before: name it anew")
        if len(group.responses) == group.size:
            self._close(group)
        try:
            return (await asyncio.shield(group.done))[name]
        except asyncio.CancelledError:
            if member is None and self._open.get(key) is group:
                group.responses.pop(name, None)
                if not group.responses:
                    self._forget(group)
            raise

    def _group(self, key: str, size: int, question: Any) -> _Open:
        group = self._open.get(key)
        if group is None:
            if size < 2:
                raise GroupMismatch(f"group {key!r}: a pairwise judge needs groups of 2 at least, not {size}")
            loop = asyncio.get_running_loop()
            group = self._open[key] = _Open(key, size, question, loop.create_future())
            group.timer = loop.call_later(self._rule.wait, self._expire, group)
        elif (group.size, group.question) != (size, question):
            what = f"{group.size} members, not {size}" if group.size != size else "another question"
            raise GroupMismatch(f"group {key!r} has {what}: give each group a key of its own")
        return group

    def _forget(self, group: _Open) -> None:
        del self._open[group.key]
        if group.timer is not None:
            group.timer.cancel()

    def _expire(self, group: _Open) -> None:
        count = len(group.responses)
        if self._rule.short == "judge" and count >= 2:
            self._close(group)
            return
        self._forget(group)
        came = f"{count} of {group.size} members came within {self._rule.wait:g} s, too few"
        self._fail(group, GroupFailed(f"group {group.key!r}: {came}"))

    def _close(self, group: _Open) -> None:
        self._forget(group)
        for name, response in group.responses.items():
            self._answered[group.key, name] = (response, group.done)
        while len(self._answered) > self._rule.remembered:
            self._answered.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._answer(group))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _answer(self, group: _Open) -> None:
        try:
            found = await self._judge(group.question, list(group.responses.values()))
        except DataError as error:
            # Asked again, it would be refused again.
            self._fail(group, error)
        except UserError as error:
            self._fail(group, GroupFailed(f"group {group.key!r}: {error}"))
        except BaseException as error:
            self._fail(group, GroupFailed(f"group {group.key!r}: {type(error).__name__} while it was judged"))
            raise
        else:
            if found.failed:
                why = f"an engine failed: {dict(found.failures)}"
                self._fail(group, GroupFailed(f"group {group.key!r}: {why}"))
                return
            rewards = zip(group.responses, found.rewards, strict=True)
            count = len(group.responses)
            group.done.set_result({name: Reward(reward, count, found.failures) for name, reward in rewards})

    def _fail(self, group: _Open, error: UserError) -> None:
        for name in group.responses:
            if self._answered.get((group.key, name), (None, None))[1] is group.done:
                del self._answered[group.key, name]
        group.done.set_exception(error)
        # All who waited may be gone; then nobody asks what became of it.
        group.done.exception()
