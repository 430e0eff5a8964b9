"""Steps whose traces the engine wrote with other log-probabilities than the learner has under the same weights."""

from __future__ import annotations

from collections.abc import Mapping

LIMITS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest sound mean of `logprob_difference`. 16-bit types: their rounding, 2**-11 and 2**-8, of logits of order ten;
float32: a hundred times what is measured. Of the mean, as single tokens of low probability differ by far more."""


class PoliciesApart:
    """Warns when the mean difference rises above the limit, once per stretch of such steps."""

    def __init__(self, dtypes: tuple[str, str], old_logprobs: str) -> None:
        """``dtypes`` are the engine's and the learner's: the coarser one decides."""
        self._dtype = max(dtypes, key=lambda dtype: LIMITS[dtype])
        self._old_logprobs = old_logprobs
        self._is_apart = False

    def after(self, metrics: Mapping[str, float]) -> str | None:
        """The warning, if this step makes it due."""
        was_apart, limit = self._is_apart, LIMITS[self._dtype]
        difference = metrics.get("logprob_difference", 0.0)
        # A mean that is not a number is no sound one.
        self._is_apart = self._compares_equal_weights(metrics) and not difference <= limit
        if was_apart or not self._is_apart:
            return None
        return (
            f"engine and learner are apart: log-probabilities under the same weights differ by {difference:.2g} in the "
            f"mean, above {limit:g} for {self._dtype}; does the engine compute the model as the learner does "
            "(rollout.dtype, learner.dtype, its kernels)? algorithm.correction=truncate bounds what it does to the loss"
        )

    def _compares_equal_weights(self, metrics: Mapping[str, float]) -> bool:
        """Not where traces are of older weights, or where the weights had moved before the comparison."""
        one_step = metrics.get("optimizer_steps", 1.0) <= 1
        return metrics.get("staleness_max", 0.0) == 0 and (self._old_logprobs == "learner" or one_step)
