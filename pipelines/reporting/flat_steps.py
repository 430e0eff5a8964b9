"""Steps in which nothing could be learned, because the rewards of every group were equal, and why that may be."""

from __future__ import annotations

from collections.abc import Mapping

Metrics = Mapping[str, float]


def is_flat(metrics: Metrics) -> bool:
    """Whether no group of an RL step had rewards that differ; a step without any scored group is flat too."""
    return "equal_reward_groups" in metrics and (
        metrics["equal_reward_groups"] >= 1.0 or "reward" not in metrics or metrics.get("optimizer_steps") == 0.0
    )


def likely_causes(metrics: Metrics) -> str:
    """Why a step was flat, as far as its own numbers tell; what to do about it."""
    if "reward" not in metrics:
        return "no trace could be scored: read generation_failures and reward_failures in metrics.jsonl, and logs/"
    if metrics.get("parse_rate", 1.0) == 0.0:
        counts = {
            name.partition("/")[2]: count for name, count in metrics.items() if name.startswith("parse_failures/")
        }
        most = f" (most often: {max(counts, key=lambda name: counts[name]).replace('_', ' ')})" if counts else ""
        if metrics.get("truncated", 0.0) >= 0.5:
            return (
                f"no verdict could be read{most} and {metrics['truncated']:.0%} of traces were cut at the limit: raise "
                "model.max_response_tokens"
            )
        return (
            f"no verdict could be read{most}: the model does not write the form that model.prompt asks for; distil "
            "first, or check model.prompt and algorithm.verdict_mode"
        )
    accuracy = metrics.get("accuracy")
    if accuracy == 1.0:
        return "every verdict is right: the pairs are too easy; take harder ones"
    if accuracy == 0.0:
        return "every verdict is wrong: check the labels of the pairs, distil first, or take easier pairs"
    if metrics.get("reward_std", 0.0) == 0.0:
        return "all rewards are the same whatever the verdict: check algorithm.reward and the reward functions"
    if metrics.get("entropy", 1.0) < 0.01:
        return (
            "the traces of a group are all alike (entropy near 0): raise algorithm.temperature or "
            "algorithm.entropy_coefficient, or begin from an earlier checkpoint"
        )
    return (
        "the traces of a group agree with one another: raise algorithm.samples or algorithm.temperature, take pairs "
        "nearer to what the model can do, or set algorithm.equal_reward_groups=refill"
    )


class FlatSteps:
    """Counts consecutive flat steps, and warns once when there are ``limit`` of them; 0 never warns."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def after(self, metrics: Metrics) -> str | None:
        """The warning, if this step makes it due."""
        self._count = self._count + 1 if is_flat(metrics) else 0
        if not self._limit or self._count != self._limit:
            return None
        return (
            f"nothing was learned in the last {self._count} steps, as the rewards within every group were equal; "
            f"likely {likely_causes(metrics)}"
        )
