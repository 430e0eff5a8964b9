"""RewardBench (arXiv 2403.13787): 23 subsets in four sections."""

from __future__ import annotations

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
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

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
_SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, ``chosen``, ``rejected``, ``subset`` and ``id``."""
    comparisons = []
    for row in read(
        "reward_bench", location, [("prompt", "chosen", "rejected", "subset")], "allenai/reward-bench", ["filtered"]
    ):
        subset = text_field(row.fields, "subset", row.place)
        if subset not in _SECTION_OF and subset not in PRIOR_SETS:
            raise DataError(f"{row.place}, field 'subset': {subset!r} is no subset of RewardBench")
        item = str(row.fields.get("id", row.number))
        pair = PreferencePair(
            id=f"{subset}/{item}",
            source="reward_bench",
            domain=subset,
            prompt=(Message("user", text_field(row.fields, "prompt", row.place)),),
            chosen=text_field(row.fields, "chosen", row.place),
            rejected=text_field(row.fields, "rejected", row.place),
        )
        comparisons.append(Comparison(pair, subset, item, _SECTION_OF.get(subset, "Prior Sets")))
    return comparisons


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are subsets, units examples."""
    unknown = {row.subset for row in rows} - {*_SECTION_OF, *PRIOR_SETS}
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
