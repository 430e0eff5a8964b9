"""A batch that lost too many traces is no batch."""

from __future__ import annotations

import numpy as np
import pytest

from actors.messages import GenerationFailure, Prompt, RewardFailure, ScoredGroup, ScoredTrace, Trace, Verdict
from pipelines.loop.failed_share import TooManyFailed, refuse_failed


def group(uid: str, traces: int, failures: int, unscored: int = 0) -> ScoredGroup:
    """So many of each."""
    prompt = Prompt(uid, uid, "chosen_first", "A", "d", (1,))
    trace = Trace(uid, 0, np.ones(1, np.int32), np.zeros(1, np.float32), "", "stop", np.zeros(1, np.int32))
    return ScoredGroup(
        prompt,
        (ScoredTrace(trace, Verdict("A", None), 1.0),) * traces,
        (GenerationFailure(uid, 0, "engine_error", "ValueError: no more ink"),) * failures,
        (RewardFailure(uid, 0, "mine", "error", ""),) * unscored,
    )


def test_the_share_is_of_all_traces_that_were_asked_for() -> None:
    refuse_failed([group("p", 18, 1), group("q", 0, 0, unscored=1)], 0.05)  # 1 of 20 is not more than 5%.
    with pytest.raises(
        TooManyFailed,
        match=r"^2 of 39 traces .* \(engine_error 2\); first: prompt p: ValueError: no more ink\. .*=0\.05 ",
    ):
        refuse_failed([group("p", 18, 1), group("q", 19, 1)], 0.05)


def test_none_failed_is_always_allowed_and_zero_allows_none() -> None:
    refuse_failed([group("p", 4, 0)], 0.0)
    refuse_failed([], 0.0)
    refuse_failed([group("p", 0, 4)], 1.0)
    with pytest.raises(TooManyFailed, match="1 of 1000"):
        refuse_failed([group("p", 999, 1)], 0.0)
