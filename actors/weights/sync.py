"""How new weights get from the learners to the engines: gathered by all ranks, then sent by the first."""

from __future__ import annotations

from actors.deadlines import get
from actors.learner.group import LearnerGroup
from actors.rollout.fleet import RolloutFleet


class WeightSync:
    """Learners and engines, and the way between them.

    The way is a ``directory`` that both sides see, or, where that is None, the network: rank 0 of the learners and
    every process of every engine then meet in a :class:`~actors.weights.channel.WeightChannel` before the first update.
    """

    def __init__(
        self,
        learners: LearnerGroup,
        fleet: RolloutFleet,
        directory: str | None,
        dtype: str,
        processes: int,
        timeout: float,
    ) -> None:
        """``dtype`` is what engines keep weights in, ``processes`` how many an engine has (its tensor parallelism)."""
        self._learners = learners
        self._fleet = fleet
        self._directory = directory
        self._dtype = dtype
        self._processes = processes
        self._timeout = timeout
        self._connected = directory is not None

    def publish(self, version: int) -> float:
        """Give the learners' weights to every engine as ``version``; returns the longest pause of one in seconds.

        Raises:
            DeadlineExceeded, ActorFailed: naming who did not send or load them, and why.
            WeightsDiffer: an engine holds other weights than were published.

        """
        if not self._connected:
            self._connect()
        update = self._learners.publish(version, self._directory, self._dtype)
        sender = self._learners.actors[0]
        sending = [(sender.handle.send.remote(), sender)] if self._directory is None else []
        return self._fleet.update_weights(update, sending)

    def _connect(self) -> None:
        sender, workers = self._learners.actors[0], self._fleet.workers
        opening = [sender.handle.open_channel.remote()]
        [(address, port)] = get(opening, self._timeout, "a weight channel to open", [sender])
        size = 1 + len(workers) * self._processes
        joining = [sender.handle.join_channel.remote(size)]
        for index, worker in enumerate(workers):
            first_rank = 1 + index * self._processes
            joining.append(worker.handle.join_channel.remote(address, port, first_rank, size, self._timeout))
        get(joining, self._timeout, "learners and engines to meet for weights", [sender, *workers])
        self._connected = True
