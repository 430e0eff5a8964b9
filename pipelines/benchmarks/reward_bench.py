"""RewardBench (arXiv 2403.13787): 23 subsets in four sections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    mean_of,
    observed_means,
    weighted,
)
from pipelines.benchmarks.published import rm_r1_paper
from pipelines.benchmarks.rows import read
from pipelines.data.schema import DataError, PreferencePair, conversation_of, text_field
from pipelines.data.sources.messages import split_conversations

# Weights are the numbers of examples, but for math-prm: 447 examples weigh as much as all code subsets together.
SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        **{f"hep-{language}": 164 for language in ("cpp", "go", "java", "js", "python", "rust")},
    },
}
PRIOR_SETS = {"anthropic_helpful": 6192, "anthropic_hhh": 221, "shp": 1741, "summarize": 9000}
"""The preference sets of the first tables (hub: allenai/preference-test-sets): a section of its own when judged, and
part of no average, as in current tables."""
_OTHER = "other/"
_SHARD = re.compile(r"-\d+-of-\d+$")
_SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, ``chosen``, ``rejected`` (texts, or messages), and in most files ``subset`` and ``id``.

    A row without ``subset`` belongs to the set its file or split is named after. Where that is none of RewardBench's,
    it is ``other/<name>``, a section of its own outside the averages, as the other splits of the prior sets are.
    """
    comparisons = []
    for row in read("reward_bench", location, [("prompt", "chosen", "rejected")], "allenai/reward-bench", ["filtered"]):
        stated = row.fields.get("subset") is not None
        subset = text_field(row.fields, "subset", row.place) if stated else _SHARD.sub("", row.stem)
        if not stated and not _is_known(subset):
            subset = f"{_OTHER}{subset}"
        if not _is_known(subset):
            raise DataError(f"{row.place}, field 'subset': {subset!r} is no subset of RewardBench")
        item = row.identifier("id")
        fields = dict(row.fields)
        if isinstance(fields["chosen"], list):
            names = ("prompt", "chosen", "rejected")
            fields |= zip(names, split_conversations({name: fields[name] for name in names}, row.place), strict=True)
        pair = PreferencePair(
            id=f"{subset}/{item}",
            source="reward_bench",
            domain=subset,
            prompt=conversation_of(fields["prompt"], row.place),
            chosen=text_field(fields, "chosen", row.place),
            rejected=text_field(fields, "rejected", row.place),
        )
        section = subset if subset.startswith(_OTHER) else _SECTION_OF.get(subset, "Prior Sets")
        comparisons.append(Comparison(pair, subset, item, section))
    return comparisons


def _is_known(subset: str) -> bool:
    return subset in _SECTION_OF or subset in PRIOR_SETS or subset.startswith(_OTHER)


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are subsets, units examples."""
    unknown = {row.subset for row in rows if not _is_known(row.subset)}
    if unknown:
        raise DataError(f"RewardBench has no subset {', '.join(sorted(map(repr, unknown)))}")
    return observed_means(rows, lambda row: row.subset)


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``sections`` (weighted means of subsets), ``average`` (plain mean of sections), ``micro`` (right of all)."""
    sections = {
        section: weighted({name: means[name] for name in subsets if name in means}, subsets)
        for section, subsets in SECTIONS.items()
    }
    present = {section: value for section, value in sections.items() if value is not None}
    core = {name: value for name, value in means.items() if name in _SECTION_OF}
    figures: Figures = {"sections": dict(present), "average": mean_of(present.values()), "micro": weighted(core, sizes)}
    prior = {name: value for name, value in means.items() if name in PRIOR_SETS}
    if prior:
        figures["sections"]["Prior Sets"] = mean_of([np.asarray(value)[..., 0] for value in prior.values()])
    figures["sections"] |= {name: np.asarray(value)[..., 0] for name, value in means.items() if name.startswith(_OTHER)}
    return figures


BENCHMARK = Benchmark(
    "reward_bench",
    "RewardBench",
    load,
    observe,
    combine,
    items=2985,
    published=rm_r1_paper(
        {
            "sections.Chat": (94.1, 93.6, 95.3, 88.9, 91.3, 95.3),
            "sections.Chat Hard": (74.6, 80.5, 83.1, 66.2, 79.4, 80.3),
            "sections.Safety": (85.2, 86.9, 91.9, 78.4, 89.3, 91.1),
            "sections.Reasoning": (86.7, 92.0, 95.2, 87.0, 95.5, 96.8),
            "average": (85.2, 88.2, 91.4, 80.1, 88.9, 90.9),
        }
    ),
)
