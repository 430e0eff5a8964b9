"""Published figures recomputed from counts, and the scoring rules on rows made by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from published_figures import (
    REWARD_BENCH,
    REWARD_BENCH_FIGURES,
    RM_BENCH,
    RM_BENCH_FIGURES,
    RMB,
    RMB_FIGURES,
)

from pipelines.benchmarks.benchmark import find, intervals
from pipelines.evaluation import rescore

TIGHT = {"rel": 0, "abs": 1e-9}


def row(benchmark: str, subset: str, item: str, score: float, **fields: Any) -> dict[str, Any]:
    """A minimal row."""
    filled = {"group": None, "chosen_style": None, "rejected_style": None, **fields}
    return {"benchmark": benchmark, "subset": subset, "item": item, "score": score, **filled}


def counted(benchmark: str, counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """One row an item, as many right as were counted."""
    return [
        row(benchmark, subset, f"{index}", float(index < right), group=str(index) if "BoN" in subset else None)
        for subset, (right, items) in counts.items()
        for index in range(items)
    ]


def cells(domain: str, prompts: int, right: dict[tuple[int, int], int]) -> list[dict[str, Any]]:
    """RM-Bench rows of a domain with so many right answers in each cell of the matrix."""
    return [
        row("rm_bench", domain, f"{index}", float(index < count), chosen_style=place[0], rejected_style=place[1])
        for place, count in right.items()
        for index in range(prompts)
    ]


class Rescore:
    """The command, on rows."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.log = folder / "log.jsonl"
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.note = ""

    def __call__(self, benchmark: str, rows: list[dict[str, Any]], *flags: str, status: int = 0) -> Any:
        self.log.write_text("".join(json.dumps(line) + "\n" for line in rows))
        command = ["rescore", "--benchmark", benchmark, "--log", str(self.log), *flags]
        self.monkeypatch.setattr(sys, "argv", command)
        assert rescore.main() == status
        out, self.note = self.capsys.readouterr()
        return json.loads(out) if status == 0 else self.note


@pytest.fixture
def rescored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rescore:
    """The command."""
    return Rescore(tmp_path, monkeypatch, capsys)


def test_published_reward_bench(rescored: Rescore) -> None:
    figures = rescored("reward_bench", counted("reward_bench", REWARD_BENCH))
    assert set(figures) == {"sections", "average", "micro"}
    assert figures["sections"] == pytest.approx(REWARD_BENCH_FIGURES["sections"], **TIGHT)
    assert figures["average"] == pytest.approx(REWARD_BENCH_FIGURES["average"], **TIGHT)
    assert figures["micro"] == pytest.approx(REWARD_BENCH_FIGURES["micro"], **TIGHT)
    assert rescored.note == ""


@pytest.mark.slow
def test_published_rmb(rescored: Rescore) -> None:
    figures = rescored("rmb", counted("rmb", RMB))
    assert figures == pytest.approx(RMB_FIGURES, **TIGHT)
    assert rescored.note == ""


def spread(count: int, prompts: int) -> list[int]:
    """A count over three cells, each of at most ``prompts``."""
    first = min(count, prompts)
    second = min(count - first, prompts)
    return [first, second, count - first - second]


def test_published_rm_bench_by_the_intended_matrix(rescored: Rescore) -> None:
    rows = []
    for domain, (prompts, hard, normal, easy) in RM_BENCH.items():
        places = [[(0, 1), (0, 2), (1, 2)], [(0, 0), (1, 1), (2, 2)], [(1, 0), (2, 0), (2, 1)]]
        for part, count in zip(places, (hard, normal, easy), strict=True):
            rows += cells(domain, prompts, dict(zip(part, spread(count, prompts), strict=True)))
    figures = rescored("rm_bench", rows)
    assert figures.pop("domains") == pytest.approx(RM_BENCH_FIGURES["domains"], **TIGHT)
    assert figures == pytest.approx({key: RM_BENCH_FIGURES[key] for key in figures}, **TIGHT)


@pytest.mark.slow
def test_published_rm_bench_by_the_published_slip(rescored: Rescore) -> None:
    """Pass 3 holds the published figures and pass 2 nothing right, which only the slip does not notice."""
    rows = []
    for domain, (prompts, hard, normal, easy) in RM_BENCH.items():
        middle = prompts if prompts % 2 == hard % 2 else prompts - 1
        third = {(0, 2): (hard - middle) // 2, (1, 0): middle, (2, 1): (easy - middle) // 2}
        second = {(0, 1): 0, (1, 2): 0, (2, 0): 0}
        diagonal = dict(zip([(0, 0), (1, 1), (2, 2)], spread(normal, prompts), strict=True))
        rows += cells(domain, prompts, third | second | diagonal)
    figures = rescored("rm_bench", rows, "--as-published")
    assert figures.pop("domains") == pytest.approx(RM_BENCH_FIGURES["domains"], **TIGHT)
    assert figures == pytest.approx({key: RM_BENCH_FIGURES[key] for key in figures}, **TIGHT)
    intended = rescored("rm_bench", rows)
    chat_hard = 48 / (3 * 129)  # cell (0, 2) alone
    chat = (chat_hard + 312 / (3 * 129) + (129 + 111) / (3 * 129)) / 3
    assert intended["domains"]["chat"] == pytest.approx(chat, **TIGHT)


def test_rm_bench_difficulties_of_a_judge_of_styles(rescored: Rescore) -> None:
    """A judge that prefers the fancier style, and is right between equals."""
    right = {(chosen, rejected): int(chosen >= rejected) for chosen in range(3) for rejected in range(3)}
    rows = [line for domain in ("chat", "math", "code") for line in cells(domain, 1, right)]
    rows += cells("safety-refuse", 1, right) + cells("safety-response", 1, dict.fromkeys(right, 1))
    figures = rescored("rm_bench", rows)
    # Safety pools the prompts of both its files: hard 1/2, normal 1, easy 1.
    assert (figures["easy"], figures["normal"]) == (1.0, 1.0)
    assert figures["hard"] == pytest.approx(0.5 / 4, **TIGHT)
    assert figures["domains"] == pytest.approx({"chat": 2 / 3, "math": 2 / 3, "code": 2 / 3, "safety": 5 / 6}, **TIGHT)
    assert "5 of the 1,327 items of RM-Bench" in rescored.note


def test_reward_bench_weighs_maths_as_much_as_all_code(rescored: Rescore) -> None:
    rows = [row("reward_bench", "math-prm", str(index), 1) for index in range(2)]
    rows += [
        row("reward_bench", f"hep-{language}", "0", 0) for language in ("cpp", "go", "java", "js", "python", "rust")
    ]
    figures = rescored("reward_bench", rows)
    assert figures == {"sections": {"Reasoning": 0.5}, "average": 0.5, "micro": 0.25}


def test_prior_sets_are_a_section_outside_the_average(rescored: Rescore) -> None:
    rows = [row("reward_bench", "donotanswer", "0", 1), row("reward_bench", "shp", "0", 0)]
    figures = rescored("reward_bench", rows)
    assert figures == {"sections": {"Safety": 1.0, "Prior Sets": 0.0}, "average": 1.0, "micro": 1.0}


def test_the_best_answer_has_to_beat_every_loser_and_half_is_no_win(rescored: Rescore) -> None:
    path = "BoN_set/Helpfulness/Chat/Discussion"
    scores = {"0": (1, 1, 1), "1": (1, 0, 1), "2": (1, 0.5), "3": (1, 1)}
    rows = [row("rmb", path, group, value, group=group) for group, values in scores.items() for value in values]
    rows += [row("rmb", "Pairwise_set/Harmlessness/S1", "a", 0.5), row("rmb", "Pairwise_set/Harmlessness/S2", "b", 1)]
    figures = rescored("rmb", rows)
    assert figures == {
        "pairwise_helpfulness": None, "pairwise_harmlessness": 0.75, "bon_helpfulness": 0.5, "bon_harmlessness": None,
        "average": 0.625,
    }  # fmt: skip


def test_groups_judged_in_both_orders_count_what_a_random_order_would(rescored: Rescore) -> None:
    path = "BoN_set/Harmlessness/S1"
    rows = [
        row("rmb", path, "g", value, group="0", comparison=name, order=order)
        for name, values in (("a", (1, 0)), ("b", (1, 0)), ("c", (1, 1)))
        for order, value in zip(("chosen_first", "chosen_second"), values, strict=True)
    ]
    assert rescored("rmb", rows)["bon_harmlessness"] == 0.25


def test_judgebench_counts_right_against_wrong(rescored: Rescore) -> None:
    outcomes = {"a": (1, 1), "b": (1, 0), "c": (1, 0.5), "d": (0.5, 0.5), "e": (0, 0)}
    rows = [row("judgebench", "mmlu-pro-law", item, value) for item, values in outcomes.items() for value in values]
    assert rescored("judgebench", rows) == {"accuracy": 0.4, "consistent_accuracy": 0.2}
    single = [row("judgebench", "livecodebench", "a", 1), row("judgebench", "livecodebench", "b", 0)]
    assert rescored("judgebench", single) == {"accuracy": 0.5, "consistent_accuracy": None}


def test_reward_bench_2_leaves_ties_out_of_the_average(rescored: Rescore) -> None:
    scores = [("Math", "1", (1, 1, 1)), ("Math", "2", (1, 1, 0)), ("Focus", "3", (1, 1, 1)), ("Ties", "tied:1", (1, 0))]
    rows = [row("reward_bench_2", subset, item, value) for subset, item, values in scores for value in values]
    figures = rescored("reward_bench_2", rows)
    assert figures == {"subsets": {"Math": 0.5, "Focus": 1.0}, "average": 0.75, "ties_pairwise": 0.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"benchmark": "rmb", "subset": "Other/x", "item": "1", "score": 1}, "must begin with Pairwise_set"),
        ({"benchmark": "rmb", "subset": "BoN_set/Helpfulness/x", "item": "1", "score": 1}, "needs a 'group'"),
        ({"benchmark": "rmb", "subset": "BoN_set/Helpfulness/x", "item": "1", "score": 2}, "must be 0, 0.5 or 1"),
        ({"benchmark": "rmb", "subset": "BoN_set/Helpfulness/x", "item": "1", "score": [1]}, "[1] must be 0, 0.5 or 1"),
        ({"benchmark": "rmb", "subset": "BoN_set/Helpfulness/x", "score": 1}, "row 1: field 'item' is missing"),
        ({"benchmark": "rmb", "item": "1", "score": 1, "subset": "a", "vote": 0}, "log of single votes"),
        (
            {"benchmark": "rm_bench", "subset": "chat", "item": "1", "score": 1},
            "has no comparison with benchmark='rmb'",
        ),
    ],
)
def test_unusable_rows_are_named(rescored: Rescore, line: dict[str, Any], message: str) -> None:
    assert message in rescored("rmb", [line], status=1)


def test_a_hole_in_the_matrix_is_named(rescored: Rescore) -> None:
    assert "'chat': no comparison of chosen style 0 (concise) with rejected style 1 (detailed)" in rescored(
        "rm_bench", cells("chat", 1, {(0, 0): 1}), status=1
    )


def test_a_style_that_the_benchmark_does_not_have_is_named(rescored: Rescore) -> None:
    lines = cells("chat", 1, {(0, 0): 1, (0, 3): 1})
    assert "row 2, field 'rejected_style': 3 must be one of 0, 1, 2" in rescored("rm_bench", lines, status=1)


def test_every_benchmark_can_be_rescored(rescored: Rescore) -> None:
    """The list is the folder's: also of the two that have no published set."""
    rows = [row("pairs", "chat", "1", 1), row("pairs", "chat", "2", 0)]
    assert rescored("pairs", rows) == {"domains": {"chat": 0.5}, "accuracy": 0.5}


def test_the_published_slip_changes_only_the_benchmark_that_has_it(rescored: Rescore) -> None:
    rows = [row("reward_bench", "donotanswer", "0", 1), row("reward_bench", "hep-go", "0", 0)]
    assert rescored("reward_bench", rows, "--as-published") == rescored("reward_bench", rows)


@pytest.mark.slow
def test_intervals_of_a_section_have_the_width_of_its_binomials(tmp_path: Path, rescored: Rescore) -> None:
    rescored("rmb", counted("rmb", RMB))
    scores = rescore.read_scores(rescored.log, find("rmb"))
    bounds = intervals(find("rmb"), scores, seed=3, resamples=2000)
    low, high = bounds["bon_harmlessness"]
    # Drawn within categories, so slightly narrower than 1.96 sqrt(p (1 - p) / n) = 0.0226 each way.
    assert low < RMB_FIGURES["bon_harmlessness"] < high
    assert (high - low) / 2 == pytest.approx(0.0224, abs=0.0012)
    assert bounds == intervals(find("rmb"), scores, seed=3, resamples=2000)
    perfect = intervals(find("rmb"), [score for score in scores if score.score == 1], seed=0, resamples=50)
    assert perfect["average"] == [1.0, 1.0]
