"""From logged judgments to everything that is reported of them, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np

from actors.messages import Order, Side, Verdict
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.benchmarks.benchmark import Benchmark, Score, intervals, means, score
from pipelines.evaluation.calibration import Forecast, calibration
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.judging import UNRATED
from pipelines.evaluation.metrics import majority, with_intervals

Rows = Sequence[Mapping[str, Any]]


def results(
    benchmark: Benchmark, rows: Rows, *, as_published: bool = False, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """All figures of one benchmark from its rows of the log, votes of one pair and order in sequence.

    - ``official``, ``official_ci``: the benchmark's own figures and their intervals; with votes, of the majority's
      verdict.
    - ``overall``, ``by_subset``, ``by_category``: each rate with interval and denominator (:func:`with_intervals`);
      ratings are in none.
    - ``unread``: judgments without a verdict by cause, and ``unread_score``, what they scored.
    - ``modes``: accuracy and share of readable verdicts by each of the parser's rules.
    - ``calibration``: by ``verdict`` (probability of the verdict's token) and, with votes, by ``votes`` (share of the
      readable votes that agree with the majority).
    - ``matrix``: of a benchmark with styles, their names ``styles``, ``cells`` (chosen styles down, rejected across;
      the mean of ``domains``), and its own figures, each with ``<figure>_ci``.
    - ``tokens``: of prompts and of judgments; ``cost``: what an endpoint charged for them, None for engines.
    - ``items``: items judged, and ``whole``, those of the published set; ``published``: what published judges reach;
      ``not_comparable``: why the figures must not be set beside the published table; empty: they may.
    """
    named = [row for row in rows if row.get("mode") != "pointwise"]
    judged = [judged_of(row) for row in named]
    outcomes = comparison_rows(benchmark, rows)
    scores = [score_row(row) for row in outcomes]
    rates = _rater(judged, seed, resamples)
    if as_published:
        benchmark = benchmark.as_published()
    return {
        "title": benchmark.title,
        "as_published": as_published and benchmark.combine_as_published is not None,
        "official": score(benchmark, scores),
        "official_ci": intervals(benchmark, scores, seed=seed, resamples=resamples),
        "overall": rates(lambda row: "all", named).get("all", with_intervals([])),
        "by_subset": rates(lambda row: row["subset"], named),
        "by_category": rates(lambda row: row["category"] or row["subset"], named),
        "unread": _causes(rows),
        "unread_score": benchmark.unread_score,
        "modes": {mode: _read_as(mode, judged) for mode in get_args(VerdictMode)},
        "calibration": {
            name: calibration(forecasts, seed=seed, resamples=resamples)
            for name, forecasts in (("verdict", _verdict_forecasts(rows)), ("votes", _vote_forecasts(outcomes)))
        },
        "matrix": _matrix(benchmark, scores, seed, resamples),
        "judgments": len(rows),
        "tokens": {name: sum(row[name] for row in rows) for name in ("prompt_tokens", "tokens")},
        "cost": sum(row["cost"] for row in rows) if all(row.get("cost") is not None for row in rows) else None,
        "items": len({(row["subset"], row["item"]) for row in rows}),
        "whole": benchmark.items,
        "published": benchmark.published,
        "not_comparable": benchmark.not_comparable,
    }


def judged_of(row: Mapping[str, Any]) -> JudgedComparison:
    """A row of the log as the metrics take it."""
    return JudgedComparison(
        pair_id=row["comparison"],
        order=row["order"],
        label=row["label"],
        domain=row["subset"],
        verdict=Verdict(cast("Side | None", row["verdict"]), row["cause"]),
        tokens=row["tokens"],
        finish_reason=row["finish_reason"] or "stop",
        text=row["text"],
        vote=row["vote"],
        unit=f"{row['subset']}/{row['item']}",
        better_shorter=row["better_shorter"],
        mode=row.get("mode", "pairwise"),
    )


def comparison_rows(benchmark: Benchmark, rows: Rows) -> list[dict[str, Any]]:
    """The per-comparison log: one row per pair and order, votes counted, which `rescore` reads."""
    ballots: dict[tuple[str, Order], list[Mapping[str, Any]]] = {}
    for row in rows:
        ballots.setdefault((row["comparison"], row["order"]), []).append(row)
    outcomes = []
    for ballot in ballots.values():
        first = ballot[0]
        votes = [judged_of(row) for row in ballot]
        outcomes.append(
            {
                "benchmark": benchmark.name,
                "subset": first["subset"],
                "item": first["item"],
                "group": first["group"],
                "chosen_style": first["chosen_style"],
                "rejected_style": first["rejected_style"],
                "score": _score(ballot, votes, benchmark.unread_score),
                "comparison": first["comparison"],
                "order": first["order"],
                "votes": len(votes),
                "votes_right": sum(vote.right for vote in votes),
                "votes_read": sum(vote.verdict.cause is None for vote in votes),
                **({"mode": first["mode"]} if "mode" in first else {}),
            }
        )
    return outcomes


def _score(ballot: Rows, votes: Sequence[JudgedComparison], unread: float) -> float:
    """Of a pair its majority; of a list that of its most frequent answer, shared among equals; of ratings the mean."""
    mode = ballot[0].get("mode", "pairwise")
    if mode == "pointwise":
        known = [row["score"] for row in ballot if row["cause"] is None]
        return sum(known) / len(known) if known else UNRATED
    if mode == "pairwise":
        return majority(votes, unread)
    named = Counter(vote.verdict.side for vote in votes if vote.verdict.side is not None)
    if not named:
        return unread
    first = [side for side, count in named.items() if count == max(named.values())]
    return (votes[0].label in first) / len(first)


def score_row(row: Mapping[str, Any]) -> Score:
    """A row of the per-comparison log as the scoring takes it."""
    return Score(
        row["subset"],
        row["item"],
        row["score"],
        row["group"],
        row["chosen_style"],
        row["rejected_style"],
        row["comparison"],
        row["order"],
        row.get("mode", "pairwise"),
    )


def _rater(
    judged: Sequence[JudgedComparison], seed: int, resamples: int
) -> Callable[[Callable[[Mapping[str, Any]], str], Rows], dict[str, Any]]:
    def rates(name: Callable[[Mapping[str, Any]], str], rows: Rows) -> dict[str, Any]:
        parts: dict[str, list[JudgedComparison]] = {}
        for row, item in zip(rows, judged, strict=True):
            parts.setdefault(name(row), []).append(item)
        return {part: with_intervals(parts[part], seed=seed, resamples=resamples) for part in sorted(parts)}

    return rates


def _causes(rows: Rows) -> dict[str, int]:
    causes = [str(row["cause"]) for row in rows if row["cause"] is not None]
    return {cause: causes.count(cause) for cause in sorted(set(causes))}


def _read_as(mode: VerdictMode, judged: Iterable[JudgedComparison]) -> dict[str, float]:
    sides = [(read_verdict(item.text, mode, judged=item.mode, responses=4).side, item.label) for item in judged]
    count = max(1, len(sides))
    return {
        "accuracy": sum(side == label for side, label in sides) / count,
        "parse_rate": sum(side is not None for side, _ in sides) / count,
    }


def _verdict_forecasts(rows: Rows) -> list[Forecast]:
    return [
        Forecast(min(1.0, math.exp(row["verdict_logprob"])), float(row["verdict"] == row["label"]), row["comparison"])
        for row in rows
        if row["verdict"] is not None and row["verdict_logprob"] is not None
    ]


def _vote_forecasts(outcomes: Iterable[Mapping[str, Any]]) -> list[Forecast]:
    forecasts = []
    for row in outcomes:
        if row["votes"] > 1 and row["votes_read"] and "mode" not in row:
            agree = max(row["votes_right"], row["votes_read"] - row["votes_right"])
            forecasts.append(Forecast(agree / row["votes_read"], row["score"], row["comparison"]))
    return forecasts


def _matrix(benchmark: Benchmark, scores: Sequence[Score], seed: int, resamples: int) -> dict[str, Any] | None:
    """Means of a matrix's cells, and its own figures with their intervals; None for a benchmark without styles."""
    matrix, combine = benchmark.matrix, benchmark.combine
    if matrix is None:
        return None
    side = len(matrix.styles)
    domains = {name: cells.reshape(side, side).tolist() for name, cells in means(benchmark.observe(scores)).items()}
    own = replace(benchmark, combine=lambda parts, sizes: matrix.figures(combine(parts, sizes)))
    spread = intervals(own, scores, seed=seed, resamples=resamples)
    return {
        "styles": list(matrix.styles),
        "cells": np.mean(list(domains.values()), axis=0).tolist(),
        "domains": domains,
        **score(own, scores),
        **{f"{name}_ci": bounds for name, bounds in spread.items()},
    }
