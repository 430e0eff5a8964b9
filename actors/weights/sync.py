"""How new weights get from the learners to the engines: gathered by all ranks, sent by the first.

Over the network they are sent while they are gathered, bucket by bucket. A file is written when it is whole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress

from actors.deadlines import ANSWER_SECONDS, ActorFailed, DeadlineExceeded, NamedActor, get
from actors.failures import answer_to
from actors.learner.group import LearnerGroup
from actors.messages import ChannelTerms, LoadedWeights, WeightUpdate
from actors.rollout.fleet import EnginesLost, RolloutFleet
from actors.rollout.roster import WeightsDiffer, refuse_other
from actors.turns import Together

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0


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
        turns: Together | None = None,
    ) -> None:
        """``dtype`` is what engines keep weights in, ``processes`` how many an engine has (its tensor parallelism).

        ``bucket_bytes`` and ``rendezvous_timeout`` are of the network: see :class:`~actors.messages.ChannelTerms`.
        ``turns`` are those of engines and learners on the same devices.
        """
        self._turns = turns or Together()
        self._learners = learners
        self._fleet = fleet
        self._directory = directory
        self._dtype = dtype
        self._processes = processes
        self._timeout = timeout
        self._bucket_bytes = bucket_bytes
        self._rendezvous_timeout = rendezvous_timeout
        self._file: str | None = None
        """What was written last, for engines that come later."""
        self._members: list[NamedActor] = []
        """Who has met in the channel: the sender, and workers."""
        self._one_at_a_time = threading.Lock()
        if directory is None:
            fleet.roster.deliver = self._broadcast_again

    def publish(self, version: int) -> float:
        """Give the learners' weights to every engine at work as ``version``; returns the longest pause in seconds.

        Raises:
            DeadlineExceeded, ActorFailed: naming who did not send or load them, and why.
            WeightsDiffer: an engine holds other weights than were published.

        """
        with self._turns.publishing(), self._one_at_a_time:
            failures = 0
            try:
                while True:
                    try:
                        return self._publish(version)
                    except WeightsDiffer:
                        raise
                    except ActorFailed as error:
                        failures += error.kind == "request"
                        if error.kind == "request" and answer_to("request", failures) == "ask again":
                            log.warning("%s; weight version %d is published once more", error, version)
                            continue
                        # Engines miss what a learner that died was to give them: once more, from those in their place.
                        if not self._learners.came_back():
                            raise
            except BaseException:
                self._fleet.roster.end_publishing(None)
                raise

    def _publish(self, version: int) -> float:
        workers = self._fleet.roster.begin_publishing()
        if self._directory is None and workers:
            return self._broadcast(version, workers)
        update = self._learners.publish(version, self._directory, self._dtype)
        self._file = update.path
        return self._fleet.update_weights(update)

    def _broadcast(self, version: int, workers: list[NamedActor]) -> float:
        # Before anything is gathered: those who do not meet shall not have kept the learners waiting.
        self._meet(workers)
        announced = WeightUpdate(version, None, (), 0)
        try:
            return self._fleet.update_weights(announced, self._learners.start_broadcast(version, self._dtype), workers)
        except EnginesLost:
            sender = self._learners.actors[0]
            what = f"weight version {version} to be gathered to its end"
            [update] = get([sender.handle.published.remote()], self._timeout, what, [sender])
        while True:
            # A broadcast that one does not take part in fails for all: once more, without it.
            self._members = []
            try:
                return self._send(update)
            except EnginesLost:
                continue

    def _send(self, update: WeightUpdate) -> float:
        """Send what the first rank holds."""
        if not (workers := self._fleet.roster.begin_publishing()):
            return self._fleet.update_weights(update)
        self._meet(workers)
        sender = self._learners.actors[0]
        return self._fleet.update_weights(update, [(sender.handle.send.remote(), sender)], workers)

    def _meet(self, workers: Sequence[NamedActor]) -> None:
        """Let these workers, and no others, be the members of the channel."""
        if [self._learners.actors[0], *workers] != self._members:
            self._connect(workers)

    def close(self) -> None:
        """Remove the file that was written last, by its writer, whose node the driver may not be on."""
        if self._file is not None:
            sender, path, self._file = self._learners.actors[0], self._file, None
            with suppress(DeadlineExceeded, ActorFailed):  # After an error that one may be gone as well.
                get([sender.handle.remove_written.remote(path)], _CLOSE_SECONDS, f"{path} to be removed", [sender])

    def _broadcast_again(self, worker: NamedActor, update: WeightUpdate) -> LoadedWeights:
        """Give weights that were published before to one engine that has come back."""
        with self._one_at_a_time:
            # A channel of the two of them; before the next update all meet anew.
            self._connect([worker])
            sender = self._learners.actors[0]
            loading = [worker.handle.update_weights.remote(update), sender.handle.send.remote()]
            what = f"{worker.name} to load weight version {update.version}"
            held = get(loading, self._timeout, what, [worker, sender])[0]
            self._members = []
        refuse_other(worker, held, update)
        return held

    def _connect(self, workers: Sequence[NamedActor]) -> None:
        sender = self._learners.actors[0]
        opening = [sender.handle.open_channel.remote()]
        [(address, port)] = get(opening, self._timeout, "a weight channel to open", [sender])
        size, seconds = 1 + len(workers) * self._processes, self._rendezvous_timeout
        terms = ChannelTerms(address, port, size, self._bucket_bytes, seconds, self._timeout)
        joining = [sender.handle.join_channel.remote(terms)]
        for index, worker in enumerate(workers):
            joining.append(worker.handle.join_channel.remote(terms, 1 + index * self._processes))
        what = f"learners and engines to meet for weights at {address}:{port}"
        get(joining, seconds + ANSWER_SECONDS, what, [sender, *workers])
        self._members = [sender, *workers]
