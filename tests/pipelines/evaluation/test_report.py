"""The report of an evaluation: figures beside the published ones, comparisons with others, and judgments to read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from judges import always_a, comparison, judged, perfect

from pipelines.benchmarks.benchmark import find
from pipelines.data.schema import DataError
from pipelines.evaluation.report import write_evaluation_report
from pipelines.evaluation.results import comparison_rows, results
from pipelines.evaluation.tables import headline, line, tables

PAIRS = [comparison(number, subset="donotanswer" if number % 3 else "hep-go") for number in range(12)]
ENGINE = {"prompt": "tiny", "verdict_mode": "paper", "max_tokens": 64, "temperature": 0.0, "dtype": "float32",
          "device": "cpu", "vllm": "0", "seed": 0}  # fmt: skip


def evaluation(folder: Path, label: str, judge: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An evaluation on disk, as the pipeline leaves it."""
    benchmark = find("reward_bench")
    rows = judged(benchmark, PAIRS, judge)
    found = results(benchmark, rows, resamples=50)
    whole = {"label": label, "model": label, "weights": "w", "engine": ENGINE, "orders": "both", "votes": 1,
             "max_prompt_tokens": 512, "benchmarks": {"reward_bench": found}}  # fmt: skip
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(whole))
    outcomes = [{**row, "set": "reward_bench"} for row in comparison_rows(benchmark, rows)]
    (folder / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in outcomes))
    return whole, rows


def report(folder: Path, label: str, judge: Any, *others: Path, most: int = 400) -> dict[str, Any]:
    """What a written report holds."""
    whole, rows = evaluation(folder, label, judge)
    shown = {"reward_bench": {item.pair.id: item for item in PAIRS}}
    page = write_evaluation_report(folder, whole, rows, shown, [str(other) for other in others], most=most)
    text = page.read_text(encoding="utf-8")
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert block is not None
    assert not [path for path in folder.iterdir() if path.name.startswith(".report")]
    return json.loads(block[1])


def test_the_headline_stands_beside_published_models(tmp_path: Path) -> None:
    table = report(tmp_path / "a", "mine", always_a)["benchmarks"]["reward_bench"]["table"]
    assert table["columns"] == ["Safety", "Reasoning", "average", "micro"]
    assert [row["name"] for row in table["rows"]] == ["mine", *find("reward_bench").published]
    assert table["rows"][0]["cells"][2] == {"value": 0.5, "ci": [0.5, 0.5]}
    best = next(row for row in table["rows"] if row["name"] == "RM-R1 Instruct-32B")
    assert [cell["value"] for cell in best["cells"]] == [0.919, pytest.approx(0.952), 0.914, None]


def test_published_averages_follow_from_their_parts() -> None:
    """The typed table holds together: averages are the means of what stands beside them, to a rounding."""
    # The paper prints 76.1 on RM-Bench for Instruct-14B, where its parts give 76.3.
    for benchmark, parts, rounding in (
        ("reward_bench", ("sections.",), 0.00101),
        ("rm_bench", ("domains.",), 0.00226),
        ("rm_bench", ("easy", "normal", "hard"), 0.00226),
        ("rmb", ("pairwise_", "bon_"), 0.00101),
    ):
        for figures in find(benchmark).published.values():
            values = [value for name, value in figures.items() if name.startswith(parts)]
            assert sum(values) / len(values) == pytest.approx(figures["average"], abs=rounding)


def test_evaluations_side_by_side(tmp_path: Path) -> None:
    report(tmp_path / "a", "position", always_a)
    data = report(tmp_path / "b", "perfect", perfect, tmp_path / "a")
    (row,) = data["compared"]
    assert (row["other"], row["first"], row["second"], row["difference"]) == ("position", 0.5, 1.0, 0.5)
    assert (row["only_first"], row["only_second"], row["p"]) == (0, 12, 2 / 2**12)
    rows = data["benchmarks"]["reward_bench"]["table"]["rows"]
    assert [entry["name"] for entry in rows[:2]] == ["perfect", "position"]
    with pytest.raises(DataError, match="holds no finished evaluation"):
        report(tmp_path / "c", "c", perfect, tmp_path / "nowhere")


def test_judgments_to_read_come_with_both_orders(tmp_path: Path) -> None:
    data = report(tmp_path / "a", "a", always_a, most=9)["judgments"]
    assert (data["shown"], data["total"]) == (8, 24)
    rows = data["rows"]
    assert all(row["flipped"] for row in rows)
    first = next(row for row in rows if row["order"] == "chosen_first")
    pair = next(item.pair for item in PAIRS if item.pair.id == first["comparison"])
    assert (first["response_a"], first["response_b"], first["label"]) == (pair.chosen, pair.rejected, "A")


def test_a_quote_is_marked_in_the_answer_it_quotes(tmp_path: Path) -> None:
    evaluated = "<eval><quote_A>longer</quote_A></eval><answer>[[A]]</answer>"
    rows = report(tmp_path / "a", "a", lambda item: evaluated)["judgments"]["rows"]
    for row in rows:
        start = row["response_a"].find("longer")
        assert row["marks_a"] == ([[start, start + 6]] if start >= 0 else [])
        assert row["quotes_missing"] == int(start < 0)


def test_hostile_text_stays_data(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!-- \u2028 <eval><quote_A></quote_A></eval>"
    data = report(tmp_path / "a", hostile, lambda item: hostile)
    assert data["label"] == hostile
    assert {row["text"] for row in data["judgments"]["rows"]} == {hostile}
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert page.count("<script") == 2
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|document\.write|\bsrc=|@import|url\(", page)


def test_tables_for_the_tracker(tmp_path: Path) -> None:
    whole, _ = evaluation(tmp_path / "a", "a", always_a)
    numbers = headline(whole["benchmarks"])
    assert numbers["reward_bench/official/average"] == 0.5
    assert numbers["reward_bench/flip_rate"] == 1.0
    (name, columns, rows), (_, wide, subsets), spent = tables(whole["benchmarks"])
    assert (name, columns, rows[2]) == (
        "official",
        ["benchmark", "figure", "value", "low", "high", "note"],
        ["reward_bench", "average", 0.5, 0.5, 0.5, ""],
    )
    # Engines of one's own cost no money; a judgment of these is counted as what it took.
    assert (spent[0], spent[1][-1], spent[2][0][:2], spent[2][0][-1]) == ("spent", "cost", ["reward_bench", 24], None)
    assert [row[1] for row in subsets] == ["all", "donotanswer", "hep-go"]
    assert all(len(row) == len(wide) for row in subsets)
    assert "says A 100.0%" in line("reward_bench", whole["benchmarks"]["reward_bench"])
    assert "12 of 2,985 items" in line("reward_bench", whole["benchmarks"]["reward_bench"])


def test_figures_that_are_not_the_leaderboards_say_so_everywhere(tmp_path: Path) -> None:
    whole, _ = evaluation(tmp_path / "a", "a", always_a)
    marked = {
        "reward_bench_2": {
            **whole["benchmarks"]["reward_bench"],
            "not_comparable": find("reward_bench_2").not_comparable,
        }
    }
    assert all(row[-1].startswith("not comparable with the leaderboard") for row in tables(marked)[0][2])
    assert "not comparable with the leaderboard: judged in pairs" in line("reward_bench_2", marked["reward_bench_2"])
    assert report(tmp_path / "b", "b", always_a)["benchmarks"]["reward_bench"]["not_comparable"] == ""
    assert "result.not_comparable" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
