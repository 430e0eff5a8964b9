"""Which actors lie on which node, as Ray's placement groups put them: as few nodes as hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.placement import Role, lay_out


@dataclass(slots=True)
class Node:
    """A node of the plan."""

    gpus: float = 0.0
    cpus: float = 0.0
    members: list[tuple[str, int]] = field(default_factory=list)
    """``(role, member)`` of the actors on it."""

    def count(self, role: str) -> int:
        """Members of a role on it."""
        return sum(name == role for name, _ in self.members)


def place(roles: Sequence[Role], gpus_per_node: int) -> list[Node]:
    """Actors by node, in the order of their bundles; a bundle goes to the first node that has the devices for it.

    What has to lie on one node does, also where it then has more devices than ``gpus_per_node``.
    """
    groups, seats = lay_out(roles)
    nodes: list[Node] = []
    where: dict[tuple[int, int], Node] = {}
    for index, group in enumerate(groups):
        together: Node | None = None
        for bundle, resources in enumerate(group.resources):
            gpus = resources.get("GPU", 0.0)
            node = together or next((node for node in nodes if node.gpus + gpus <= gpus_per_node), None)
            if node is None or (group.strategy == "STRICT_PACK" and together is None):
                node = Node()
                nodes.append(node)
            if group.strategy == "STRICT_PACK":
                together = node
            node.gpus += gpus
            node.cpus += resources.get("CPU", 0.0)
            where[index, bundle] = node
    for member, seat in seats.items():
        where[seat.group, seat.bundle].members.append(member)
    return nodes
