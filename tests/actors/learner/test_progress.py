"""How long a rank may stand still follows from steps that it has done; of all other work nothing is known."""

from __future__ import annotations

import pytest

from actors.failures import kind_of
from actors.learner.progress import OutOfMemory, Progress, at_work
from actors.liveness import Beat, Liveness, Patience

PATIENCE = Patience(floor=30.0, factor=10.0, unmeasured=600.0)


class Rank:
    """Has steps of three micro-batches, of which a test says how long each takes, and checkpoints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.progress = Progress()
        self.now = 0.0
        self.beats: list[Beat] = []
        self.error: Exception | None = None
        monkeypatch.setattr("actors.learner.progress.time.monotonic", lambda: self.now)

    @at_work
    def policy_step(self, seconds: float) -> None:
        for _ in range(3):
            self.now += seconds
            self.beats.append(self.progress.beat())
            self.progress.moved()
        if self.error is not None:
            raise self.error

    @at_work
    def save(self, seconds: float) -> None:
        self.now += seconds
        self.beats.append(self.progress.beat())


def deadline(beat: Beat) -> float:
    liveness = Liveness(PATIENCE, 0.0)
    liveness.beat(beat, 0.0)
    return liveness.deadline()


def test_the_first_step_may_take_as_long_as_anything_and_those_after_it_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = Rank(monkeypatch)
    rank.policy_step(50.0)
    assert [deadline(beat) for beat in rank.beats] == [600.0] * 3
    rank.policy_step(1.0)
    assert [beat.longest for beat in rank.beats[3:]] == [50.0] * 3
    assert [deadline(beat) for beat in rank.beats[3:]] == [500.0] * 3
    assert rank.progress.beat() == Beat(8, "", None, False), "two steps of three micro-batches, and their ends"


def test_a_checkpoint_is_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank(monkeypatch)
    for _ in range(3):
        rank.save(0.1)
    assert [deadline(beat) for beat in rank.beats] == [600.0] * 3


def test_a_listener_does_not_measure_what_is_not_alike() -> None:
    liveness = Liveness(PATIENCE, 0.0)
    for number in range(3):
        liveness.beat(Beat(number, "save", None, False), float(number))
    assert liveness.state(2.0 + 500.0) == "suspect"
    liveness.beat(Beat(3, "policy_step", None, False), 3.0)
    liveness.beat(Beat(4, "policy_step", 2.0), 4.0)
    assert liveness.deadline() == 30.0
    liveness.beat(Beat(5, "", None, False), 5.0)
    assert liveness.deadline() == 30.0, "with nothing to do it only has to answer"


class TorchOutOfMemory(RuntimeError):
    pass


TorchOutOfMemory.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        TorchOutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 8 bytes"
        ),
        RuntimeError("unable to mmap 123 bytes from file <weights>: Cannot allocate memory (12)"),
    ],
)
def test_memory_that_was_enough_before_and_lacks_now_is_the_ranks_failure(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(monkeypatch)
    rank.error = error
    with pytest.raises(type(error)) as first:
        rank.policy_step(1.0)
    assert kind_of(first.value) is None, "it may never be enough"
    rank.error = None
    rank.policy_step(1.0)
    rank.error = error
    with pytest.raises(OutOfMemory) as later:
        rank.policy_step(1.0)
    assert kind_of(later.value) == "learner"
    assert later.value.__cause__ is error
    rank.error = ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        rank.policy_step(1.0)


def test_an_error_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank(monkeypatch)
    with pytest.raises(TypeError):
        rank.policy_step("no number")  # type: ignore[arg-type]
    assert rank.progress.beat().at == ""
