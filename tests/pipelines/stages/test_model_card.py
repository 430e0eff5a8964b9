"""The card of an exported model: valid for the hub, true to the run, written again when the run knows more."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import ModelCard

from actors.learner.group import LearnerGroup
from actors.messages import Order, Verdict
from pipelines.data.schema import Message, PreferencePair
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.reporting.model_card import write_model_cards
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import JudgingTask
from pipelines.stages.stage import Stage

Open = Callable[..., AbstractContextManager[Stage]]
ORDERS: tuple[Order, ...] = ("chosen_first", "chosen_second")
PAIRS = {name: PreferencePair(name, "mine", "chat", (Message("user", "q"),), "good", "bad") for name in "pq"}
TASK = JudgingTask(PAIRS, (), cast(Any, None))
JUDGED = [
    JudgedComparison(name, order, label, "chat", Verdict(says, None), 3, "stop", f"[[{says}]]")
    for name, verdicts in (("p", "AB"), ("q", "AA"))
    for order, label, says in zip(ORDERS, ("A", "B"), verdicts, strict=True)
]
"""The first pair is right in both orders, the second only where the better response comes first."""


class Exporter:
    """What a stage asks of its learners at the end."""

    def export(self, directory: str) -> None:
        Path(directory).mkdir(parents=True)


EXPORTER = cast(LearnerGroup, Exporter())


def card(run: RunDirectory, stage: str = "rl") -> ModelCard:
    """The card as the hub's own reader has it; its header must survive being read and written."""
    loaded = ModelCard.load(run.export_directory(stage) / "README.md")
    again = ModelCard(str(loaded))
    assert again.data.to_dict() == loaded.data.to_dict()
    return loaded


@pytest.mark.slow
def test_an_export_has_a_card_before_and_after_it_is_judged(opened: Open, run: RunDirectory) -> None:
    with opened() as stage:
        stage.export(EXPORTER)
        assert "Not judged yet" in card(run).text
        assert card(run).data.eval_results is None
        stage.finish("rl", JUDGED, TASK)
    found = card(run)
    assert {result.metric_type: result.metric_value for result in found.data.eval_results or []} == {
        "accuracy": 0.75,
        "consistent_accuracy": 0.5,
    }
    assert "| reinforced | 2 | 75.0% (50.0–100.0) | 100.0% (100.0–100.0) | 50.0% (0.0–100.0) | 50.0%" in found.text
    assert f"make judge MODEL={run.shown}/rl/hf" in found.text
    assert "| `rl.epochs` | `1` |" in found.text


@pytest.mark.parametrize(
    ("path", "base"),
    [("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"), ("models/mine", None), ("/data/models/mine", None)],
)
def test_only_a_name_on_the_hub_is_a_base_model(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, base: str | None
) -> None:
    """``models/mine`` could be the hub's, but it is a folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    named = {"model.path": path, "data.train": "owner/pairs", "data.heldout": "held.jsonl", "data.chains": None}
    run.note("rl", settings=named | {"model.prompt": "reasoning"}, contents={"data.train": {}})
    run.export_directory("rl").mkdir(parents=True)
    write_model_cards(run)
    found = card(run)
    assert (found.data.base_model, found.data.datasets) == (base, ["owner/pairs"])
    assert ("huggingface.co/Qwen" in found.text) == (base is not None)
    assert f"checkpoint `{path}`" in found.text or base
    assert "built-in" not in found.text


@pytest.mark.slow
def test_benchmarks_and_later_judgments_of_this_model_are_on_its_card_and_no_others(
    opened: Open, run: RunDirectory
) -> None:
    with opened() as stage:
        stage.export(EXPORTER)
    result = {"title": "Some Bench", "official": {"accuracy": 0.5}, "official_ci": {"accuracy": [0.4, 0.6]}}
    for label, model in (("mine", str(run.export_directory("rl"))), ("other", "someone/else")):
        whole = {**result, "title": f"Bench of {label}", "items": 5, "whole": 10}
        run.write_json(
            run.path / "evaluations" / label / "results.json",
            {"model": model, "orders": "both", "benchmarks": {"some": whole}},
        )
    with opened(f"evaluate.model={run.export_directory('rl')}", name="evaluate") as stage:
        stage.finish("evaluate", JUDGED, TASK)
    text = card(run).text
    assert "| Bench of mine | accuracy | 50.0% (40.0–60.0) | both | 5 of 10 items. |" in text
    assert "Bench of other" not in text
    assert "| this model, judged again | 2 | 75.0%" in text


def test_rows_of_older_versions_and_hostile_names_make_a_valid_card(opened: Open, run: RunDirectory) -> None:
    """A run of before has no figures by order; a domain is data, and may hold what ends a table's cell."""
    with opened() as stage:
        stage.export(EXPORTER)
    row = {
        "n": 2,
        "accuracy": 0.5,
        "accuracy_ci": [0.1, 0.9],
        "by_domain": {"a|b\n---": {"n": 1, "accuracy": 1.0}, "c": {}},
    }
    run.write_json(run.summary_file, json.loads(json.dumps({"rl": row, "recipe": "tiny"})))
    write_model_cards(run)
    assert "| reinforced | 2 | 50.0% (10.0–90.0) | – | – | – |" in card(run).text
    assert "| a\\|b --- | 1 | 100.0% |" in card(run).text
