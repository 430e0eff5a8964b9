"""Every recipe on as many nodes as it names, with devices that are only counted: who lies where and sees which."""

from __future__ import annotations

import pytest
from recipe_places import DEVICES, RECIPES, Place, all_places, config_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def places() -> dict[str, list[Place]]:
    return all_places()


@pytest.mark.parametrize("recipe", RECIPES)
def test_engines_and_ranks_have_devices_of_their_own_on_as_few_nodes_as_hold_them(
    places: dict[str, list[Place]], recipe: str
) -> None:
    config, found = config_of(recipe), places[recipe]
    shared = config.rollout.tensor_parallel if config.cluster.device == "cuda" else 0
    for role, _, _, devices in found:
        assert len(set(devices)) == {"rollout": shared, "learner": min(shared, 1), "verifier": 0}[role]
    taken = [(node, device) for _, _, node, devices in found for device in devices]
    if config.cluster.share_devices:
        at = {(role, member): (node, devices) for role, member, node, devices in found}
        ranks = range(config.learner.ranks)
        assert [at["learner", rank] for rank in ranks] == [at["rollout", rank] for rank in ranks]
        taken = taken[: len(taken) // 2]
    assert len(set(taken)) == len(taken), "no device is given twice"
    ours = {node for role, _, node, _ in found if role != "verifier"}
    assert len(ours) == max(1, len(taken) // DEVICES)
    assert len(ours) == 1 or config.cluster.weight_transfer == "network"
