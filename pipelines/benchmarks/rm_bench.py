"""RM-Bench (arXiv 2410.16184): three styles of the better response against three styles of the worse one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import Benchmark, Comparison, Figures, Matrix, Observations, Score, mean_of
from pipelines.benchmarks.published import rm_r1_paper
from pipelines.benchmarks.rows import Row, read
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

STYLES = ("concise", "detailed", "markdown")
DOMAINS = ("chat", "math", "code", "safety")
_FILES = {"safety-refuse": "safety", "safety-response": "safety", **{domain: domain for domain in DOMAINS}}
_CELLS = [(chosen, rejected) for chosen in range(3) for rejected in range(3)]


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt`` and three styles each of ``chosen`` and ``rejected``; the domain is a field or the file."""
    comparisons = []
    for row in read("rm_bench", location, [("prompt", "chosen", "rejected")], "THU-KEG/RM-Bench", ["train"]):
        name = str(row.fields.get("domain") or row.stem)
        if name not in _FILES:
            raise DataError(
                f"{row.place}: {name!r} is no domain of RM-Bench ({', '.join(_FILES)}); name it in 'domain'"
            )
        item = row.identifier("id")
        item = item if item.startswith(f"{name}/") else f"{name}/{item}"
        prompt = (Message("user", text_field(row.fields, "prompt", row.place)),)
        chosen, rejected = _styles(row, "chosen"), _styles(row, "rejected")
        for first, second in _CELLS:
            comparisons.append(
                Comparison(
                    pair=PreferencePair(
                        f"{item}/{first}{second}", "rm_bench", _FILES[name], prompt, chosen[first], rejected[second]
                    ),
                    subset=_FILES[name],
                    item=item,
                    category=name,
                    chosen_style=first,
                    rejected_style=second,
                )
            )
    return comparisons


def _styles(row: Row, field: str) -> list[str]:
    texts = row.fields[field]
    if not isinstance(texts, list) or len(texts) != 3:
        raise DataError(f"{row.place}, field {field!r}: must be a list of three texts, one per style")
    return [text_field({field: text}, field, row.place) for text in texts]


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are domains, both safety files in one; a unit is a prompt, its quantities the nine cells row by row."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row.subset not in _FILES:
            raise DataError(f"RM-Bench has no domain {row.subset!r}: {', '.join(DOMAINS)}")
        if row.chosen_style not in (0, 1, 2) or row.rejected_style not in (0, 1, 2):
            raise DataError(
                f"RM-Bench item {row.item!r}: chosen_style {row.chosen_style!r} and rejected_style "
                f"{row.rejected_style!r} must be 0, 1 or 2"
            )
        unit = found.setdefault(_FILES[row.subset], {}).setdefault(row.item, np.zeros((9, 2)))
        unit[3 * row.chosen_style + row.rejected_style] += (row.score, 1.0)
    for domain, units in found.items():
        counts = sum(units.values(), start=np.zeros((9, 2)))[:, 1]
        for (chosen, rejected), count in zip(_CELLS, counts, strict=True):
            if not count:
                raise DataError(
                    f"RM-Bench, domain {domain!r}: no comparison of chosen style {chosen} ({STYLES[chosen]}) with "
                    f"rejected style {rejected} ({STYLES[rejected]}), so its matrix has a hole"
                )
    return found


def difficulties(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Easy, normal and hard, each ``[...]``, of a matrix ``[..., 9]``: below, on and above the diagonal."""
    cell = {place: cells[..., index] for index, place in enumerate(_CELLS)}
    easy = (cell[1, 0] + cell[2, 0] + cell[2, 1]) / 3
    normal = (cell[0, 0] + cell[1, 1] + cell[2, 2]) / 3
    hard = (cell[0, 1] + cell[0, 2] + cell[1, 2]) / 3
    return easy, normal, hard


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``domains`` (mean of the three difficulties), difficulties as plain means over domains, and ``average``."""
    parts = {domain: difficulties(means[domain]) for domain in DOMAINS if domain in means}
    domains = {domain: sum(part[1:], start=part[0]) / 3 for domain, part in parts.items()}
    easy, normal, hard = (mean_of([part[index] for part in parts.values()]) for index in range(3))
    return {
        "domains": domains,
        "easy": easy,
        "normal": normal,
        "hard": hard,
        "average": mean_of(domains.values()),
    }


def combine_as_published(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """The same by the evaluation released with RM-R1.

    Its last step reads the third pass (chosen i against rejected i + 2 mod 3) where it means the second (i + 1), too.
    """
    read = [_CELLS.index((i, (i + 2) % 3 if j == (i + 1) % 3 else j)) for i, j in _CELLS]
    return combine({domain: cells[..., read] for domain, cells in means.items()}, sizes)


def style_figures(official: Figures) -> Figures:
    """What style costs: how much less often a judge is right where the worse response looks better."""
    return {"hard_minus_easy": official["hard"] - official["easy"]}


BENCHMARK = Benchmark(
    "rm_bench",
    "RM-Bench",
    load,
    observe,
    combine,
    items=1327,
    published=rm_r1_paper(
        {
            "domains.chat": (66.6, 75.6, 75.3, 64.0, 71.8, 74.2),
            "domains.math": (67.0, 75.4, 80.2, 83.9, 90.5, 91.8),
            "domains.code": (54.6, 60.6, 66.8, 56.2, 69.5, 74.1),
            "domains.safety": (92.6, 93.6, 93.9, 85.3, 94.1, 95.4),
            "easy": (79.2, 82.6, 86.3, 75.9, 86.2, 89.5),
            "normal": (71.7, 77.5, 80.5, 73.1, 83.6, 85.4),
            "hard": (59.7, 68.8, 70.4, 68.1, 74.4, 76.7),
            "average": (70.2, 76.1, 79.1, 72.4, 81.5, 83.9),
        }
    ),
    combine_as_published=combine_as_published,
    matrix=Matrix(STYLES, style_figures),
)
