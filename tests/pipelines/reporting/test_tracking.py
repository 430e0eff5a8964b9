"""The tracker: what is on disk afterwards, in our own file and in W&B's."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.jsonl import keep_rows
from actors.redaction import remember
from pipelines.reporting.tracking import TRACE_COLUMNS, Tracker, plain_numbers
from pipelines.reporting.wandb_mode import has_credentials, resolve_mode, server_hosts


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    end_service()


def end_service() -> None:
    """End W&B's process, which writes a run's last lines after ``finish``, and forget the environment it has read."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def read_lines(directory: Path) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def wandb_records(directory: Path) -> dict[str, list]:
    """Records of the one offline run in ``directory``: blocks of 32 KiB of (crc, length, type) and a protobuf."""
    from wandb.proto import wandb_internal_pb2

    read: Any = wandb_internal_pb2  # Its classes are made at import time.
    end_service()
    (path,) = (directory / "wandb").glob("offline-run-*/run-*.wandb")
    raw, position, pending = path.read_bytes(), 7, b""
    records: dict[str, list] = {}
    while position + 7 <= len(raw):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        pending += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # A whole record, or the last piece of one.
            record = read.Record.FromString(pending)
            name = record.WhichOneof("record_type")
            records.setdefault(name, []).append(getattr(record, name))
            pending = b""
    return records


def history(records: dict[str, list]) -> list[dict[str, object]]:
    return [
        {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in records["history"]
    ]


def test_disabled_writes_every_number_as_valid_json_and_nothing_of_wandb(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"reward": 0.5, "time/generate": np.float32(0.25), "kl": torch.tensor(2.0)},
        {"reward": math.nan, "kl": math.inf, "loss": -math.inf, "tokens": np.int64(7)},
    ]
    with Tracker(tmp_path, "rl", {}, "disabled") as tracker:
        for step, metrics in enumerate(steps, start=1):
            tracker.log(step, metrics)
        tracker.log_traces(2, [{"text": "x"}])
        tracker.summary({"accuracy": 1.0})
        assert tracker.wandb_id is None
    first, second = read_lines(tmp_path)
    assert first["stage"] == "rl"
    assert first["step"] == 1
    assert first["metrics"] == {"reward": 0.5, "time/generate": 0.25, "kl": 2.0}
    assert second["metrics"] == {"reward": "NaN", "kl": "Infinity", "loss": "-Infinity", "tokens": 7}
    assert first["time"] <= second["time"]
    assert not (tmp_path / "wandb").exists()


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "distill", {}, "disabled")
    tracker.log(3, {"loss": 1.5})
    assert [line["step"] for line in read_lines(tmp_path)] == [3]
    tracker.finish()
    tracker.finish()


@pytest.mark.parametrize("torn", ['{"stage": "rl", "step": 2, "me', "x" * 200_000])
def test_a_torn_last_line_is_cut_and_whole_lines_are_kept(tmp_path: Path, torn: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl", "step": 1, "metrics": {}}\n' + torn)
    with Tracker(tmp_path, "rl", {}, "disabled") as tracker:
        tracker.log(2, {"reward": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]


def test_a_file_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl"')
    with Tracker(tmp_path, "rl", {}, "disabled") as tracker:
        tracker.log(1, {})
    assert len(read_lines(tmp_path)) == 1


@pytest.mark.slow
def test_offline_run_holds_group_stage_axis_numbers_traces_and_summary(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {"seed": 3, "rl": {"steps": 5}}
    with Tracker(tmp_path, "rl", config, "auto", "judges", "tiny-run", "feedf00d") as tracker:
        assert tracker.mode == "offline"
        assert tracker.wandb_id == "feedf00d"
        # A resumed stage repeats steps after its last checkpoint.
        for step, reward in ((1, 0.25), (2, math.nan), (1, 0.75)):
            tracker.log(step, {"reward": reward, "time/generate": 2.0})
        tracker.log_traces(2, [{"stage": "rl", "verdict": "A", "text": "one"}, {"verdict": None, "text": "two"}])
        tracker.log_table("official", ["figure", "value", "low"], [["average", 0.5, None], ["micro", 0.25, 0.125]])
        tracker.summary({"accuracy": 0.9, "by_domain": {"Chat": {"accuracy": 0.8}}})
    records = wandb_records(tmp_path)
    (run,) = records["run"]
    assert (run.run_id, run.project, run.run_group, run.job_type) == ("feedf00d", "judges", "tiny-run", "rl")
    values = {update.key: update.value_json for update in run.config.update}
    assert json.loads(values["rl"]) == {"steps": 5}
    assert {(metric.name or metric.glob_name, metric.step_metric) for metric in records["metric"]} == {
        ("rl/step", ""),
        ("rl/*", "rl/step"),
    }
    rows = history(records)
    assert [(row["rl/step"], row["rl/time/generate"]) for row in rows[:3]] == [(1, 2), (2, 2), (1, 2)]
    assert rows[0]["rl/reward"] == 0.25
    assert math.isnan(float(rows[1]["rl/reward"]))  # type: ignore[arg-type]
    assert rows[2]["rl/reward"] == 0.75
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/rl/traces*.json")
    (figures,) = tmp_path.glob("wandb/offline-run-*/files/media/table/rl/official*.json")
    assert json.loads(figures.read_text()) == {
        "columns": ["figure", "value", "low"],
        "data": [["average", 0.5, None], ["micro", 0.25, 0.125]],
    }
    content = json.loads(table.read_text())
    assert tuple(content["columns"]) == TRACE_COLUMNS
    assert [row[TRACE_COLUMNS.index("text")] for row in content["data"]] == ["one", "two"]
    summaries = {update.key: json.loads(update.value_json) for row in records["summary"] for update in row.update}
    assert summaries["accuracy"] == 0.9
    assert summaries["by_domain"] == {"Chat": {"accuracy": 0.8}}
    assert [record.exit_code for record in records["exit"]] == [0]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.slow
def test_a_stage_that_fails_is_marked_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="engine died"), Tracker(tmp_path, "distill", {}, "offline"):
        raise RuntimeError("engine died")
    assert [record.exit_code for record in wandb_records(tmp_path)["exit"]] == [1]


def test_wandb_that_breaks_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def log(self, row: dict) -> None:
            raise BrokenPipeError("service is gone")

    tracker = Tracker(tmp_path, "rl", {}, "disabled")
    tracker._run = Broken()
    tracker.log(1, {"reward": 1.0})
    tracker.log(2, {"reward": 1.0})
    tracker.finish()
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]
    assert tracker.mode == "disabled"
    assert len([record for record in caplog.records if "service is gone" in record.message]) == 1


@pytest.mark.slow
def test_what_a_person_must_look_at_is_an_alert(tmp_path: Path) -> None:
    """Two of one title are both sent; keys stay out of them."""
    remember("sk-" + "x" * 40)
    with Tracker(tmp_path, "rl", {}, "offline") as tracker:
        tracker.alert("tiny: rl needs attention", "nothing was learned with sk-" + "x" * 40)
        tracker.alert("tiny: rl needs attention", "engines and learners differ")
        tracker.alert("tiny: rl stopped before its end", "the log is logs/")
    alerts = wandb_records(tmp_path)["alert"]
    assert [alert.title for alert in alerts] == ["tiny: rl needs attention"] * 2 + ["tiny: rl stopped before its end"]
    assert {alert.level for alert in alerts} == {"WARN"}
    assert "xxx" not in alerts[0].text


@pytest.mark.slow
def test_no_server_means_offline_within_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with Tracker(tmp_path, "rl", {}, "auto", init_timeout=5) as tracker:
        assert tracker.mode == "offline"
        tracker.log(1, {"reward": 0.5})
    assert "going online failed" in caplog.text
    assert "127.0.0.1:9" in caplog.text
    assert history(wandb_records(tmp_path))[0]["rl/reward"] == 0.5


def test_auto_is_online_only_with_credentials(tmp_path: Path) -> None:
    def resolve(mode: str, **environment: str) -> str:
        return resolve_mode(mode, environment, tmp_path, ["wandb.example.org"])

    assert resolve("auto") == "offline"
    assert resolve("auto", WANDB_API_KEY="k") == "online"
    assert resolve("auto", WANDB_API_KEY="k", WANDB_MODE="offline") == "offline"
    assert resolve("auto", WANDB_API_KEY="k", WANDB_MODE="online") == "online"
    assert resolve("auto", WANDB_MODE="disabled") == "disabled"
    assert resolve("offline", WANDB_API_KEY="k") == "offline"
    assert resolve("online", WANDB_API_KEY="k", WANDB_MODE="offline") == "online"
    with pytest.raises(ValueError, match="tracking\\.wandb is 'on'"):
        resolve("on")


def test_online_without_a_key_says_so_and_does_not_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_mode("online", {}, tmp_path, ["wandb.example.org"]) == "offline"
    assert "no WANDB_API_KEY" in caplog.text


def test_a_netrc_login_counts_for_its_host_only(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_credentials({}, tmp_path, ["other.example.org", "wandb.example.org"])
    assert not has_credentials({}, tmp_path, ["other.example.org"])
    assert not has_credentials({"NETRC": str(tmp_path / "absent")}, tmp_path, ["wandb.example.org"])


@pytest.mark.slow
def test_a_login_to_the_configured_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "login").write_text("machine 127.0.0.1:9 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "login"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert resolve_mode("auto", os.environ, tmp_path, server_hosts()) == "online"
    end_service()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:10")
    assert resolve_mode("auto", os.environ, tmp_path, server_hosts()) == "offline"


def test_plain_numbers_keeps_structure() -> None:
    value = {"a": (np.float64(1.5), [np.nan]), 2: None, "t": True, "s": "x"}
    assert plain_numbers(value) == {"a": [1.5, ["NaN"]], "2": None, "t": True, "s": "x"}
    assert float(plain_numbers(-math.inf)) == -math.inf


def test_lines_that_were_taken_out_while_it_is_open_are_followed_by_others(tmp_path: Path) -> None:
    """As where a stage goes back to its last checkpoint: the file is then another one than it had opened."""
    tracker = Tracker(tmp_path, "rl", {}, "disabled")
    for step in (1, 2, 3):
        tracker.log(step, {"reward": float(step)})
    assert keep_rows(tmp_path / "metrics.jsonl", lambda row: row["step"] <= 1) == 2
    tracker.reopen()
    tracker.log(2, {"reward": 20.0})
    assert [(line["step"], line["metrics"]["reward"]) for line in read_lines(tmp_path)] == [(1, 1.0), (2, 20.0)]
    tracker.finish()
