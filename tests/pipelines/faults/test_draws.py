"""Faults are a function of the seed: every kind is dealt, moments lie within the run, nothing comes too close."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipelines.faults.draws import KINDS, draw

PLACE = {"steps": 24, "workers": 2, "ranks": 2}


def test_the_same_seed_draws_the_same_faults_and_another_seed_others() -> None:
    assert draw(3, 20, **PLACE) == draw(3, 20, **PLACE)
    assert draw(3, 20, **PLACE) != draw(4, 20, **PLACE)


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_what_every_draw_holds_to(seed: int, count: int) -> None:
    faults = draw(seed, count, **PLACE)
    assert len(faults) == count
    kinds = Counter((fault.action, fault.part) for fault in faults)
    assert max(kinds.values()) - min(kinds[kind] for kind in KINDS) <= 1, "dealt like cards"
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert 1.0 <= faults[0].at <= faults[-1].at <= 21.6
    for before, after in zip([None, *faults], faults, strict=False):
        assert 0 <= after.member < 2
        if after.shortly is not None:
            assert 0.0 <= after.shortly <= 10.0
            assert before is not None
            assert before.shortly is None
            assert not before.ends_driver


def test_all_members_are_struck_and_some_faults_come_together() -> None:
    faults = [fault for seed in range(20) for fault in draw(seed, 10, **PLACE)]
    assert {fault.victim for fault in faults} == {
        *("engine core 0", "engine core 1", "rollout worker 0", "rollout worker 1", "learner rank 0", "learner rank 1"),
        *("verifier", "driver", "newest checkpoint", "raylet", "GCS"),
    }
    assert 10 < sum(fault.shortly is not None for fault in faults) < 60


def test_a_run_of_one_step_has_its_faults_after_it() -> None:
    assert {fault.at for fault in draw(0, 5, steps=1, workers=1, ranks=1)} == {1.0}
