"""From the roles of a job to reserved resources: who goes where is said by name, and reserving has a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import UserError

# What a bundle takes whose members take nothing: Ray has no empty bundles.
_TOKEN = {"CPU": 0.001}


class ClusterTooSmall(UserError, RuntimeError):
    """The cluster does not have what the actors need; says what is missing."""


@dataclass(frozen=True, slots=True)
class Role:
    """Actors of one kind: how many there are, and what one of them takes, always on a single node."""

    name: str
    count: int
    cpus: float
    gpus: float
    remedy: str
    """What to change where the cluster is too small, for messages."""
    one_node: bool = False
    """All members of all such roles lie on one node together."""
    shares: str | None = None
    """A role named before this one: members go into its bundles in turn, which grow by what they take. None, or where
    that role has no members: each has a bundle of its own."""

    @property
    def resources(self) -> dict[str, float]:
        """What one member takes; a resource of which it takes nothing is left out."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount > 0}


@dataclass(slots=True)
class Bundles:
    """What becomes one Ray placement group."""

    strategy: str
    """``STRICT_PACK``: one node; ``PACK``: as few as possible."""
    resources: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a member of a role goes."""

    group: int
    """Index of the placement group."""
    bundle: int
    """Index of the bundle within it."""


def lay_out(roles: Sequence[Role]) -> tuple[list[Bundles], dict[tuple[str, int], Seat]]:
    """Bundles of all roles, and the seat of each ``(role, member)``.

    Raises:
        ValueError: two roles of one name, or a role that shares with none of those before it.

    """
    groups: dict[str, Bundles] = {}
    seats: dict[tuple[str, int], Seat] = {}
    counts: dict[str, int] = {}
    for role in roles:
        if role.name in counts or role.shares not in (None, *counts):
            raise ValueError(f"role {role.name!r} (shares: {role.shares!r}) does not fit those before: {list(counts)}")
        counts[role.name] = role.count
        hosts = counts[role.shares] if role.shares is not None else 0
        for member in range(role.count):
            if role.shares is not None and hosts:
                seat = seats[role.shares, member % hosts]
            else:
                strategy = "STRICT_PACK" if role.one_node else "PACK"
                own = groups.setdefault(strategy, Bundles(strategy))
                own.resources.append({})
                seat = Seat(list(groups).index(strategy), len(own.resources) - 1)
            seats[role.name, member] = seat
            bundle = list(groups.values())[seat.group].resources[seat.bundle]
            for name, amount in role.resources.items():
                bundle[name] = bundle.get(name, 0.0) + amount
    for group in groups.values():
        group.resources = [bundle or dict(_TOKEN) for bundle in group.resources]
    return list(groups.values()), seats


def shortage(needed: Sequence[Mapping[str, float]], available: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Resources of which there is less than all bundles take together: name -> (needed, there)."""
    total: dict[str, float] = {}
    for resources in needed:
        for name, amount in resources.items():
            total[name] = total.get(name, 0.0) + amount
    return {
        name: (amount, available.get(name, 0.0))
        for name, amount in total.items()
        if amount > available.get(name, 0.0) + 1e-6
    }


class Placement:
    """Reserved bundles of all roles."""

    def __init__(
        self,
        roles: Sequence[Role],
        wanted: Sequence[Bundles],
        groups: Sequence[Any],
        seats: Mapping[tuple[str, int], Seat],
    ) -> None:
        """``groups`` are Ray's placement groups of what is ``wanted``, in the order of :func:`lay_out`."""
        self._roles = {role.name: role for role in roles}
        self._wanted = wanted
        self._groups = list(groups)
        self._seats = seats

    def options(self, role: str, member: int) -> dict[str, Any]:
        """Ray options that put a member of a role where it belongs, with what it takes."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        seat, takes = self._seats[role, member], self._roles[role]
        return {
            "num_cpus": takes.cpus,
            "num_gpus": takes.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._groups[seat.group], seat.bundle),
        }

    def await_nodes(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Return when every bundle has a node, at once unless one was lost; ``tell`` is told of the wait for another.

        Ray reserves the bundles of a node that died on others, as soon as there is room on them.

        Raises:
            ClusterTooSmall: naming what is missing, after ``seconds``.

        """
        from ray.util.placement_group import placement_group_table

        if not any(placement_group_table(group).get("state") == "RESCHEDULING" for group in self._groups):
            return
        tell(
            f"a node of the cluster is gone, and what was on it needs another: waiting for one for up to {seconds:g} s "
            "(cluster.ready_timeout)"
        )
        if not self._are_placed(seconds):
            raise ClusterTooSmall(f"for {seconds:g} s after a node was lost the cluster {self._lack()}")

    def _are_placed(self, seconds: float) -> bool:
        """Whether every bundle has a node within ``seconds``."""
        deadline = time.monotonic() + seconds
        for group in self._groups:
            # In short waits, so that an interrupt is noticed.
            while not group.wait(timeout_seconds=max(0.1, min(2.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    return False
        return True

    def _lack(self) -> str:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return _lack(list(self._roles.values()), self._wanted, nodes, ray.available_resources())

    def release(self) -> None:
        """Give every bundle back."""
        from ray.util.placement_group import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)


def reserve(roles: Sequence[Role], seconds: float, name: str = "") -> Placement:
    """Reserve what all roles take and return when all of it is there. ``name`` begins those of the placement groups.

    Nodes may still be joining (autoscalers, Slurm), so a shortage is final only when ``seconds`` have passed.

    Raises:
        ClusterTooSmall: naming what is missing, after the deadline.

    """
    from ray.util.placement_group import placement_group

    wanted, seats = lay_out(roles)
    names = [f"{name}/{group.strategy}" if name else "" for group in wanted]
    groups = [
        placement_group(group.resources, strategy=group.strategy, name=called)
        for group, called in zip(wanted, names, strict=True)
    ]
    placement = Placement(roles, wanted, groups, seats)
    if not placement._are_placed(seconds):
        placement.release()
        raise ClusterTooSmall(f"after {seconds:g} s the cluster {placement._lack()}")
    return placement


def _lack(
    roles: Sequence[Role],
    wanted: Sequence[Bundles],
    nodes: Sequence[Mapping[str, float]],
    free: Mapping[str, float],
) -> str:
    """What is wrong with a cluster of these ``nodes``, and what to change, as the end of a sentence."""
    present = [role for role in roles if role.count]
    asked = " and ".join(f"{role.count} x {role.name} with {_words(role.resources)} each" for role in present)
    remedy = f"Add nodes, or {', or '.join(role.remedy for role in present)}"
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            total[name] = total.get(name, 0.0) + amount
    if missing := shortage([bundle for group in wanted for bundle in group.resources], total):
        lack = ", ".join(f"{name}: {need:g} needed, {have:g} in the cluster" for name, (need, have) in missing.items())
        return f"still lacks resources for {asked}: {lack}. {remedy}"
    for group in wanted:
        for bundles in [group.resources] if group.strategy == "STRICT_PACK" else [[one] for one in group.resources]:
            if all(shortage(bundles, node) for node in nodes):
                needs = {name: need for name, (need, _) in shortage(bundles, {}).items()}
                return f"has no single node with {_words(needs)}, needed on one for {asked}. {remedy}"
    left = _words({name: free.get(name, 0.0) for name in total if name in ("CPU", "GPU")})
    return (
        f"has not placed {asked}, though it has enough in total: other jobs hold resources, or what is free on its "
        f"nodes does not fit. Free now: {left}"
    )


def _words(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "nothing"
