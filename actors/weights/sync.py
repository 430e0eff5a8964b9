"""How new weights get from the learners to the engines: gathered by all ranks, then sent by the first."""

from __future__ import annotations

from contextlib import suppress

from actors.deadlines import ANSWER_SECONDS, ActorFailed, DeadlineExceeded, get
from actors.learner.group import LearnerGroup
from actors.messages import ChannelTerms
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
        *,
        bucket_bytes: int,
        rendezvous_timeout: float,
    ) -> None:
        """``dtype`` is what engines keep weights in, ``processes`` how many an engine has (its tensor parallelism).

        The last two are of the network: see :class:`~actors.messages.ChannelTerms`.
        """
        self._learners = learners
        self._fleet = fleet
        self._directory = directory
        self._dtype = dtype
        self._processes = processes
        self._timeout = timeout
        self._bucket_bytes = bucket_bytes
        self._rendezvous_timeout = rendezvous_timeout
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
        sending = [(sender.handle.send.remote(), sender)] if update.path is None else []
        try:
            return self._fleet.update_weights(update, sending)
        finally:
            if update.path is not None:
                # By its writer, whose node the driver may not be on; after an error that one may be gone as well.
                with suppress(DeadlineExceeded, ActorFailed):
                    removing = [sender.handle.remove_written.remote(update.path)]
                    get(removing, ANSWER_SECONDS, f"{update.path} to be removed", [sender])

    def _connect(self) -> None:
        sender, workers = self._learners.actors[0], self._fleet.workers
        opening = [sender.handle.open_channel.remote()]
        [(address, port)] = get(opening, self._timeout, "a weight channel to open", [sender])
        size, seconds = 1 + len(workers) * self._processes, self._rendezvous_timeout
        terms = ChannelTerms(address, port, size, self._bucket_bytes, seconds, self._timeout)
        joining = [sender.handle.join_channel.remote(terms)]
        for index, worker in enumerate(workers):
            joining.append(worker.handle.join_channel.remote(terms, 1 + index * self._processes))
        what = f"learners and engines to meet for weights at {address}:{port}"
        get(joining, seconds + ANSWER_SECONDS, what, [sender, *workers])
        self._connected = True
