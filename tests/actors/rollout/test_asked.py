"""Whatever streams do, every sample of every prompt ends once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import GenerationFailure, Prompt, Trace
from actors.rollout.asked import Asked, Wanted, set_aside

PROMPTS = [Prompt(name, name, "chosen_first", "A", "d", (index,)) for index, name in enumerate("pqr")]


def trace(uid: str, sample: int) -> Trace:
    return Trace(uid, sample, np.ones(1, np.int32), np.zeros(1, np.float32), "", "stop", np.zeros(1, np.int32))


def failed(uid: str, sample: int, kind: str = "request") -> GenerationFailure:
    return GenerationFailure(uid, sample, "engine_error", "", kind)  # type: ignore[arg-type]


def test_a_stream_that_breaks_off_owes_what_did_not_arrive() -> None:
    asked = Asked()
    asked.give(0, [Wanted(PROMPTS[0], (0, 1, 2)), Wanted(PROMPTS[1], (0, 1, 2))])
    asked.arrived(0, [trace("p", 1), trace("q", 0), trace("q", 1), trace("q", 2)])
    assert asked.owes(0) == 2
    assert asked.ended(0) == [Wanted(PROMPTS[0], (0, 2))]


def test_a_failed_request_is_asked_for_once_more_and_then_counted() -> None:
    asked = Asked()
    asked.give(0, [Wanted(PROMPTS[0], (0, 1))])
    assert asked.arrived(0, [failed("p", 1), trace("p", 0)])[1] == [Wanted(PROMPTS[0], (1,))]
    asked.give(1, [Wanted(PROMPTS[0], (1,))])
    final, again = asked.arrived(1, [failed("p", 1)])
    assert (final, again) == ([failed("p", 1)], [])
    assert [asked.ended(0), asked.ended(1)] == [[], []]


def test_what_would_fail_again_is_not_asked_for_again() -> None:
    asked = Asked()
    asked.give(0, [Wanted(PROMPTS[0], (0,))])
    assert asked.arrived(0, [failed("p", 0, "data")]) == ([failed("p", 0, "data")], [])


def test_a_prompt_that_is_set_aside_fails_with_each_of_its_samples() -> None:
    failures = set_aside(Wanted(PROMPTS[0], (1, 3)), 3)
    assert [(one.prompt_uid, one.sample, one.cause, one.kind) for one in failures] == [
        ("p", 1, "kills_engines", "data"),
        ("p", 3, "kills_engines", "data"),
    ]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 12), st.lists(st.booleans(), max_size=12), st.booleans()), max_size=20))
def test_every_sample_ends_once_whatever_streams_do(events: list[tuple[int, list[bool], bool]]) -> None:
    """Each event: how many of a stream's samples arrive, which of them failed, and whether the stream then breaks."""
    asked, numbers, ended = Asked(), iter(range(10_000)), Counter[tuple[str, int]]()
    open_streams: dict[int, list[tuple[str, int]]] = {}

    def give(wanted: list[Wanted]) -> None:
        if wanted:
            stream = next(numbers)
            asked.give(stream, wanted)
            open_streams[stream] = [(item.prompt.uid, sample) for item in wanted for sample in item.samples]

    def bring(stream: int, count: int, fails: list[bool]) -> None:
        now, open_streams[stream] = open_streams[stream][:count], open_streams[stream][count:]
        outcome = [*fails, *[False] * len(now)]
        final, again = asked.arrived(
            stream, [failed(*sample) if bad else trace(*sample) for sample, bad in zip(now, outcome, strict=False)]
        )
        ended.update((item.prompt_uid, item.sample) for item in final)
        give(again)

    give([Wanted(prompt, (0, 1, 2, 3)) for prompt in PROMPTS])
    for count, fails, breaks in events:
        if not open_streams:
            break
        stream = next(iter(open_streams))
        bring(stream, count, fails)
        if breaks:
            del open_streams[stream]
            give(asked.ended(stream))
    while open_streams:
        stream = next(iter(open_streams))
        bring(stream, len(open_streams[stream]), [])
        del open_streams[stream]
        assert asked.ended(stream) == []
    assert ended == {(prompt.uid, sample): 1 for prompt in PROMPTS for sample in range(4)}
