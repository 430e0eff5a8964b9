"""Whether a run that met faults ended as one that met none: pure functions on what both left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

History = Mapping[int, Counter[str]]
"""RL step -> prompt -> traces of it that were trained on, as the run's trace files have them."""

LARGEST_DIFFERENCE = 1e-3
"""Between log-probabilities of engine and learner in float32: above it an engine held other weights."""
_NAMED = 5
"""Prompts that a message names."""


def history_of(rows: Iterable[Mapping[str, Any]]) -> dict[int, Counter[str]]:
    """The history that rows of ``traces/rl-rollouts-*.parquet`` tell."""
    history: dict[int, Counter[str]] = {}
    for row in rows:
        history.setdefault(row["step"], Counter())[f"{row['pair_id']}/{row['order']}"] += 1
    return history


def history_problems(history: History, undisturbed: History) -> list[str]:
    """What is wrong with a history, in words; nothing where each prompt was trained on exactly as often, with as many
    traces, as in the undisturbed run of the same settings, and each step is there."""
    problems = []
    if missing := sorted(set(undisturbed) - set(history)):
        problems.append(f"steps without traces: {_few(map(str, missing))}")
    if more := sorted(set(history) - set(undisturbed)):
        problems.append(f"steps that there should not be: {_few(map(str, more))}")
    total = {name: sum(of.values(), Counter[str]()) for name, of in (("found", history), ("wanted", undisturbed))}
    for word, one, other in (("lost", "wanted", "found"), ("trained on too often", "found", "wanted")):
        if apart := total[one] - total[other]:
            counts = (
                f"{prompt} ({total['found'][prompt]} traces, not {total['wanted'][prompt]})" for prompt in sorted(apart)
            )
            problems.append(f"{len(apart)} prompts {word}: {_few(counts)}")
    return problems


def metrics_problems(rows: Sequence[Mapping[str, Any]], steps: int) -> list[str]:
    """What is wrong with the ``rl`` lines of ``metrics.jsonl`` of a run of ``steps`` steps, in words."""
    problems = []
    numbers = [row["step"] for row in rows]
    if numbers != list(range(1, steps + 1)):
        problems.append(
            f"metrics.jsonl should have the steps 1 to {steps} once each, but has {_few(map(str, numbers))}"
        )
    for row in rows:
        step, metrics = row["step"], row["metrics"]
        if metrics["weight_version"] != step:
            problems.append(f"step {step} published weight version {metrics['weight_version']:g}")
        if metrics["generation_failures"]:
            problems.append(f"step {step} lost {metrics['generation_failures']:g} traces")
        if not metrics["logprob_difference_max"] <= LARGEST_DIFFERENCE:
            difference = metrics["logprob_difference_max"]
            problems.append(f"step {step}: log-probabilities of engine and learner differ by {difference:.2g}")
    return problems


def accuracy_problems(found: float, undisturbed: float, margin: float) -> list[str]:
    """Whether a held-out accuracy is farther from the undisturbed run's than ``margin``, in words."""
    if abs(found - undisturbed) <= margin:
        return []
    return [f"held-out accuracy {found:.3f} is more than {margin:g} from the undisturbed run's {undisturbed:.3f}"]


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
