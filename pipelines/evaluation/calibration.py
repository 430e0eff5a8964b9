"""Whether a judge is as sure as it is right: calibration error, Brier score, and the bins of a reliability plot."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.evaluation.bootstrap import bounds, resampled_sums


@dataclass(frozen=True, slots=True)
class Forecast:
    """A confidence that a verdict is right, and what became of it."""

    confidence: float
    """Between 0 and 1."""
    outcome: float
    """1 right, 0 wrong, 0.5 a tie."""
    unit: Hashable
    """Forecasts of one unit are not independent."""


def calibration(
    forecasts: Sequence[Forecast], *, bins: int = 10, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> dict[str, Any] | None:
    """``{"n", "confidence", "accuracy", "ece", "ece_ci", "brier", "brier_ci", "bins"}``; None without forecasts.

    ``brier`` is the mean of ``(confidence - outcome)²`` (Brier 1950). ``ece`` is the mean over forecasts of the
    distance between the mean confidence and the mean outcome of their bin, ``bins`` of equal width, upper edge included
    (Guo et al. 2017, arXiv 1706.04599, equation 3). Intervals are bootstrap over units; that of ``ece`` lies
    high where data are few, because noise in a bin always adds to the distance. Each of ``bins`` is
    ``{"low", "high", "n", "confidence", "accuracy"}``; empty ones are left out.

    Raises:
        ValueError: a confidence outside 0 to 1.

    """
    if not forecasts:
        return None
    confidence = np.array([item.confidence for item in forecasts])
    outcome = np.array([item.outcome for item in forecasts])
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"confidences must lie between 0 and 1, not {confidence.min()} to {confidence.max()}")
    place = np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    names = {unit: index for index, unit in enumerate(dict.fromkeys(item.unit for item in forecasts))}
    unit = np.array([names[item.unit] for item in forecasts])
    # Per unit: count, confidence and outcome of each bin, then the squared distances.
    sums = np.zeros((len(names), 3 * bins + 1))
    for offset, value in enumerate((np.ones_like(confidence), confidence, outcome)):
        np.add.at(sums, (unit, 3 * place + offset), value)
    sums[:, -1] = np.bincount(unit, (confidence - outcome) ** 2)
    ece, brier = _errors(resampled_sums(sums, np.random.default_rng(seed), resamples))
    whole = sums.sum(axis=0)
    return {
        "n": len(forecasts),
        "confidence": float(confidence.mean()),
        "accuracy": float(outcome.mean()),
        "ece": float(_errors(whole)[0]),
        "ece_ci": bounds(ece, level),
        "brier": float(_errors(whole)[1]),
        "brier_ci": bounds(brier, level),
        "bins": [
            {
                "low": index / bins,
                "high": (index + 1) / bins,
                "n": int(count),
                "confidence": float(total / count),
                "accuracy": float(right / count),
            }
            for index, (count, total, right) in enumerate(whole[:-1].reshape(bins, 3))
            if count
        ],
    }


def _errors(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Calibration error and Brier score, ``[...]``, of sums ``[..., 3 * bins + 1]``."""
    counts = sums[..., 0:-1:3].sum(axis=-1)
    distance = np.abs(sums[..., 1:-1:3] - sums[..., 2:-1:3]).sum(axis=-1)
    return distance / counts, sums[..., -1] / counts
