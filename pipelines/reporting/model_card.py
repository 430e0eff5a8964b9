"""The model card: the README.md of every model that a run exports, made anew whenever the run knows more of it.

Its header is written by ``huggingface_hub``, so that the hub reads it; figures stand there and in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.files import write_text
from actors.redaction import redact
from pipelines.data.published import is_hub_name
from pipelines.evaluation.tables import flat
from pipelines.reporting.cards import render_card
from pipelines.runs.catalogue import STAGES
from pipelines.runs.folder import RunDirectory

ROWS = {"before": "base model", "distill": "distilled", "rl": "reinforced", "evaluate": "this model, judged again"}
"""Rows of held-out figures in ``summary.json``, in the order in which they come to be."""
_DATA = {"data.chains": "reasoning chains", "data.train": "pairs", "data.heldout": "held-out pairs"}
_BUILT_IN = ("data.distill_pairs", "data.rl_pairs", "data.heldout_pairs")
_SHOWN = (
    *("n", "accuracy", "accuracy_ci", "consistent_accuracy", "consistent_accuracy_ci"),
    *("flip_rate", "share_a", "parse_rate", "mean_tokens"),
)
_ORDERS = ("chosen_first", "chosen_second")
_TAGS = ["reward-model", "llm-as-a-judge", "preference", "reasoning"]


def write_model_cards(run: RunDirectory) -> None:
    """Write ``README.md`` beside every model the run has exported, from what its folder holds by now."""
    for stage in STAGES:
        folder = run.export_directory(stage)
        if folder.is_dir():
            write_text(folder / "README.md", model_card(run, stage))


def model_card(run: RunDirectory, stage: str) -> str:
    """The card of the model that ``stage`` exported, its YAML header first."""
    data = card_data(run, stage)
    return f"---\n{header(data)}\n---\n{redact(render_card(data, 'reporting', 'md', 'model_card'))}"


def header(data: Mapping[str, Any]) -> str:
    """The YAML header as ``huggingface_hub`` writes it. A base model or data set is named only if the hub has it."""
    from huggingface_hub import EvalResult, ModelCardData

    own = [row for row in data["figures"] if row["own"]]
    results = [
        EvalResult("text-generation", _slug(name), name, metric, value, task_name="Pairwise judging", metric_name=title)
        for name, metric, title, value in [
            *(
                ("held-out pairs", metric, title, row[metric])
                for row in own[-1:]
                for metric, title in (
                    ("accuracy", "accuracy, mean of both orders"),
                    ("consistent_accuracy", "right in both orders"),
                )
            ),
            *((row["title"], _slug(row["figure"]), row["figure"], row["value"]) for row in data["benchmarks"]),
        ]
        if value is not None
    ]
    card = ModelCardData(
        base_model=data["base"] if data["base_on_hub"] else None,
        datasets=data["datasets"] or None,
        eval_results=results or None,
        library_name="transformers",
        model_name=data["name"] if results else None,
        pipeline_tag="text-generation",
        tags=_TAGS,
    )
    return redact(card.to_yaml())


def card_data(run: RunDirectory, stage: str) -> dict[str, Any]:
    """Everything the card shows, as plain data."""
    settings: dict[str, Any] = run.notes(stage).get("settings", {})
    policy = settings.get("rl.policy") if stage == "rl" else None
    base = policy or settings.get("model.path")
    stages = ["rl"] if policy else [name for name in ("distill", "rl") if name == stage or name == "distill"]
    recipes = {name: notes for name in stages if (notes := run.notes(name)) and run.export_directory(name).is_dir()}
    summary = run.summary()
    model = run.shown / stage / "hf"
    return {
        "name": f"{run.name}-{stage}",
        "stage": stage,
        "run": run.name,
        "recipe": summary.get("recipe"),
        "base": base,
        "base_on_hub": base is not None and _on_hub(base),
        "stages": [ROWS[name] for name in recipes],
        "datasets": sorted({value for value in _named_data(recipes).values() if _on_hub(value)}),
        "data": _data(recipes),
        "recipes": {name: _recipe(name, notes) for name, notes in recipes.items()},
        "figures": _figures(run, stage, summary),
        "benchmarks": list(_benchmarks(run, stage)),
        "prompt": settings.get("model.prompt"),
        "max_prompt_tokens": settings.get("model.max_prompt_tokens"),
        "max_response_tokens": settings.get("model.max_response_tokens"),
        "path": f"'{model}'" if re.search(r"[^\w./-]", str(model)) else str(model),
    }


def _on_hub(name: str) -> bool:
    """Whether a name could only be the hub's: a folder on this machine may look like one."""
    return not Path(name).exists() and is_hub_name(name)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()


def _named_data(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What of the data was named by a setting; the others are the built-in family's."""
    named: dict[str, str] = {}
    for notes in recipes.values():
        named |= {key: str(notes["settings"][key]) for key in _DATA if notes["settings"].get(key)}
    return named


def _data(recipes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of data: what, from where, and what stands for its content."""
    named = _named_data(recipes)
    read: dict[str, dict[str, str]] = {}
    settings: dict[str, Any] = {}
    for notes in recipes.values():
        read |= {key: content for key, content in notes.get("contents", {}).items() if content}
        settings |= notes["settings"]
    sizes = ", ".join(f"{key.removeprefix('data.')} {settings[key]:,}" for key in _BUILT_IN if key in settings)
    built_in = f"the built-in family ({sizes})"
    return [
        {
            "what": what,
            "source": named.get(key, built_in if key != "data.heldout" or not named else "a part of the pairs"),
            "content": "; ".join(f"{file}: {content}" for file, content in read.get(key, {}).items()) or None,
        }
        for key, what in _DATA.items()
        if key in named or key in read or not named
    ]


def _recipe(stage: str, notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that made the stage's result what it is, apart from those of data and model."""
    sections = {"distill": ("seed", "distill."), "rl": ("seed", "rl.", "algorithm.", "verifier.")}[stage]
    return [(key, json.dumps(value)) for key, value in notes["settings"].items() if key.startswith(sections)]


def _figures(run: RunDirectory, stage: str, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of held-out figures up to this model's own; the last evaluation counts if it judged this model."""
    judged = (run.notes("evaluate").get("settings") or {}).get("evaluate.model")
    names = list(ROWS)[: list(ROWS).index(stage) + 1] + (["evaluate"] if _is_export(judged, run, stage) else [])
    return [
        {"name": ROWS[name], "own": name in (stage, "evaluate"), **_rates(summary[name])}
        for name in names
        if name in summary
    ]


def _rates(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the card shows of a row, with None where an older version did not write it."""
    part = {name: row.get(name) for name in _SHOWN}
    part |= {order: row.get("by_order", {}).get(order, {"accuracy": None, "accuracy_ci": None}) for order in _ORDERS}
    return part | {"by_domain": {domain: _rates(inner) for domain, inner in row.get("by_domain", {}).items()}}


def _is_export(model: str | None, run: RunDirectory, stage: str) -> bool:
    return model is not None and Path(model).resolve() == run.export_directory(stage).resolve()


def _benchmarks(run: RunDirectory, stage: str) -> Iterator[dict[str, Any]]:
    """Official figures of the run's evaluations that judged this model."""
    for file in sorted(run.path.glob("evaluations/*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if not _is_export(results.get("model"), run, stage):
            continue
        for result in results["benchmarks"].values():
            spread = flat(result["official_ci"])
            note = result.get("not_comparable", "")
            if result["whole"] is not None and result["items"] < result["whole"]:
                note = f"{result['items']:,} of {result['whole']:,} items. {note}".strip()
            for figure, value in flat(result["official"]).items():
                if value is not None:
                    row = {"figure": figure.replace("_", " "), "value": value, "ci": spread.get(figure), "note": note}
                    yield {"title": result["title"], "orders": results["orders"], **row}
