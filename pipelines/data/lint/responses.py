"""The responses: length and style bias, missing ends, turns out of order, and the figures of every source."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pipelines.data.lint.findings import Finding
from pipelines.data.schema import PreferencePair

_MARKDOWN = re.compile(r"^#{1,6} |^\s*[-*] |^\s*\d+\. |\*\*|```|`[^`\n]+`|^\|", re.MULTILINE)
_ENDS = re.compile(r"""[.!?…:;。！？)\]}>"'”’`*_|$%\d]\s*$""")
_ENOUGH = 50


@dataclass(frozen=True, slots=True)
class Wins:
    """How often the better response is the one with more of something, where the two differ."""

    accuracy: float | None
    """None where they never differ."""
    pairs: int
    """That differ."""

    @classmethod
    def of(cls, pairs: Sequence[PreferencePair], amount: Callable[[str], int]) -> Wins:
        """Count wins of the larger ``amount``."""
        differences = [amount(pair.chosen) - amount(pair.rejected) for pair in pairs]
        decided = [difference > 0 for difference in differences if difference]
        return cls(fmean(decided) if decided else None, len(decided))

    def is_biased(self, margin: float) -> bool:
        """Further than ``margin`` from one half, and not by chance (3 standard deviations, 50 pairs)."""
        if self.accuracy is None or self.pairs < _ENOUGH:
            return False
        distance = abs(self.accuracy - 0.5)
        return distance > margin and distance > 1.5 / math.sqrt(self.pairs)


def word_count(text: str) -> int:
    """Words, split at white space."""
    return len(text.split())


def markdown_marks(text: str) -> int:
    """Headings, list items, bold, code, tables."""
    return len(_MARKDOWN.findall(text))


def is_truncated(text: str) -> bool:
    """Whether a response stops without an end: an open code block, or a last line that ends in a plain word."""
    return text.count("```") % 2 == 1 or (word_count(text) > 20 and not _ENDS.search(text))


def by_source(pairs: Sequence[PreferencePair]) -> dict[str, list[PreferencePair]]:
    """Pairs whose responses can be read, by source."""
    groups: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        if not pair.ready_made:
            groups[pair.source].append(pair)
    return dict(sorted(groups.items()))


def bias(check: str, what: str, pairs: Sequence[PreferencePair], amount: Callable[[str], int], margin: float) -> Finding:
    """``what`` wins: overall and by source. A source with swapped labels is on the other side of one half."""
    groups = by_source(pairs)
    if not groups:
        return Finding(check, None, "prompts came ready made: responses are not known apart")
    overall = Wins.of([pair for group in groups.values() for pair in group], amount)
    sources = {name: Wins.of(group, amount) for name, group in groups.items()}
    biased = [name for name, wins in sources.items() if wins.is_biased(margin)]
    if overall.accuracy is None:
        return Finding(check, None, "no pair has one response with more of it than the other")
    summary = f'"{what} wins" is right in {100 * overall.accuracy:.1f}% of {overall.pairs} pairs that differ'
    if biased:
        summary += "; " + ", ".join(f"{name} {100 * (sources[name].accuracy or 0):.1f}%" for name in biased)
    numbers = {
        "accuracy": overall.accuracy,
        "pairs": overall.pairs,
        "by_source": {name: wins.accuracy for name, wins in sources.items()},
    }
    return Finding(check, not biased and not overall.is_biased(margin), summary, numbers)


def truncated(pairs: Sequence[PreferencePair], most: float) -> Finding:
    """Responses without an end: too many overall, or clearly more on one side."""
    readable = [pair for group in by_source(pairs).values() for pair in group]
    if not readable:
        return Finding("truncated", None, "prompts came ready made: responses are not known apart")
    chosen = [is_truncated(pair.chosen) for pair in readable]
    rejected = [is_truncated(pair.rejected) for pair in readable]
    shares = fmean(chosen), fmean(rejected)
    difference = abs(shares[0] - shares[1])
    uneven = difference > 0.05 and difference > 3 * math.sqrt(fmean(shares) / len(readable))
    open_ended = [pair.id for pair, *ends in zip(readable, chosen, rejected, strict=True) if any(ends)]
    return Finding(
        "truncated",
        fmean(shares) <= most and not uneven,
        f"{100 * shares[0]:.1f}% of better and {100 * shares[1]:.1f}% of worse responses have no end",
        {"chosen": shares[0], "rejected": shares[1]},
        tuple(open_ended[:5]),
    )


def roles(pairs: Sequence[PreferencePair]) -> Finding:
    """Conversations in which user and assistant do not take turns, or a system message is not the first."""
    wrong = [pair.id for pair in pairs if not _takes_turns([message.role for message in pair.prompt])]
    return Finding(
        "roles", not wrong, f"{len(wrong)} prompts whose turns do not alternate", {"pairs": len(wrong)}, tuple(wrong[:5])
    )


def _takes_turns(names: Sequence[str]) -> bool:
    names = names[1:] if names[:1] == ["system"] else names
    return all(name == ("user", "assistant")[index % 2] for index, name in enumerate(names))


def source_table(pairs: Sequence[PreferencePair], firsts: Mapping[str, float], agreement: Mapping[str, float]) -> list[dict]:
    """One row a source: how many pairs, and the figures in which swapped labels or a bias show."""
    groups: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.source].append(pair)
    rows = []
    for name, group in sorted(groups.items()):
        readable = [pair for pair in group if not pair.ready_made]
        rows.append(
            {
                "source": name,
                "pairs": len(group),
                "first": firsts.get(name),
                "longer_wins": Wins.of(readable, word_count).accuracy,
                "markdown_wins": Wins.of(readable, markdown_marks).accuracy,
                "agreement": agreement.get(name),
                "words_chosen": fmean(word_count(pair.chosen) for pair in readable) if readable else None,
                "words_rejected": fmean(word_count(pair.rejected) for pair in readable) if readable else None,
                "truncated": fmean(is_truncated(text) for pair in readable for text in (pair.chosen, pair.rejected))
                if readable
                else None,
            }
        )
    return rows
