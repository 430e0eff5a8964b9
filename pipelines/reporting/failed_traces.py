"""Steps in which traces could not be written or scored: a few are dropped and counted, many are a fault to look at."""

from __future__ import annotations

from collections.abc import Mapping

LIMIT = 0.01
"""Largest share of failed traces that nobody is told of."""


class FailedTraces:
    """Warns when the share of failed traces rises above the limit, once per stretch of such steps."""

    def __init__(self) -> None:
        self._is_above = False

    def after(self, metrics: Mapping[str, float]) -> str | None:
        """The warning, if this step makes it due."""
        was_above, share = self._is_above, metrics.get("failed_share", 0.0)
        self._is_above = share > LIMIT
        if was_above or not self._is_above:
            return None
        written, scored = metrics.get("generation_failures", 0.0), metrics.get("reward_failures", 0.0)
        causes = [name.partition("/")[2] for name in metrics if name.startswith("reward_failures/")]
        why = f" ({', '.join(sorted(causes))})" if causes else ""
        return (
            f"{share:.1%} of traces failed, above {LIMIT:.0%}: {written:.0f} could not be written "
            f"(logs/rollout-*.log), {scored:.0f} not be scored{why}; they are in no group and no mean"
        )
