"""What the benchmarks measure, where it is a bound and not a speed."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from pipelines.speed.__main__ import named, renew
from pipelines.speed.logprobs import in_own_process
from pipelines.speed.slots import BIMODAL, Lengths, Simulation


def test_a_measure_taken_again_leaves_none_of_its_earlier_figures() -> None:
    results: dict[str, Any] = {}
    renew(results, "packer", {"packer_ms": 3.0, "packer_old": 1})
    renew(results, "publish", {"publish_pause_ms": 46})
    renew(results, "packer", {"packer_ms": 4.0})
    assert results.pop("figures") == {"packer": ["packer_ms"], "publish": ["publish_pause_ms"]}
    assert results == {"packer_ms": 4.0, "publish_pause_ms": 46}


@pytest.mark.slow
def test_no_tensor_of_tokens_times_vocabulary_exists() -> None:
    """Of 1,024 tokens and 151,936 entries, logits would take 0.58 GiB, and with their softmax and gradients thrice."""
    assert 0.1 < in_own_process(1024) < 0.55


def test_measures_are_named_with_commas() -> None:
    assert named("packer, rollout") == ["packer", "rollout"]
    with pytest.raises(argparse.ArgumentTypeError, match="no measure 'rollot': there are asynchronous, data, driver"):
        named("packer,rollot")


def test_simulated_engines_train_on_each_item_once_and_are_fuller_with_staleness() -> None:
    """An engine dies on the way; lengths are the same for every run."""
    runs = {staleness: Simulation(staleness, 56, engines=4, prompts=16) for staleness in (0, 2)}
    for run in runs.values():
        assert sorted(run.trained) == list(range(56 * 16))
        assert 0 < run.share_in_use() <= 1
    assert runs[2].share_in_use() > 1.5 * runs[0].share_in_use()
    in_order = list(range(56 * 16))
    assert [sorted(runs[0].trained[at : at + 16]) for at in range(0, 896, 16)] == [
        in_order[at : at + 16] for at in range(0, 896, 16)
    ]


def test_simulated_traces_that_make_room_are_trained_on_once_and_written_whole() -> None:
    """Also those of an engine that dies. On one engine, what is computed anew is all that a budget adds."""
    for staleness in (0, 2):
        run = Simulation(staleness, 56, engines=4, prompts=16, lengths=BIMODAL, budget=1024)
        assert sorted(run.trained) == list(range(56 * 16))
        assert 0 < run.share_in_use() <= 1
    whole, portions = (Simulation(0, 20, 1, 1, Lengths(lambda rng: 2000.0, 2000.0), budget) for budget in (0, 1000))
    # A second portion computes the first one anew: a fiftieth of 1,000 tokens, of 2,000 and the learning.
    added = portions.seconds_per_step() - whole.seconds_per_step()
    assert added == pytest.approx(20, abs=1)
