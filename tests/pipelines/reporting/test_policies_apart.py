"""A warning where engine and learner compute different policies: when it comes, by which limit."""

from __future__ import annotations

import math

import pytest

from pipelines.reporting.policies_apart import PoliciesApart


def said(differences: list[float], dtypes: tuple[str, str] = ("bfloat16", "bfloat16"), **metrics: float) -> list[int]:
    """Steps that warn."""
    apart = PoliciesApart(dtypes, "learner")
    texts = [apart.after({"logprob_difference": difference, **metrics}) for difference in differences]
    return [step for step, text in enumerate(texts) if text]


def test_the_warning_comes_once_a_stretch_and_names_mean_limit_and_remedy() -> None:
    assert said([0.01, 0.2, 0.3, 0.04, 0.06]) == [1, 4]
    text = PoliciesApart(("bfloat16", "float32"), "learner").after({"logprob_difference": 0.213})
    assert text is not None
    assert "differ by 0.21 in the mean, above 0.05 for bfloat16" in text
    assert "algorithm.correction=truncate" in text


@pytest.mark.parametrize(
    ("dtypes", "sound", "unsound"),
    [
        (("float32", "float32"), 5e-6, 2e-4),
        (("float16", "float32"), 2e-3, 2e-2),
        (("bfloat16", "float32"), 2e-2, 0.1),
        (("float32", "bfloat16"), 2e-2, 0.1),
    ],
)
def test_the_coarser_type_sets_the_limit(dtypes: tuple[str, str], sound: float, unsound: float) -> None:
    assert said([sound], dtypes) == []
    assert said([unsound], dtypes) == [0]


def test_the_largest_difference_alone_is_no_alarm_and_not_a_number_is() -> None:
    assert said([0.01], logprob_difference_max=9.0) == []
    assert said([math.nan]) == [0]


def test_other_weights_are_not_compared() -> None:
    assert said([0.5], staleness_max=1.0) == []
    moved = PoliciesApart(("float32", "float32"), "rollout")
    assert moved.after({"logprob_difference": 0.5, "optimizer_steps": 8.0}) is None
    assert moved.after({"logprob_difference": 0.5, "optimizer_steps": 1.0})
    assert PoliciesApart(("float32", "float32"), "rollout").after({"loss": 1.0}) is None
