"""Results in the form in which ``allenai/reward-bench`` writes them, so that its tables and scripts read ours.

Per benchmark two files: ``<name>.json`` has the model and each subset's accuracy (its ``eval-set``), and
``<name>-scores.json`` columns with an entry per sample (its ``eval-set-scores``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.benchmarks.benchmark import Comparison

MODEL_TYPE = "Generative RM"


def reward_bench_form(
    model: str, outcomes: Sequence[Mapping[str, Any]], comparisons: Mapping[str, Comparison]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Subset accuracies, and columns ``text_chosen``, ``text_rejected``, ``results``, ``subset``, ``id`` per sample.

    ``outcomes`` are the rows of ``comparisons.jsonl``. A sample's result is the mean score over its orders; RewardBench
    draws one order, and has 1, 0, or 0.5 for a tie. Texts are whole conversations, as lists of messages.
    """
    scores: dict[str, list[float]] = {}
    for row in outcomes:
        if row.get("mode") == "pointwise":
            continue  # A rating is of one answer, and right or wrong only beside others.
        scores.setdefault(row["comparison"], []).append(row["score"])
    results = {name: sum(found) / len(found) for name, found in scores.items()}
    by_subset: dict[str, list[float]] = {}
    for name, result in results.items():
        by_subset.setdefault(comparisons[name].subset, []).append(result)
    about = {"model": model, "model_type": MODEL_TYPE}
    accuracies = {subset: sum(found) / len(found) for subset, found in sorted(by_subset.items())}
    samples = [comparisons[name] for name in results]
    columns = {
        "text_chosen": [_conversation(sample, sample.pair.chosen) for sample in samples],
        "text_rejected": [_conversation(sample, sample.pair.rejected) for sample in samples],
        "results": list(results.values()),
        "subset": [sample.subset for sample in samples],
        "id": [sample.item for sample in samples],
    }
    return {**about, "chat_template": None, **accuracies}, {**columns, **about}


def _conversation(sample: Comparison, answer: str) -> list[dict[str, str]]:
    asked = [{"role": message.role, "content": message.content} for message in sample.pair.prompt]
    return [*asked, {"role": "assistant", "content": answer}]
