"""The handle to all learner ranks: cuts a mini-batch, sends each rank its part, waits with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from actors.deadlines import NamedActor
from actors.learner.lasting import LastingRanks, Revival
from actors.learner.planning import pack_prompts, plan
from actors.learner.settings import OptimizerSettings, PolicySettings
from actors.messages import MemoryUse, TrainingSequence, WeightUpdate
from actors.turns import Together

# Calls that need nothing on the ranks' devices.
_ANY_TIME = ("finish_saving", "processes", "leave_device", "take_device")


class LearnerGroup:
    """Ray actors of :class:`actors.learner.actor.Learner`, one per rank, used as one.

    With a :class:`~actors.learner.lasting.Revival` a rank's death ends no call, but for those that load.
    """

    def __init__(
        self,
        actors: Sequence[NamedActor],
        micro_batch_tokens: int,
        timeout: float,
        packing: bool,
        revival: Revival | None = None,
        turns: Together | None = None,
    ) -> None:
        """``turns``: with engines on the same devices; None: the devices are the ranks' own."""
        self.ranks = LastingRanks(actors, timeout, revival)
        self._packing = packing
        self._micro_batch_tokens = micro_batch_tokens
        self._added = (0, 0)
        """Completion tokens and traces whose gradients the ranks hold."""
        self._turns = turns or Together()
        self._turns.attach(learners=self)

    @property
    def actors(self) -> list[NamedActor]:
        """In the order of their ranks."""
        return self.ranks.actors

    def _all(self, method: str, *arguments: Any, what: str) -> list[Any]:
        """Call every rank with the same arguments and wait for all answers."""
        with nullcontext() if method in _ANY_TIME else self._turns.learners():
            return self.ranks.call(method, [arguments] * len(self.actors), what)

    def join(self, start: float, rendezvous: float) -> None:
        """Let the ranks meet: ``start`` seconds for all of them to be there, ``rendezvous`` for them to connect."""
        self.ranks.join(start, rendezvous)

    def load(self, model: str, reference_path: str | None, optimizer: OptimizerSettings, seconds: float) -> int:
        """Load the policy, and the frozen reference where one is given, on every rank; returns the parameters."""
        self._added = (0, 0)  # Gradients go with what was loaded before.
        with self._turns.learners():
            return self.ranks.load(model, reference_path, optimizer, seconds=seconds)[0]

    def _cut(self, sequences: Sequence[TrainingSequence]) -> tuple[list[list[list[int]]], list[Any], int]:
        """Indices by rank and micro-batch, the sequences cut likewise, and the completion tokens of all."""
        if not sequences:
            raise ValueError("a mini-batch needs at least one sequence: there is nothing to divide its loss by")
        if self._packing:
            indices = pack_prompts(sequences, len(self.actors), self._micro_batch_tokens)
        else:
            lengths = [len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in sequences]
            indices = plan(lengths, len(self.actors), self._micro_batch_tokens)
        parts = [[[sequences[index] for index in micro] for micro in rank] for rank in indices]
        return indices, parts, sum(len(sequence.completion_ids) for sequence in sequences)

    def supervised_step(self, sequences: Sequence[TrainingSequence]) -> dict[str, float]:
        """One optimiser step on the chains' cross-entropy; metrics are of all ranks together."""
        return self.start_supervised_step(sequences)()

    def start_supervised_step(self, sequences: Sequence[TrainingSequence]) -> Callable[[], dict[str, float]]:
        """Give the ranks a step and return at once; what is returned waits for the step and gives its metrics.

        Ranks take their calls in order, so a step that was started before a checkpoint or a publication is part of it.
        """
        _, parts, tokens = self._cut(sequences)
        arguments = [(part, tokens) for part in parts]
        with self._turns.learners():  # Ranks leave their devices in order as well: after the step.
            call = self.ranks.work("supervised_step", arguments, "a supervised step", ends_step=True)
        return lambda: self.ranks.answers(call)[0]

    @property
    def full_round(self) -> int:
        """Tokens that fill one micro-batch of every rank: to work on fewer at a time takes longer for all together."""
        return len(self.actors) * self._micro_batch_tokens

    def add_policy_gradients(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> None:
        """Compute the gradients of some of a mini-batch's traces; :meth:`policy_step` takes the others and steps."""
        _, parts, tokens = self._cut(sequences)
        arguments = [(part, settings) for part in parts]
        what = "gradients of some traces"
        with self._turns.learners():
            self.ranks.answers(self.ranks.work("add_policy_gradients", arguments, what, ends_step=False))
        self._added = (self._added[0] + tokens, self._added[1] + len(sequences))

    def policy_step(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> dict[str, float]:
        """One optimiser step on a mini-batch of traces, those whose gradients were added before included.

        ``sequences`` may be empty where there are such. Metrics are of all traces and of all ranks.
        """
        tokens, count = self._added
        parts: list[Any] = [[[]]] * len(self.actors)
        if sequences or not count:
            _, parts, more = self._cut(sequences)
            tokens, count = tokens + more, count + len(sequences)
        arguments = [(part, settings, tokens, count) for part in parts]
        with self._turns.learners():
            metrics = self.ranks.answers(self.ranks.work("policy_step", arguments, "a policy step", ends_step=True))[0]
        self._added = (0, 0)
        return metrics

    def logprobs(self, sequences: Sequence[TrainingSequence], temperature: float = 1.0) -> list[np.ndarray]:
        """Log-probabilities ([L] float32) of every completion under the current weights, in order."""
        return self._of_completions("logprobs", sequences, temperature, what="log-probabilities")

    def kl_to_reference(
        self, sequences: Sequence[TrainingSequence], estimator: str, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """KL of the engine's policy to the reference at every completion token ([L] float32), in order."""
        return self._of_completions("kl_to_reference", sequences, estimator, temperature, what="KL to the reference")

    def _of_completions(
        self, method: str, sequences: Sequence[TrainingSequence], *arguments: Any, what: str
    ) -> list[np.ndarray]:
        """One array per sequence, from the rank that had it, in the order of ``sequences``."""
        indices, parts, _ = self._cut(sequences)
        with self._turns.learners():
            answers = self.ranks.call(method, [(part, *arguments) for part in parts], what)
        found: dict[int, np.ndarray] = {}
        for rank, answer in zip(indices, answers, strict=True):
            for micro, arrays in zip(rank, answer, strict=True):
                found.update(zip(micro, arrays, strict=True))
        return [found[index] for index in range(len(sequences))]

    def publish(self, version: int, directory: str | None, dtype: str) -> WeightUpdate:
        """Gather the weights in ``dtype`` and write them, or hold them to be sent; the answer says what they are."""
        return self._all("publish", version, directory, dtype, what=f"weight version {version} to be gathered")[0]

    def start_broadcast(self, version: int, dtype: str) -> list[tuple[Any, NamedActor]]:
        """Let the ranks gather the weights in ``dtype`` while rank 0 sends them to the members of its channel.

        Returns at once, with references of their answers and whose those are; rank 0's is a
        :class:`~actors.messages.WeightUpdate`. It holds the weights then, also where sending failed.
        """
        arguments = [(version, None, dtype, True)] * len(self.actors)
        call = self.ranks.started("publish", arguments, f"weight version {version} to be gathered and sent")
        return list(zip(call.references, call.actors, strict=True))

    def leave_device(self) -> list[MemoryUse]:
        """Let every rank move what it keeps into the machine's memory."""
        return self._all("leave_device", what="learner ranks to leave their devices")

    def take_device(self) -> None:
        """Let every rank move it back."""
        self._all("take_device", what="learner ranks to take their devices")

    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        """Write a checkpoint; it has its name only when it is whole.

        ``in_background``: return when the ranks have a copy of what is to be written; the next checkpoint waits for it.
        """
        self._all("save", directory, state, in_background, what=f"checkpoint {directory} to be written")

    def came_back(self) -> bool:
        """Whether ranks had died, which nobody had missed yet, and others are in the places of all of them.

        Raises:
            ActorFailed: they died, and cannot come back.

        """
        before = self.actors
        self._all("processes", what="learner ranks to say that they live")
        return self.actors is not before

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written, if one is, is whole."""
        self._all("finish_saving", what="a checkpoint to be written to its end")

    def restore(self, directory: str) -> dict[str, Any]:
        """Continue every rank from a checkpoint; returns the stage's state."""
        with self._turns.learners():
            return self.ranks.restore(directory)[0]

    def export(self, directory: str) -> None:
        """Write the model in Hugging Face format."""
        self._all("export", directory, what=f"the model to be exported to {directory}")
