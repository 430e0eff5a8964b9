"""The handle to all ranks, over real Ray actors: two ranks work as one, and a dead one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deaths import kill_actor
from judge_ranks import build_model, sequences
from small_settings import small_learner, small_optimizer, small_policy

from actors.deadlines import ActorFailed, NamedActor
from actors.learner.actor import Learner
from actors.learner.group import LearnerGroup
from actors.learner.planning import SequenceTooLong

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_model(tmp_path_factory.mktemp("group") / "model")


@pytest.fixture(scope="module")
def group(cluster: None, tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[LearnerGroup]:
    import ray

    logs = tmp_path_factory.mktemp("logs")
    actors = []
    for rank in range(2):
        log = str(logs / f"rank-{rank}.log")
        handle = ray.remote(Learner).options(num_cpus=1).remote(rank, 2, small_learner(), log)
        actors.append(NamedActor(handle, f"learner rank {rank}", log))
    ranks = LearnerGroup(actors, micro_batch_tokens=64, timeout=120.0, packing=False)
    ranks.join(120.0, 60.0)
    count = ranks.load(model, model, small_optimizer(learning_rate=1e-3, total_steps=10), 120.0)
    assert count == sum(parameter.numel() for parameter in plain(model).parameters())
    yield ranks
    for actor in actors:
        ray.kill(actor.handle)


def plain(model: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def plain_logprobs(model: str, items: list[Any]) -> list[np.ndarray]:
    lm, found = plain(model), []
    for item in items:
        tokens = torch.tensor(np.concatenate([item.prompt_ids, item.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            full = torch.log_softmax(lm(tokens[None]).logits[0], dim=-1)
        found.append(full[:-1].gather(1, tokens[1:, None])[len(item.prompt_ids) - 1 :, 0].numpy())
    return found


def test_logprobs_come_in_the_order_of_the_sequences(group: LearnerGroup, model: str) -> None:
    items = sequences(11, 1)
    for ours, theirs in zip(group.logprobs(items), plain_logprobs(model, items), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_steps_of_two_ranks_are_steps_of_the_whole_batch(group: LearnerGroup, model: str, tmp_path: Path) -> None:
    items = sequences(11, 1)
    expected = -np.concatenate(plain_logprobs(model, items)).mean()
    group.save(str(tmp_path / "step-000000"), {"step": 0})
    metrics = group.supervised_step(items)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics["tokens"] == sum(len(item.completion_ids) for item in items)

    assert group.restore(str(tmp_path / "step-000000")) == {"step": 0}
    metrics = group.policy_step(items, small_policy())
    weighted = sum(item.advantage * len(item.completion_ids) for item in items)
    assert metrics["loss"] == pytest.approx(-weighted / metrics["tokens"], abs=1e-6)
    assert group.restore(str(tmp_path / "step-000000")) == {"step": 0}
    group.add_policy_gradients(items[:3], small_policy())
    group.add_policy_gradients(items[3:7], small_policy())
    assert group.policy_step(items[7:], small_policy()) == pytest.approx(metrics, rel=1e-5, abs=1e-6)

    difference = np.abs(np.concatenate(plain_logprobs(model, items)) + 4.0)
    assert metrics["logprob_difference"] == pytest.approx(difference.mean(), rel=1e-5)
    assert metrics["logprob_difference_max"] == pytest.approx(difference.max(), rel=1e-5)


def test_published_weights_are_the_exported_ones(group: LearnerGroup, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    group.export(str(tmp_path / "hf"))
    update = group.publish(3, str(tmp_path / "weights"), "float32")
    assert update.version == 3
    exported, published = load_file(tmp_path / "hf" / "model.safetensors"), load_file(update.path)
    assert exported.keys() == published.keys() == {entry.name for entry in update.tensors}
    assert all(torch.equal(exported[name], published[name]) for name in exported)


def test_batches_that_cannot_be_cut_are_refused_before_any_rank_works(group: LearnerGroup) -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        group.supervised_step([])
    with pytest.raises(ValueError, match="at least one sequence"):
        group.policy_step([], small_policy())
    small = LearnerGroup(group.actors, micro_batch_tokens=4, timeout=10.0, packing=False)
    with pytest.raises(SequenceTooLong, match=r"learner\.micro_batch_tokens=4"):
        small.supervised_step(sequences(2, 1))


def test_a_dead_rank_is_named_with_its_log(group: LearnerGroup) -> None:
    """Last: the group is of no use afterwards."""
    kill_actor(group.actors[1].handle)
    with pytest.raises(ActorFailed, match=r"a supervised step: learner rank 1 \(log: .*rank-1\.log\) died"):
        group.supervised_step(sequences(6, 1))
