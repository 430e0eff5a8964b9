"""The handle to all learner ranks: cuts a mini-batch, sends each rank its part, waits with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.deadlines import ANSWER_SECONDS, NamedActor, get
from actors.learner.planning import pack_prompts, plan
from actors.learner.settings import OptimizerSettings, PolicySettings
from actors.messages import TrainingSequence, WeightUpdate


class LearnerGroup:
    """Ray actors of :class:`actors.learner.actor.Learner`, one per rank, used as one."""

    def __init__(self, actors: Sequence[NamedActor], micro_batch_tokens: int, timeout: float, packing: bool) -> None:
        self.actors = list(actors)
        """In the order of their ranks."""
        self._packing = packing
        self._micro_batch_tokens = micro_batch_tokens
        self._timeout = timeout
        self._added = (0, 0)
        """Completion tokens and traces whose gradients the ranks hold."""

    def _all(self, method: str, *arguments: Any, what: str, seconds: float | None = None) -> list[Any]:
        """Call every rank with the same arguments and wait for all answers."""
        return self._each(method, [arguments] * len(self.actors), what, seconds)

    def _each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], what: str, seconds: float | None = None
    ) -> list[Any]:
        return get(self._start(method, arguments), seconds or self._timeout, what, self.actors)

    def _start(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [getattr(each.handle, method).remote(*mine) for each, mine in zip(self.actors, arguments, strict=True)]

    def join(self, start: float, rendezvous: float) -> None:
        """Let the ranks meet: ``start`` seconds for all of them to be there, ``rendezvous`` for them to connect."""
        address, port = self._all("rendezvous", what="learners to start", seconds=start)[0]
        what = f"learner ranks to meet at {address}:{port}"
        self._all("join", address, port, what=what, seconds=rendezvous + ANSWER_SECONDS)

    def load(self, model: str, reference_path: str | None, optimizer: OptimizerSettings, seconds: float) -> int:
        """Load the policy, and the frozen reference where one is given, on every rank; returns the parameters."""
        what = f"learner ranks to load {model}"
        self._added = (0, 0)  # Gradients go with what was loaded before.
        return self._all("load", model, reference_path, optimizer, what=what, seconds=seconds)[0]

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
        references = self._start("supervised_step", [(part, tokens) for part in parts])
        return lambda: get(references, self._timeout, "a supervised step", self.actors)[0]

    @property
    def full_round(self) -> int:
        """Tokens that fill one micro-batch of every rank: to work on fewer at a time takes longer for all together."""
        return len(self.actors) * self._micro_batch_tokens

    def add_policy_gradients(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> None:
        """Compute the gradients of some of a mini-batch's traces; :meth:`policy_step` takes the others and steps."""
        _, parts, tokens = self._cut(sequences)
        self._each("add_policy_gradients", [(part, settings) for part in parts], "gradients of some traces")
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
        metrics = self._each("policy_step", arguments, "a policy step")[0]
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
        answers = self._each(method, [(part, *arguments) for part in parts], what)
        found: dict[int, np.ndarray] = {}
        for rank, answer in zip(indices, answers, strict=True):
            for micro, arrays in zip(rank, answer, strict=True):
                found.update(zip(micro, arrays, strict=True))
        return [found[index] for index in range(len(sequences))]

    def publish(self, version: int, directory: str | None, dtype: str) -> WeightUpdate:
        """Gather the weights in ``dtype`` and write them, or hold them to be sent; the answer says what they are."""
        return self._all("publish", version, directory, dtype, what=f"weight version {version} to be gathered")[0]

    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        """Write a checkpoint; it has its name only when it is whole.

        ``in_background``: return when the ranks have a copy of what is to be written; the next checkpoint waits for it.
        """
        self._all("save", directory, state, in_background, what=f"checkpoint {directory} to be written")

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written, if one is, is whole."""
        self._all("finish_saving", what="a checkpoint to be written to its end")

    def restore(self, directory: str) -> dict[str, Any]:
        """Continue every rank from a checkpoint; returns the stage's state."""
        return self._all("restore", directory, what=f"checkpoint {directory} to be loaded")[0]

    def export(self, directory: str) -> None:
        """Write the model in Hugging Face format."""
        self._all("export", directory, what=f"the model to be exported to {directory}")
