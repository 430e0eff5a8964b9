"""The holders of all ranks' copies, for the driver: started, restarted where a node was lost, and paired over nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from actors.deadlines import ANSWER_SECONDS, ActorFailed, DeadlineExceeded, NamedActor, get
from actors.learner.holder import NOTHING

log = logging.getLogger(__name__)

# For a new holder to have what another keeps: gigabytes, over a network.
_TAKE_SECONDS = 600.0


class Holders:
    """One :class:`actors.learner.holder.CopyHolder` for each rank."""

    def __init__(self, ranks: int, start: Callable[[int], NamedActor], elsewhere: bool = False) -> None:
        """``start`` starts a rank's holder on the rank's node; ``elsewhere``: copies are kept on another node, too."""
        self.actors: list[NamedActor | None] = [None] * ranks
        """By rank; None: not started."""
        self.elsewhere = elsewhere
        self._start = start
        self._peers: list[int | None] = [None] * ranks
        """By rank, whose holder keeps its copies as a guest's."""

    def ready(self) -> list[Any]:
        """Handles of living holders by rank. One that is new has what its peer kept, if there was one.

        Raises:
            ActorFailed, DeadlineExceeded: a new one does not live either.

        """
        steps = [self._own_steps(rank) for rank in range(len(self.actors))]
        gone = [rank for rank, held in enumerate(steps) if held is None]
        for rank in gone:
            self.actors[rank] = self._start(rank)
        for rank in gone:
            peer = self._peers[rank]
            if peer is not None and peer not in gone:
                self._take(rank, peer)
        if gone and self.elsewhere:
            self._pair()
        return [holder.handle for holder in self.there()]

    def steps(self) -> list[set[int] | None]:
        """The optimiser steps by rank of which there is a whole copy, here or there; None: nobody has any memory."""
        found: list[set[int] | None] = []
        for rank, peer in enumerate(self._peers):
            held = self._own_steps(rank)
            if held is None and peer is not None:
                held = self._guest_steps(rank, peer)
            found.append(held)
        return found

    def drop(self) -> None:
        """Let all copies go; holders that are gone hold nothing."""
        for holder in self.there():
            _asked(holder, "drop", "copies to be let go")

    def there(self) -> list[NamedActor]:
        """Those that were started."""
        return [holder for holder in self.actors if holder is not None]

    def _own_steps(self, rank: int) -> set[int] | None:
        holder = self.actors[rank]
        held = None if holder is None else _asked(holder, "held", "copies to be found")
        return None if held is None else set(held[1])

    def _guest_steps(self, rank: int, peer: int) -> set[int] | None:
        holder = self.actors[peer]
        kept = None if holder is None else _asked(holder, "guests", "copies to be found on another node", rank)
        return None if kept is None else {head.step for head in kept[1] if head.step != NOTHING}

    def _take(self, rank: int, peer: int) -> None:
        new, old = self.actors[rank], self.actors[peer]
        assert new is not None
        assert old is not None
        reference = new.handle.take.remote(old.handle, rank)
        steps = get([reference], _TAKE_SECONDS, f"copies of learner rank {rank} to come from another node", [new])[0]
        log.info("copies of learner rank %d after the optimiser steps %s came from another node", rank, steps)

    def _pair(self) -> None:
        """Let each send to one of the next node, spread over those; with one node to nobody."""
        holders = self.there()
        nodes = get([each.handle.node.remote() for each in holders], ANSWER_SECONDS, "nodes of holders", holders)
        on = {node: [rank for rank, of in enumerate(nodes) if of == node] for node in nodes}
        after = dict(zip(on, [*list(on)[1:], nodes[0]], strict=True))
        for rank, node in enumerate(nodes):
            others = on[after[node]] if len(on) > 1 else []
            peer = others[on[node].index(rank) % len(others)] if others else None
            before, self._peers[rank] = self._peers[rank], peer
            if before is not None and before != peer:
                _asked(holders[before], "release", "copies to be let go", rank)
            handle = None if peer is None else holders[peer].handle
            told = holders[rank].handle.send_to.remote(handle, rank)
            get([told], ANSWER_SECONDS, "a holder to know its peer", [holders[rank]])


def _asked(holder: NamedActor, method: str, what: str, *arguments: Any) -> Any:
    """What a holder answers; None where it is gone."""
    try:
        return get([getattr(holder.handle, method).remote(*arguments)], ANSWER_SECONDS, what, [holder])[0]
    except (ActorFailed, DeadlineExceeded):
        log.info("%s is gone", holder.name, exc_info=True)
        return None
