"""Roles become bundles; who goes where is said by role and member, and what a cluster lacks by resource."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import pytest

from actors.placement import Bundles, ClusterTooSmall, Placement, Role, Seat, _lack, lay_out, reserve, shortage
from pipelines.config.compose import load_config
from pipelines.job.settings import roles

ROLLOUT = Role("rollout", 2, 4.0, 4, "lower rollout.workers")
LEARNER = Role("learner", 8, 2.0, 1, "lower learner.ranks")
VERIFIER = Role("verifier", 1, 0.0, 0, "lower cluster.verifier_cpus", shares="rollout")


def test_a_member_has_its_own_bundle_with_all_it_takes() -> None:
    [group], seats = lay_out([ROLLOUT, LEARNER])
    assert group == Bundles("PACK", [{"CPU": 4.0, "GPU": 4}] * 2 + [{"CPU": 2.0, "GPU": 1}] * 8)
    assert seats["rollout", 1] == Seat(0, 1)
    assert seats["learner", 0] == Seat(0, 2)
    assert len(set(seats.values())) == 10


def test_a_role_that_shares_goes_in_turn_into_bundles_that_grow() -> None:
    judges = Role("judge", 3, 1.5, 0, "", shares="rollout")
    [group], seats = lay_out([ROLLOUT, VERIFIER, judges])
    assert group.resources == [{"CPU": 7.0, "GPU": 4}, {"CPU": 5.5, "GPU": 4}]
    assert [seats["judge", member].bundle for member in range(3)] == [0, 1, 0]
    assert seats["verifier", 0] == seats["rollout", 0]


def test_nobody_to_share_with_means_a_bundle_of_its_own_and_none_is_empty() -> None:
    [group], seats = lay_out([replace(ROLLOUT, count=0), VERIFIER])
    assert group.resources == [{"CPU": 0.001}]
    assert seats == {("verifier", 0): Seat(0, 0)}


def test_roles_that_need_one_node_are_a_group_of_their_own_together() -> None:
    apart = Role("verifier", 1, 1.0, 0, "")
    groups, seats = lay_out([replace(ROLLOUT, one_node=True), apart, replace(LEARNER, one_node=True)])
    assert [(group.strategy, len(group.resources)) for group in groups] == [("STRICT_PACK", 10), ("PACK", 1)]
    assert seats["verifier", 0] == Seat(1, 0)
    assert seats["learner", 7] == Seat(0, 9)


@pytest.mark.parametrize("roles", [[ROLLOUT, ROLLOUT], [VERIFIER, ROLLOUT], [replace(ROLLOUT, shares="rollout")]])
def test_names_are_unique_and_hosts_come_first(roles: list[Role]) -> None:
    with pytest.raises(ValueError, match="does not fit those before"):
        lay_out(roles)


def test_shortage_names_each_resource_with_both_numbers() -> None:
    [group], _ = lay_out([ROLLOUT, LEARNER])
    assert shortage(group.resources, {"CPU": 20.0}) == {"CPU": (24.0, 20.0), "GPU": (16.0, 0.0)}
    assert shortage(group.resources, {"CPU": 24.0, "GPU": 16.0}) == {}


def test_what_is_lacking_is_said_by_role_with_the_remedy() -> None:
    def lack(*nodes: dict[str, float], **changes: Any) -> str:
        roles = [replace(ROLLOUT, **changes), replace(LEARNER, **changes), VERIFIER]
        return _lack(roles, lay_out(roles)[0], nodes, {"CPU": 3.0})

    asked = (
        "2 x rollout with CPU 4 and GPU 4 each and 8 x learner with CPU 2 and GPU 1 each and "
        "1 x verifier with nothing each"
    )
    remedy = "Add nodes, or lower rollout.workers, or lower learner.ranks, or lower cluster.verifier_cpus"
    eight = {"CPU": 12.0, "GPU": 8.0}
    assert lack(eight) == (
        f"still lacks resources for {asked}: CPU: 24 needed, 12 in the cluster, GPU: 16 needed, 8 in the cluster. "
        + remedy
    )
    assert lack(*[{"CPU": 10.0, "GPU": 2.0}] * 8) == (
        f"has no single node with CPU 4 and GPU 4, needed on one for {asked}. {remedy}"
    )
    assert "has no single node with CPU 24 and GPU 16," in lack(eight, eight, one_node=True)
    assert lack(eight, eight).startswith(f"has not placed {asked}, though it has enough in total")
    assert lack(eight, eight).endswith("Free now: CPU 3 and GPU 0")


class Group:
    """A placement group that lacks a node for some of the looks at it."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    def wait(self, timeout_seconds: float) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize(("looks", "said"), [(0, 0), (3, 1), (math.inf, 1)])
def test_who_is_started_again_waits_for_a_node_in_the_place_of_a_lost_one(
    looks: float, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # Not by its name, which the package has given to the function in it.
    groups = importlib.import_module("ray.util.placement_group")
    wanted, seats = lay_out([ROLLOUT, VERIFIER])
    group, told = Group(looks), list[str]()
    state = {"state": "RESCHEDULING" if looks else "CREATED"}
    monkeypatch.setattr(groups, "placement_group_table", lambda group: state)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 4.0}}])
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0})
    placement = Placement([ROLLOUT, VERIFIER], wanted, [group], seats)
    if math.isinf(looks):
        with pytest.raises(
            ClusterTooSmall, match=r"^for 0.2 s after a node was lost the cluster still lacks .*CPU: 8 ne"
        ):
            placement.await_nodes(0.2, told.append)
    else:
        placement.await_nodes(60.0, told.append)
    assert len(told) == said
    assert all("waiting for one for up to" in line for line in told)


class Member:
    """Knows its devices and the placement group it lies in."""

    def place(self) -> tuple[list[str], str | None]:
        import ray

        context = ray.get_runtime_context()
        return context.get_accelerator_ids()["GPU"], context.get_placement_group_id()


@pytest.mark.ray
def test_members_lie_in_their_bundles_with_devices_of_their_own(cluster: None) -> None:
    import ray

    roles = [Role("rollout", 1, 0.5, 4, ""), Role("learner", 3, 0.25, 1, "", one_node=True), VERIFIER]
    placement = reserve(roles, 60.0)
    members = {
        (role.name, member): ray.remote(Member).options(**placement.options(role.name, member)).remote()
        for role in roles
        for member in range(role.count)
    }
    places = dict(zip(members, ray.get([one.place.remote() for one in members.values()], timeout=120), strict=True))
    assert {key: len(devices) for key, (devices, _) in places.items()} == {
        ("rollout", 0): 4,
        **{("learner", rank): 1 for rank in range(3)},
        ("verifier", 0): 0,
    }
    assert len({device for devices, _ in places.values() for device in devices}) == 7
    groups = {key: group for key, (_, group) in places.items()}
    assert len({groups["learner", rank] for rank in range(3)}) == 1
    assert groups["verifier", 0] == groups["rollout", 0] != groups["learner", 0]
    bundles = [placement.options(*key)["scheduling_strategy"].placement_group_bundle_index for key in members]
    assert bundles == [0, 0, 1, 2, 0]
    placement.release()
    with pytest.raises(ClusterTooSmall, match=r"after 0\.5 s the cluster still lacks.*GPU: 9 needed, 8 in the cluster"):
        reserve([Role("learner", 9, 0.0, 1, "lower learner.ranks")], 0.5)


@pytest.mark.ray
def test_an_engine_and_a_rank_that_share_a_device_see_the_same_one(cluster: None) -> None:
    import ray

    config = load_config(
        [
            *("cluster=gpu_node", "cluster.share_devices=true", "rl.learn_early=false", "rollout.tensor_parallel=1"),
            *("rollout.workers=8", "learner.ranks=8", "cluster.rollout_cpus=0.1", "cluster.learner_cpus=0.1"),
            "cluster.verifier_cpus=0",
        ]
    )
    placement = reserve(roles(config), 60.0)
    keys = [(role, member) for member in range(8) for role in ("rollout", "learner")]
    members = [ray.remote(Member).options(**placement.options(*key)).remote() for key in keys]
    places = dict(zip(keys, ray.get([one.place.remote() for one in members], timeout=300), strict=True))
    pairs = [(places["rollout", member][0], places["learner", member][0]) for member in range(8)]
    assert all(engine == rank and len(engine) == 1 for engine, rank in pairs)
    assert len({engine[0] for engine, _ in pairs}) == 8
    placement.release()
