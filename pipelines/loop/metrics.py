"""The numbers that describe the traces of a rollout batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from actors.messages import ScoredGroup
from actors.verifier.rewards import is_right


def rollout_metrics(groups: Sequence[ScoredGroup], weight_version: int) -> dict[str, float]:
    """Means over all scored traces, those of dropped groups included; failures by cause.

    Args:
        groups: of one rollout batch.
        weight_version: the learner's, against which staleness is counted.

    """
    unscored = Counter(failure.cause for group in groups for failure in group.unscored)
    metrics = {
        "generation_failures": float(sum(len(group.failures) for group in groups)),
        "reward_failures": float(unscored.total()),
    }
    metrics |= {f"reward_failures/{cause}": float(count) for cause, count in sorted(unscored.items())}
    failed = metrics["generation_failures"] + metrics["reward_failures"]
    if asked := failed + sum(len(group.traces) for group in groups):
        metrics["failed_share"] = failed / asked
    pairs = [(group.prompt, item) for group in groups for item in group.traces]
    if not pairs:
        return metrics
    scored = [item for _, item in pairs]
    lengths = np.array([len(item.trace.token_ids) for item in scored])
    staleness = np.array([weight_version - item.trace.min_version for item in scored])
    right = [is_right(item, prompt) for prompt, item in pairs]
    modes = [prompt.judged for prompt, _ in pairs]
    of_pairs = [item for prompt, item in pairs if prompt.judged == "pairwise"] or scored
    causes = Counter(item.verdict.cause for item in scored if item.verdict.cause is not None)
    metrics |= {
        "reward": _mean(item.reward for item in scored),
        "reward_std": float(np.std([item.reward for item in scored])),
        "accuracy": _mean(right),
        "parse_rate": _mean(item.verdict.cause is None for item in scored),
        "share_a": _mean(item.verdict.side == "A" for item in of_pairs),
        "completion_tokens": float(lengths.mean()),
        "completion_tokens_min": float(lengths.min()),
        "completion_tokens_max": float(lengths.max()),
        "truncated": _mean(item.trace.finish_reason == "length" for item in scored),
        "staleness_min": float(staleness.min()),
        "staleness": float(staleness.mean()),
        "staleness_max": float(staleness.max()),
    }
    metrics |= {f"parse_failures/{cause}": float(count) for cause, count in sorted(causes.items())}
    names = sorted({name for item in scored for name in item.parts})
    metrics |= {f"reward/{name}": _mean(item.parts.get(name, 0.0) for item in scored) for name in names}
    for kind, keys in (
        ("domain", [prompt.domain for prompt, _ in pairs]),
        ("order", [prompt.order for prompt, _ in pairs]),
        ("mode", modes if set(modes) != {"pairwise"} else []),
    ):
        for key in sorted(set(keys)):
            share = _mean(correct for correct, mine in zip(right, keys, strict=True) if mine == key)
            metrics[f"accuracy/{kind}/{key}"] = share
    return metrics


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
