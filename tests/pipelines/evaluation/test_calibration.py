"""Calibration error and Brier score against values worked out by hand."""

from __future__ import annotations

import random

import pytest

from pipelines.evaluation.calibration import Forecast, calibration


def forecasts(*groups: tuple[float, int, int]) -> list[Forecast]:
    """Of each group: confidence, right ones, all."""
    return [
        Forecast(confidence, float(index < right), (number, index))
        for number, (confidence, right, count) in enumerate(groups)
        for index in range(count)
    ]


def test_two_bins_by_hand() -> None:
    found = calibration(forecasts((0.9, 6, 10), (0.6, 6, 10)), resamples=50)
    assert found is not None
    # Half of the forecasts are 0.3 off, the other half right on average.
    assert found["ece"] == pytest.approx(0.15, abs=1e-12)
    assert found["brier"] == pytest.approx((6 * 0.01 + 4 * 0.81 + 6 * 0.16 + 4 * 0.36) / 20, abs=1e-12)
    assert (found["n"], found["confidence"], found["accuracy"]) == (20, pytest.approx(0.75), 0.6)
    assert [(part["low"], part["high"], part["n"], part["accuracy"]) for part in found["bins"]] == [
        (0.5, 0.6, 10, 0.6),
        (0.8, 0.9, 10, 0.6),
    ]


def test_certainty_and_ties() -> None:
    sure = calibration(forecasts((1.0, 10, 10), (0.0, 0, 5)), resamples=20)
    assert sure is not None
    assert (sure["ece"], sure["brier"], sure["ece_ci"], sure["brier_ci"]) == (0.0, 0.0, [0.0, 0.0], [0.0, 0.0])
    tie = calibration([Forecast(0.5, 0.5, "a")], resamples=20)
    assert tie is not None
    assert (tie["ece"], tie["brier"]) == (0.0, 0.0)
    assert calibration([]) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration([Forecast(1.2, 1.0, "a")])


def test_the_interval_of_the_brier_score_has_its_width() -> None:
    rng = random.Random(0)
    found = calibration([Forecast(0.7, float(rng.random() < 0.7), index) for index in range(2000)], resamples=1000)
    assert found is not None
    low, high = found["brier_ci"]
    # A squared distance is 0.09 or 0.49: standard error 0.4 * sqrt(0.21 / 2000) = 0.0041.
    assert (high - low) / 2 == pytest.approx(1.96 * 0.0041, rel=0.1)
    assert low < 0.21 < high


def test_forecasts_of_one_unit_stay_together() -> None:
    """Ten judgments of one pair are no more certain than one: the interval is as wide as without the repeats."""
    single = [Forecast(0.5, float(index % 2), index) for index in range(100)]
    repeated = [Forecast(0.5, float(index % 4 < 2), index // 20) for index in range(100)]
    one, many = calibration(single, resamples=500), calibration(repeated, resamples=500)
    assert one is not None
    assert many is not None
    assert one["accuracy"] == many["accuracy"] == 0.5
    assert many["ece_ci"] == [0.0, 0.0]  # Every unit is right half of the time.
