"""The reward verifier: a Ray actor that reads traces and scores them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from actors.logs import redirect_output
from actors.messages import ScoredTrace, Side, Trace
from actors.verifier.rewards import check_weights, score
from actors.verifier.trace import VerdictMode, read_verdict

log = logging.getLogger(__name__)


class RewardVerifier:
    """Scores traces by one rule, fixed when it starts. Made a Ray actor by the session, which knows the resources."""

    def __init__(
        self, weights: Mapping[str, float] | None = None, mode: VerdictMode = "paper", log_path: str | None = None
    ) -> None:
        """Check the rule before any trace is generated for it.

        Args:
            weights: of the reward components; None is the paper's, the verdict alone.
            mode: how a verdict is read.
            log_path: file for this process's output; None leaves the output where it is.

        Raises:
            RewardError: weights that cannot be used.
            ValueError: an unknown mode.

        """
        self._weights = {"verdict": 1.0} if weights is None else dict(weights)
        self._mode = mode
        check_weights(self._weights)
        read_verdict("", mode)
        # Last, so that a refused rule leaves the output of a caller without Ray where it was.
        if log_path is not None:
            redirect_output(log_path)

    def ready(self) -> bool:
        """Answers once the actor is up and its rule is checked."""
        return True

    def score(self, traces: Sequence[tuple[Trace, Side]]) -> list[ScoredTrace]:
        """Score each trace against the side on which its better response was shown; the order is kept.

        Raises:
            RewardError: a label that is neither A nor B.

        """
        scored = [score(trace, label, self._weights, self._mode) for trace, label in traces]
        causes = Counter(item.verdict.cause for item in scored if item.verdict.cause is not None)
        if causes:
            counted = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))
            log.info("%d of %d traces without a verdict: %s", causes.total(), len(scored), counted)
        return scored
