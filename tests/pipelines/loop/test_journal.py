"""The journal of a training loop: what was complete is there again, what is of no use is not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import GenerationFailure, Prompt, ScoredGroup, ScoredTrace, Trace, Verdict
from pipelines.loop.journal import Journal
from pipelines.loop.rollouts import RolloutBatch, ScoredItem


def item(position: int, version: int = 0, failed: bool = False) -> ScoredItem:
    """A prompt's group with a trace of as many tokens as its position, all of one version."""
    prompt = Prompt(f"{position}/1", str(position), "chosen_first", "A", "chat", np.arange(3, dtype=np.int32))
    tokens = np.arange(position + 1, dtype=np.int32)
    trace = Trace(prompt.uid, 0, tokens, tokens.astype(np.float32), "text", "stop", np.full_like(tokens, version))
    failures = (GenerationFailure(prompt.uid, 1, "engine_error", "no ink"),) if failed else ()
    return ScoredItem((ScoredGroup(prompt, (ScoredTrace(trace, Verdict("A", None), 1.0),), failures),), 1.0, 2.0, 3.0)


def opened(folder: Path, first: int = 0, supply: Any = None, staleness: int = 0, saved: int = 0) -> Journal:
    return Journal(folder, first, supply, staleness, lambda: saved)


def end(journal: Journal, step: int, *items: ScoredItem, outstanding: tuple[int, ...] = ()) -> Any:
    state = {"begun": 99, "outstanding": list(outstanding)}
    return asyncio.run(journal.end_step(step, RolloutBatch.of(items), state))


def told(content: Any) -> str:
    """Records compare by arrays, which have no one answer."""
    return repr(content)


def test_steps_come_back_with_their_batches_and_items_with_their_times_renewed(tmp_path: Path) -> None:
    refill = item(7)
    with opened(tmp_path) as journal:
        first, second, third = item(0), item(1), item(2, version=1)
        for position, content in enumerate((first, second)):
            journal.add(position, content)
        assert end(journal, 0, first, refill, outstanding=(1, 2)) == {"begun": 99, "outstanding": [1, 2]}
        journal.add(2, third)
        asyncio.run(asyncio.to_thread(journal._wait))
    with opened(tmp_path) as journal:
        assert (journal.first, list(journal.steps)) == (1, [0])
        step = journal.steps[0]
        assert told(asyncio.run(step.whole()).groups) == told((*first.groups, *refill.groups))
        assert asyncio.run(step.whole()).generate_seconds == 0.0
        assert sorted(journal.complete) == [1, 2]
        assert told(journal.complete[2].groups) == told(third.groups)
        assert journal.complete[2].written != third.written, "by the clock of this process"
        # Made again, it is not recorded again, and a checkpoint gets what the supply was then.
        size = (tmp_path / "step-000000").stat().st_size
        assert end(journal, 0, first, refill, outstanding=(5,)) == {"begun": 99, "outstanding": [1, 2]}
        assert (tmp_path / "step-000000").stat().st_size == size
        assert end(journal, 1, *journal.complete.values())["outstanding"] == []
    with opened(tmp_path) as journal:
        assert list(journal.steps) == [0, 1]
        assert told(asyncio.run(journal.steps[1].whole()).groups) == told((*second.groups, *third.groups))
        assert journal.complete == {}


def test_from_a_later_checkpoint_only_what_follows_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for step in range(3):
            journal.add(step, content := item(step, version=step))
            end(journal, step, content)
    with opened(tmp_path, first=2, supply={"begun": 3, "outstanding": [2]}) as journal:
        assert (list(journal.steps), journal.first, journal.complete) == ([2], 3, {})
    with opened(tmp_path, first=2, supply={"begun": 3, "outstanding": [2]}, saved=2) as journal:
        end(journal, 2)
    assert sorted(os.listdir(tmp_path)) == ["step-000002"], "what no checkpoint needs is removed"


def test_after_a_gap_nothing_of_the_future_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for step in range(3):
            journal.add(step, content := item(step, version=step))
            end(journal, step, content, outstanding=(3,))
        journal.add(3, item(3, version=3))
    (tmp_path / "step-000001").unlink()
    with opened(tmp_path) as journal:
        assert (list(journal.steps), journal.first, journal.complete) == ([0], 1, {})
    assert sorted(os.listdir(tmp_path)) == ["step-000000"]


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_torn_record_is_cut_off_and_others_follow(tmp_path: Path, cut: int) -> None:
    with opened(tmp_path) as journal:
        for position in range(2):
            journal.add(position, item(position))
    file = tmp_path / "step-000000"
    os.truncate(file, file.stat().st_size - cut)
    with opened(tmp_path) as journal:
        assert list(journal.complete) == [0]
        journal.add(1, item(1))
    with opened(tmp_path) as journal:
        assert list(journal.complete) == [0, 1]


def test_what_cannot_be_read_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as journal:
        for position in range(2):
            journal.add(position, item(position))
    data = bytearray((tmp_path / "step-000000").read_bytes())
    data[len(data) // 4] ^= 255
    (tmp_path / "step-000000").write_bytes(data)
    with opened(tmp_path) as journal:
        assert list(journal.complete) == [1]
    assert "step-000000 cannot be read from" in caplog.text


def test_what_failed_is_asked_for_again(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add(0, item(0, failed=True))
        journal.add(1, item(1))
    with opened(tmp_path) as journal:
        assert list(journal.complete) == [1]


def test_what_cannot_be_written_ends_the_step_with_its_name(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as journal:
        (tmp_path / "journal" / "step-000000").mkdir()
        journal.add(0, content := item(0))
        with pytest.raises(OSError, match="step-000000"):
            end(journal, 0, content)
