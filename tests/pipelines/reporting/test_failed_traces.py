"""The warning of traces that fail: from a share on, once per stretch, with counts and causes."""

from __future__ import annotations

from pipelines.reporting.failed_traces import FailedTraces


def test_many_failures_are_warned_of_once_per_stretch() -> None:
    alarm = FailedTraces()
    few = {"failed_share": 0.01, "generation_failures": 1.0, "reward_failures": 0.0}
    many = {
        "failed_share": 0.25,
        "generation_failures": 10.0,
        "reward_failures": 54.0,
        "reward_failures/timeout": 50.0,
        "reward_failures/died": 4.0,
    }
    warnings = [alarm.after(metrics) for metrics in ({"loss": 1.0}, few, many, many, few, many)]
    assert [bool(warning) for warning in warnings] == [False, False, True, False, False, True]
    assert warnings[2] == (
        "25.0% of traces failed, above 1%: 10 could not be written (logs/rollout-*.log), 54 not be scored "
        "(died, timeout); they are in no group and no mean"
    )
