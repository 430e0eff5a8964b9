"""Holders of copies that say which node they are on; without torch, which would be most of their start."""

from __future__ import annotations

import sys
from typing import Any

import ray
import ray.cloudpickle

from actors.deadlines import NamedActor
from actors.learner.holder import CopyHolder

# Processes of the cluster do not find this folder: send them classes, not their names.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class OnNode(CopyHolder):
    """A holder that says another node than it is on."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def node(self) -> str:
        return self._node


class Full(OnNode):
    """On a node without room."""

    def expect(self, rank: int, size: int, place: int) -> None:
        raise MemoryError("no room for copies")


class Places:
    """On which nodes holders are started, by rank, and which classes of them."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = list(nodes)
        self.kinds: list[type[OnNode]] = [OnNode] * len(nodes)
        self.started: list[NamedActor] = []

    def start(self, rank: int) -> NamedActor:
        remote: Any = ray.remote(self.kinds[rank]).options(num_cpus=0, max_concurrency=4)
        self.started.append(NamedActor(remote.remote(self.nodes[rank]), f"holder {rank}"))
        return self.started[-1]
