"""What a rank keeps leaves its device, all of it, and comes back as it was: the steps after it are the same bit by bit.

On a CPU other storage of the same memory stands in for the machine's.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from judge_ranks import LORA, OPTIMIZERS, POLICY, build_model, policy, sequences, weights
from small_settings import small_learner

from actors.learner.actor import Learner
from actors.learner.parking import Parking, _storages
from actors.learner.sharding import local

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_model(tmp_path_factory.mktemp("parking"))


def trained(learner: Learner, model: str, optimizer: str, away: bool, **settings: Any) -> dict[str, Any]:
    other = copy.copy(learner)
    other._settings = small_learner(**settings)
    other.load(model, model, OPTIMIZERS[optimizer])
    metrics = []
    for step in range(4):
        if step:
            metrics.append(policy(other, sequences(5, step, old=True), POLICY, budget=256))
        if away:
            other._trainer.leave_device()
            assert sizes(other) == {0}
            other._trainer.take_device()
    return {"metrics": metrics, "weights": weights(other), "learner": other}


def sizes(learner: Learner) -> set[int]:
    """Bytes that each storage of what is kept has on the device."""
    trainer = learner._trainer
    tensors = [*trainer.judge.parameters(), *trainer.reference.parameters()]
    tensors += [
        value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()
    ]
    return {local(tensor).untyped_storage().nbytes() for tensor in tensors if isinstance(tensor, torch.Tensor)}


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("adamw", {}),
        ("muon", {}),
        ("adamw", {"reshard_after_forward": False}),
        ("adamw", {"lora": LORA}),
        ("adamw", {"dtype": "bfloat16"}),
    ],
)
def test_training_goes_on_as_if_it_had_stayed(
    learner: Learner, model: str, optimizer: str, settings: dict[str, Any]
) -> None:
    stayed = trained(learner, model, optimizer, away=False, **settings)
    away = trained(learner, model, optimizer, away=True, **settings)
    assert away["metrics"] == stayed["metrics"]
    assert all(torch.equal(away["weights"][name], tensor) for name, tensor in stayed["weights"].items())


def test_what_leaves_is_all_that_is_kept_and_room_is_made_once(learner: Learner, model: str) -> None:
    """By hand: float32 parameters, two moments and a counter for each, and the reference; no gradients after a step."""
    other = trained(learner, model, "adamw", away=True)["learner"]
    trainer = other._trainer
    count, tensors = 0, 0
    for parameter in trainer.judge.parameters():
        count, tensors = count + parameter.numel(), tensors + 1
    trainer.leave_device()
    assert trainer.parking.parked_bytes == 4 * (count + 2 * count + tensors + count)
    rooms = {room.data_ptr() for _, room in trainer.parking._parked}
    trainer.take_device()
    assert trainer.parking.parked_bytes == 0
    trainer.leave_device()
    assert {room.data_ptr() for _, room in trainer.parking._parked} == rooms
    trainer.take_device()


def test_gradients_of_some_traces_leave_and_come_back(learner: Learner, model: str) -> None:
    other = copy.copy(learner)
    other._settings = small_learner()
    seen = []
    for away in (False, True):
        other.load(model, model, OPTIMIZERS["adamw"])
        items = sequences(6, 0, old=True)
        other.add_policy_gradients([items[:3]], POLICY)
        if away:
            other._trainer.leave_device()
            other._trainer.take_device()
        seen.append(other.policy_step([items[3:]], POLICY, sum(len(item.completion_ids) for item in items), 6))
    assert seen[0] == seen[1]


def test_quantised_state_is_what_it_is_made_of() -> None:
    from torchao.optim.subclass_8bit import OptimState8bit

    state = OptimState8bit.zeros((4, 256))
    before = [state.codes.clone(), state.scale.clone(), state.qmap.clone()]
    parking = Parking("cpu")
    parking.leave([state])
    assert {storage.nbytes() for storage in _storages([state])} == {0}
    parking.come_back()
    assert all(torch.equal(*pair) for pair in zip(before, (state.codes, state.scale, state.qmap), strict=True))


def test_storages_that_tensors_have_together_leave_once_and_others_stay() -> None:
    whole = torch.arange(12.0)
    expected = whole.clone()
    parking = Parking("cpu")
    parking.leave([whole, whole[3:].view(3, 3), torch.empty(0)])
    assert parking.parked_bytes == 48
    parking.come_back()
    assert torch.equal(whole, expected)
    elsewhere = Parking("meta")
    elsewhere.leave([whole])
    assert elsewhere.parked_bytes == 0
    assert torch.equal(whole, expected)
