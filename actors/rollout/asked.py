"""What one call for traces asked its engines for and has not got yet. Knows no engines.

Every sample of every prompt ends exactly once, as a trace or as a failure, whatever happens to the engines meanwhile:
what a stream that broke off still owed is asked of another, and a request that failed is asked for once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from actors.failures import answer_to
from actors.messages import Added, GenerationFailure, Prompt, Trace

Sample = tuple[str, int]
"""Uid of a prompt, and the number of one of its samples."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prompt, and which of its samples are wanted."""

    prompt: Prompt
    samples: tuple[int, ...]


@dataclass(slots=True)
class Asked:
    """Streams by number, each with what it still owes."""

    _owed: dict[int, Counter[Sample]] = field(default_factory=dict)
    _prompts: dict[str, Prompt] = field(default_factory=dict)
    _failed: Counter[Sample] = field(default_factory=Counter)

    def give(self, stream: int, wanted: Sequence[Wanted]) -> None:
        """A stream is asked for these."""
        self._prompts |= {item.prompt.uid: item.prompt for item in wanted}
        self._owed[stream] = Counter((item.prompt.uid, sample) for item in wanted for sample in item.samples)

    def owes(self, stream: int) -> int:
        """Traces that a stream owes."""
        return self._owed[stream].total()

    def arrived(
        self, stream: int, items: Iterable[Added | Trace | GenerationFailure], once: bool = False
    ) -> tuple[list[Added | Trace | GenerationFailure], list[Wanted]]:
        """Those of a stream's items that are final, and what is to be asked for again in the place of the others.

        ``once``: nothing is, since a reader has seen what was written so far.
        """
        final: list[Added | Trace | GenerationFailure] = []
        again: list[Sample] = []
        for item in items:
            if isinstance(item, Added):
                final.append(item)
                continue
            sample = (item.prompt_uid, item.sample)
            self._owed[stream][sample] -= 1
            if isinstance(item, GenerationFailure):
                self._failed[sample] += 1
                if not once and answer_to(item.kind, self._failed[sample]) == "ask again":
                    again.append(sample)
                    continue
            final.append(item)
        return final, self._grouped(again)

    def ended(self, stream: int) -> list[Wanted]:
        """A stream ended; what it still owed."""
        return self._grouped((+self._owed.pop(stream)).elements())

    def _grouped(self, samples: Iterable[Sample]) -> list[Wanted]:
        by_prompt: dict[str, list[int]] = {}
        for uid, sample in samples:
            by_prompt.setdefault(uid, []).append(sample)
        return [Wanted(self._prompts[uid], tuple(sorted(numbers))) for uid, numbers in by_prompt.items()]


def set_aside(wanted: Wanted, deaths: int) -> list[GenerationFailure]:
    """Failures in the place of the samples of a prompt during which engines died too often."""
    detail = f"engines died {deaths} times while they answered it, the last times with no other suspect beside it"
    return [GenerationFailure(wanted.prompt.uid, sample, "kills_engines", detail, "data") for sample in wanted.samples]
