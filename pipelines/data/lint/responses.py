"""The responses: length and style bias, missing ends, turns out of order, and the figures of every source."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.data.lint.findings import Finding
from pipelines.data.schema import PreferencePair

_MARKDOWN = re.compile(r"^#{1,6} |^[^\S\n]*[-*] |^[^\S\n]*\d+\. |\*\*|```|`[^`\n]+`|^\|", re.MULTILINE)
_ENDS = re.compile(r"""[.!?…:;。！？)\]}>"'”’`*_|$%\d]\s*$""")
_ENOUGH = 50


def word_count(text: str) -> int:
    """Words, split at white space."""
    return len(text.split())


def markdown_marks(text: str) -> int:
    """Headings, list items, bold, code, tables."""
    return len(_MARKDOWN.findall(text))


def is_truncated(text: str) -> bool:
    """Whether a response stops without an end: an open code block, or a last line that ends in a plain word."""
    return text.count("```") % 2 == 1 or (not _ENDS.search(text[-20:]) and word_count(text) > 20)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted in a pair's responses, the better one first."""

    pair: PreferencePair
    words: tuple[int, int]
    markdown: tuple[int, int]
    truncated: tuple[bool, bool]

    @classmethod
    def of(cls, pair: PreferencePair) -> Figures:
        """Count once what several checks use."""
        texts = pair.chosen, pair.rejected
        return cls(
            pair,
            (word_count(texts[0]), word_count(texts[1])),
            (markdown_marks(texts[0]), markdown_marks(texts[1])),
            (is_truncated(texts[0]), is_truncated(texts[1])),
        )


BySource = Mapping[str, Sequence[Figures]]


def figures_by_source(pairs: Sequence[PreferencePair]) -> dict[str, list[Figures]]:
    """Figures of the pairs whose responses can be read, by source."""
    groups: dict[str, list[Figures]] = defaultdict(list)
    for pair in pairs:
        if not pair.ready_made:
            groups[pair.source].append(Figures.of(pair))
    return dict(sorted(groups.items()))


@dataclass(frozen=True, slots=True)
class Wins:
    """How often the better response is the one with more of something, where the two differ."""

    accuracy: float | None
    """None where they never differ."""
    pairs: int
    """That differ."""

    @classmethod
    def of(cls, amounts: Sequence[tuple[int, int]]) -> Wins:
        """Count wins of the larger amount; the better response's stands first."""
        decided = [better > worse for better, worse in amounts if better != worse]
        return cls(fmean(decided) if decided else None, len(decided))

    def is_biased(self, margin: float) -> bool:
        """Further than ``margin`` from one half, and not by chance (3 standard deviations, 50 pairs)."""
        if self.accuracy is None or self.pairs < _ENOUGH:
            return False
        distance = abs(self.accuracy - 0.5)
        return distance > margin and distance > 1.5 / math.sqrt(self.pairs)


def length_bias(groups: BySource, margin: float) -> Finding:
    """ "Longer wins", by words."""
    amounts = {source: [item.words for item in group] for source, group in groups.items()}
    return _bias("length_bias", "longer", amounts, margin)


def markdown_bias(groups: BySource, margin: float) -> Finding:
    """ "More markdown wins", by marks."""
    amounts = {source: [item.markdown for item in group] for source, group in groups.items()}
    return _bias("markdown_bias", "more markdown", amounts, margin)


def _bias(check: str, what: str, amounts: Mapping[str, Sequence[tuple[int, int]]], margin: float) -> Finding:
    if not amounts:
        return Finding(check, None, "prompts came ready made: responses are not known apart")
    overall = Wins.of([amount for group in amounts.values() for amount in group])
    sources = {name: Wins.of(group) for name, group in amounts.items()}
    if overall.accuracy is None:
        return Finding(check, None, "no pair has one response with more of it than the other")
    biased = [name for name, wins in sources.items() if wins.is_biased(margin)]
    summary = f'"{what} wins" is right in {100 * overall.accuracy:.1f}% of {overall.pairs} pairs that differ'
    if biased:
        summary += "; " + ", ".join(f"{name} {100 * (sources[name].accuracy or 0):.1f}%" for name in biased)
    numbers = {
        "accuracy": overall.accuracy,
        "pairs": overall.pairs,
        "by_source": {name: wins.accuracy for name, wins in sources.items()},
    }
    return Finding(check, not biased and not overall.is_biased(margin), summary, numbers)


def truncated(groups: BySource, most: float) -> Finding:
    """Responses without an end: too many overall, or clearly more on one side."""
    items = [item for group in groups.values() for item in group]
    if not items:
        return Finding("truncated", None, "prompts came ready made: responses are not known apart")
    shares = [fmean(item.truncated[side] for item in items) for side in (0, 1)]
    difference = abs(shares[0] - shares[1])
    uneven = difference > 0.05 and difference > 3 * math.sqrt(fmean(shares) / len(items))
    return Finding(
        "truncated",
        fmean(shares) <= most and not uneven,
        f"{100 * shares[0]:.1f}% of better and {100 * shares[1]:.1f}% of worse responses have no end",
        {"chosen": shares[0], "rejected": shares[1]},
        tuple(item.pair.id for item in items if any(item.truncated))[:5],
    )


def roles(pairs: Sequence[PreferencePair]) -> Finding:
    """Conversations in which user and assistant do not take turns, or a system message is not the first."""
    wrong = [pair.id for pair in pairs if not _takes_turns([message.role for message in pair.prompt])]
    return Finding(
        "roles",
        not wrong,
        f"{len(wrong)} prompts whose turns do not alternate",
        {"pairs": len(wrong)},
        tuple(wrong[:5]),
    )


def _takes_turns(names: Sequence[str]) -> bool:
    names = names[1:] if names[:1] == ["system"] else names
    return all(name == ("user", "assistant")[index % 2] for index, name in enumerate(names))


def source_table(
    pairs: Sequence[PreferencePair],
    groups: BySource,
    firsts: Mapping[str, float],
    agreement: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row per source: how many pairs, and the figures in which swapped labels or a bias show."""
    counts: dict[str, int] = defaultdict(int)
    for pair in pairs:
        counts[pair.source] += 1
    rows = []
    for name, count in sorted(counts.items()):
        items = groups.get(name, ())
        rows.append(
            {
                "source": name,
                "pairs": count,
                "first": firsts.get(name),
                "longer_wins": Wins.of([item.words for item in items]).accuracy,
                "markdown_wins": Wins.of([item.markdown for item in items]).accuracy,
                "agreement": agreement.get(name),
                "words_chosen": fmean(item.words[0] for item in items) if items else None,
                "words_rejected": fmean(item.words[1] for item in items) if items else None,
                "truncated": fmean(fmean(item.truncated) for item in items) if items else None,
            }
        )
    return rows
