"""All checks over a data set's splits, at their levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import Config
from pipelines.data.lint.agreement import label_agreement
from pipelines.data.lint.duplicates import Splits, exact, near
from pipelines.data.lint.findings import Check, Finding, Shown, levels
from pipelines.data.lint.leak import label_leak, masked_prompts
from pipelines.data.lint.overlap import BenchmarkItem, benchmark_overlap
from pipelines.data.lint.positions import positions
from pipelines.data.lint.responses import figures_by_source, length_bias, markdown_bias, roles, source_table, truncated
from pipelines.data.prompts import PromptTemplate, orders_of


@dataclass(frozen=True, slots=True)
class LintReport:
    """Every check that is not off, and the figures of every source."""

    checks: tuple[Check, ...]
    sources: tuple[dict[str, Any], ...]

    @property
    def failed(self) -> list[Check]:
        """Checks that the data set does not pass."""
        return [check for check in self.checks if check.status == "fail"]

    def as_json(self) -> dict[str, Any]:
        """The content of ``lint.json``."""
        return {
            "passed": not self.failed,
            "checks": [check.as_json() for check in self.checks],
            "sources": list(self.sources),
        }


def shown_prompts(splits: Splits, orders: str, seed: int, as_given: bool) -> list[Shown]:
    """What a judge will see of the first split; ``as_given`` keeps the order in which a file shows labelled pairs.

    Other splits are judged in both orders, which cannot be unbalanced, so only rows with an order of their own count.
    """
    result = []
    for index, (name, pairs) in enumerate(splits.items()):
        for pair, order in orders_of(pairs, orders, seed):
            given = pair.given_label if as_given and not pair.ready_made else None
            if given is not None:
                order = "chosen_first" if given == "A" else "chosen_second"
            if index == 0 or pair.ready_made or given is not None:
                result.append(Shown(pair, order, name))
    # A pair with a given order is one prompt, also where both orders were asked for.
    return list({(item.split, item.pair.id, item.order): item for item in result}.values())


def lint(
    splits: Splits,
    config: Config,
    template: PromptTemplate,
    benchmarks: Sequence[BenchmarkItem] = (),
    bad_rows: Sequence[str] = (),
    sources_before: Mapping[str, int] | None = None,
    as_given: bool = False,
) -> LintReport:
    """Check a data set; ``splits`` begins with the one that is trained on.

    ``sources_before`` counts pairs by source before duplicates were dropped, for ``data.mix.expect``.

    Raises:
        ConfigError: ``data.lint.levels`` names an unknown check or level.

    """
    settings, level_of = config.data.lint, levels(config.data.lint.levels)
    everything = [pair for pairs in splits.values() for pair in pairs]
    shown = shown_prompts(splits, config.data.orders, config.seed, as_given)
    balance = positions(shown, settings.position_margin)
    groups = figures_by_source(everything)
    agreement = label_agreement(groups, config.seed)
    findings = [
        balance,
        label_leak(masked_prompts(shown, template), settings.leak_margin, config.seed),
        *exact(splits),
        *near(splits, settings.near_duplicate),
        benchmark_overlap(next(iter(splits.values())), benchmarks, settings.overlap),
        agreement,
        length_bias(groups, settings.bias_margin),
        markdown_bias(groups, settings.bias_margin),
        truncated(groups, settings.truncated),
        roles(everything),
        Finding(
            "bad_rows", not bad_rows, f"{len(bad_rows)} rows were skipped", {"rows": len(bad_rows)}, (*bad_rows[:5],)
        ),
        _source_counts(sources_before or Counter(pair.source for pair in everything), config.data.mix.expect),
    ]
    table = source_table(
        everything, groups, balance.numbers.get("first_by_source", {}), agreement.numbers.get("by_source", {})
    )
    by_name = {finding.check: Check(finding, level_of[finding.check]) for finding in findings}
    checks = tuple(by_name[name] for name in level_of if level_of[name] != "off")
    return LintReport(checks, tuple(table))


def _source_counts(counts: Mapping[str, int], expected: Mapping[str, int]) -> Finding:
    if not expected:
        return Finding("source_counts", None, "no counts are expected (data.mix.expect)")
    wrong = [
        f"{source}: {counts.get(source, 0)}, expected {count}"
        for source, count in expected.items()
        if counts.get(source, 0) != count
    ]
    summary = "; ".join(wrong) if wrong else f"{len(expected)} sources have the pairs expected"
    return Finding("source_counts", not wrong, summary, {source: counts.get(source, 0) for source in expected})
