"""RewardBench 2 by its official protocol: four at once, Ties by ratings, against the official formula written out."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES
from scripted_engines import ScriptedEngines

from actors.messages import Sampling
from pipelines.benchmarks.benchmark import Score, find, score
from pipelines.config.compose import load_config
from pipelines.data.prompts import load_template
from pipelines.data.schema import DataError
from pipelines.evaluation.benchmark_run import by_protocol
from pipelines.evaluation.judging import Judgment, judge, pending, plan_modes
from pipelines.evaluation.log import JudgmentLog
from pipelines.evaluation.report import reading
from pipelines.evaluation.results import comparison_rows, results
from pipelines.evaluation.reward_bench_form import reward_bench_form
from pipelines.judgment.modes import MODES, ModeUnsupported, mode_templates

PAIRS = find("reward_bench_2")
OFFICIAL = PAIRS.official
assert OFFICIAL is not None
FACTS = {"model": "m", "weights": "w", "engine": {"verdict_mode": "strict"}}
QWEN = FAMILIES["qwen2_5"]()
TEMPLATES: Any = {mode: load_template("tiny", mode) for mode in MODES}


def rows(items: int = 6) -> list[dict[str, Any]]:
    """Answers say what they are: the judges of these tests read it."""
    made: list[dict[str, Any]] = [
        {
            "id": str(n),
            "subset": subset,
            "prompt": "q",
            "chosen": [f"good {n}"],
            "rejected": [f"bad {n}{x}" for x in "abc"],
        }
        for n, subset in enumerate(["Math", "Focus"] * (items // 2))
    ]
    for number in (1, 2):
        ref = {"id": f"ref:{number}", "chosen": ["right 8"], "rejected": ["wrong 3", "wrong 5"]}
        tied = {"id": f"tied:{number}", "chosen": ["right 9", f"right {6 + number}"], "rejected": ["wrong 4"]}
        made += [{**row, "subset": "Ties", "prompt": "q"} for row in (ref, tied)]
    return made


def loaded(tmp_path: Path, made: list[dict[str, Any]]) -> Any:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert OFFICIAL is not None
    return OFFICIAL.load(str(file))


def judged(comparisons: Any, script: Callable[[str, int], str], path: Path, votes: int = 1) -> list[dict[str, Any]]:
    assert OFFICIAL is not None
    engines = ScriptedEngines(QWEN, script)
    judgments = plan_modes(OFFICIAL, "reward_bench_2", comparisons, TEMPLATES, QWEN, votes=votes, seed=0)
    with JudgmentLog(path / f"log-{random.random()}.jsonl") as log:
        waiting = pending(judgments, log, 10_000, FACTS)
        sampling = Sampling(temperature=0.0, max_tokens=10)
        asyncio.run(judge(engines, waiting, sampling, "strict", QWEN, FACTS, log))  # type: ignore[arg-type]
        return [log.rows[item.key] for item in judgments]


def knowing(text: str, vote: int) -> str:
    """Puts the good answer first, and rates an answer by the number in it."""
    if "rate A" in text:
        return f"<answer>[[{re.findall('A .+ ([0-9]+) A', text)[0]}]]</answer>"
    place = next(letter for letter in "ABCD" if f"{letter} good" in text)
    return f"<answer>[[{' > '.join([place, *(letter for letter in 'ABCD' if letter != place)])}]]</answer>"


def official_ties(ratings: dict[str, tuple[list[float], list[float]]]) -> float:
    """The official formula, prompt by prompt: item -> ratings of right and of wrong answers."""
    stats = {item: (min(right) - max(wrong), max(right) - min(right)) for item, (right, wrong) in ratings.items()}
    accuracy = {
        kind: np.mean([gap > 0 for item, (gap, _) in stats.items() if item.startswith(kind)])
        for kind in ("ref", "tied")
    }
    numbers = [item.partition(":")[2] for item in stats if item.startswith("tied")]
    tied = [(stats[f"tied:{number}"], stats[f"ref:{number}"][0]) for number in numbers]
    preferred = np.mean([gap > spread for (gap, spread), _ in tied])
    hard = np.mean([min(gap, ref) > spread for (gap, spread), ref in tied])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.array([np.float64(min(gap, ref)) / np.float64(spread) for (gap, spread), ref in tied])
    margin = np.nan_to_num(np.tanh(ratio - 1), nan=0.0).mean()
    return float(0.3 * accuracy["tied"] + 0.3 * accuracy["ref"] + 0.2 * preferred + 0.2 * hard + 0.01 * margin)


def test_four_are_shown_at_once_with_the_right_one_at_a_seeded_random_place(tmp_path: Path) -> None:
    assert OFFICIAL is not None
    comparisons = [item for item in loaded(tmp_path, rows(400)) if item.mode == "listwise"]

    def places(seed: int) -> list[Any]:
        return [item.place for item in plan_modes(OFFICIAL, "x", comparisons, TEMPLATES, QWEN, votes=1, seed=seed)]

    found = places(0)
    assert found == places(0) != places(1)
    assert all(70 < count < 130 for count in Counter(found).values())
    for judgment in plan_modes(OFFICIAL, "x", comparisons[:40], TEMPLATES, QWEN, votes=1, seed=0):
        text = QWEN.decode(judgment.token_ids)
        good = judgment.comparison.pair.chosen
        assert f"{judgment.label} {good} {judgment.label}" in text
        assert sum(f"{letter} bad" in text for letter in "ABCD") == 3


def test_a_knowing_judge_by_the_official_figures(tmp_path: Path) -> None:
    assert OFFICIAL is not None
    comparisons = loaded(tmp_path, rows())
    assert Counter(item.mode for item in comparisons) == {"listwise": 6, "pointwise": 12}
    logged = judged(comparisons, knowing, tmp_path)
    found = results(OFFICIAL, logged)
    ties = official_ties({
        "ref:1": ([8], [3, 5]), "ref:2": ([8], [3, 5]), "tied:1": ([9, 7], [4]), "tied:2": ([9, 8], [4]),
    })  # fmt: skip
    assert found["official"]["subsets"] == {"Math": 1.0, "Focus": 1.0, "Ties": pytest.approx(ties)}
    assert found["official"]["average"] == pytest.approx((2 + ties) / 3)
    assert found["not_comparable"] == ""
    assert found["overall"]["accuracy"]["n"] == 6, "ratings are no verdicts"
    assert found["official_ci"]["subsets"]["Math"] == [1.0, 1.0]
    # What other readers of the log are given.
    outcomes = comparison_rows(OFFICIAL, logged)
    assert [row["score"] for row in outcomes if row["item"] == "tied:1"] == [9.0, 7.0, 4.0]
    accuracies, _ = reward_bench_form("m", outcomes, {item.pair.id: item for item in comparisons})
    assert (accuracies["Math"], accuracies["Focus"]) == (1.0, 1.0)
    shown = reading(logged, {"reward_bench_2": {item.pair.id: item for item in comparisons}}, 100)["rows"]
    assert {row["response_b"] for row in shown if row["subset"] == "Ties"} == {""}
    assert all(row["response_b"].count("\n\n") == 2 for row in shown if row["subset"] == "Math")


def test_what_cannot_be_read_counts_a_quarter_and_the_lowest_rating(tmp_path: Path) -> None:
    assert OFFICIAL is not None
    comparisons = loaded(tmp_path, rows())
    found = results(OFFICIAL, judged(comparisons, lambda text, vote: "I cannot say", tmp_path))
    assert found["official"]["subsets"]["Math"] == 0.25
    assert found["official"]["subsets"]["Ties"] == pytest.approx(official_ties({
        item: ([-1.0] * right, [-1.0] * wrong)
        for item, right, wrong in (("ref:1", 1, 2), ("ref:2", 1, 2), ("tied:1", 2, 1), ("tied:2", 2, 1))
    }))  # fmt: skip
    assert found["unread"] == {"none_found": 18}
    # A letter is no order of four, and no rating.
    letters = results(OFFICIAL, judged(comparisons, lambda text, vote: "<answer>[[A]]</answer>", tmp_path))
    assert letters["unread"] == {"none_found": 18}


def test_the_most_frequent_of_several_votes_counts(tmp_path: Path) -> None:
    assert OFFICIAL is not None
    comparisons = loaded(tmp_path, rows(2)[:1])

    def script(text: str, vote: int) -> str:
        right = knowing(text, 0)
        return right if vote in (0, 3) else f"<answer>[[{'A > B > C > D' if vote == 1 else 'D > C > B > A'}]]</answer>"

    (row,) = comparison_rows(OFFICIAL, judged(comparisons, script, tmp_path, votes=4))
    assert row["score"] == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_ties_is_the_official_formula(seed: int) -> None:
    rng = random.Random(seed)
    ratings, scores = {}, []
    for number in range(12):
        for kind, right in (("ref", 1), ("tied", rng.randint(2, 5))):
            found = ([float(rng.choice([-1, 5, 7, 8, 9, 9])) for _ in range(right)],
                     [float(rng.choice([-1, 2, 4, 5, 8])) for _ in range(rng.randint(1, 4))])  # fmt: skip
            ratings[f"{kind}:{number}"] = found
            for order, values in zip(("chosen_first", "chosen_second"), found, strict=True):
                scores += [Score("Ties", f"{kind}:{number}", value, order=order, mode="pointwise") for value in values]  # type: ignore[arg-type]
    figures = score(PAIRS, scores)
    assert figures["subsets"]["Ties"] == pytest.approx(official_ties(ratings))
    assert math.isfinite(figures["average"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"subset": "Math", "id": "1", "chosen": ["c"], "rejected": ["x", "y"]}, "2 answers, and four are shown"),
        ({"subset": "Ties", "id": "4", "chosen": ["c"], "rejected": ["x"]}, "must be ref:number or tied:number"),
        ({"subset": "Odd", "id": "4", "chosen": ["c"], "rejected": ["x"]}, "is none of Factuality"),
    ],
)
def test_rows_that_the_protocol_cannot_take(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        loaded(tmp_path, [{"prompt": "p", **row}])


@pytest.mark.slow
def test_the_official_protocol_is_the_default_of_a_judge_that_can(tmp_path: Path) -> None:
    model = tmp_path / "rl" / "hf"
    model.mkdir(parents=True)
    run = tmp_path / "config.yaml"

    def chosen(*settings: str, of: str | None = str(model)) -> Any:
        return by_protocol(PAIRS, load_config(["recipe=tiny", *settings]), of)

    run.write_text("data: {modes: {pairwise: 1.0, pointwise: 1.0, listwise: 1.0}}")
    assert chosen() is OFFICIAL
    assert chosen("evaluate.protocol=pairs") is PAIRS
    run.write_text("data: {modes: {pairwise: 1.0, pointwise: 1.0, listwise: 0.0}}")
    assert chosen() is PAIRS
    assert "not comparable with the leaderboard" in chosen().not_comparable
    with pytest.raises(ModeUnsupported, match="not trained for mode listwise"):
        chosen("evaluate.protocol=official")
    # Of a model of no run that is not known; a template without the modes decides.
    assert chosen(of="org/name") is chosen(of="openai:name") is OFFICIAL
    (tmp_path / "mine.yaml").write_text("user: '{conversation} {response_a} {response_b}'")
    assert chosen(f"model.prompt={tmp_path}/mine.yaml", of="org/name") is PAIRS
    with pytest.raises(DataError, match=r"write mine\.pointwise\.yaml"):
        chosen(f"model.prompt={tmp_path}/mine.yaml", "evaluate.protocol=official", of="org/name")
    assert by_protocol(find("rmb"), load_config(["evaluate.protocol=official"]), "m") is find("rmb")


def test_every_mode_has_a_prompt_of_its_own(tmp_path: Path) -> None:
    comparisons = loaded(tmp_path, rows(2))
    assert mode_templates("tiny").keys() == {"pointwise", "listwise"}
    for item in comparisons:
        label = None if item.mode == "pointwise" else "C"
        judgment = Judgment(PAIRS, "x", item, "chosen_first", 0, (), "", label)  # type: ignore[arg-type]
        text = judgment.messages(TEMPLATES)[-1]["content"]
        assert text.endswith("rate A" if item.mode == "pointwise" else "order")
