"""The catalogue names what is there: commands, sections, settings; and says what starts over with what."""

from __future__ import annotations

import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from pipelines.config import Config, known_keys
from pipelines.config.compose import CONF
from pipelines.runs.catalogue import STAGES, StageRecord, with_dependents

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("record", STAGES.values(), ids=list(STAGES))
def test_a_record_names_what_is_there(record: StageRecord) -> None:
    assert (ROOT / "pipelines" / f"{record.name}.py").is_file() == record.submitted
    assert record.section in {item.name for item in fields(Config)}
    assert set(record.defining) | set(record.free) <= set(known_keys())
    assert all(any(key.startswith(f"{part}.") for part in record.defining) for key in record.free)
    earlier = list(STAGES)[: list(STAGES).index(record.name)]
    assert set(record.needs) <= set(earlier)
    if record.submitted and record.section == record.name:
        in_config = f"\n{record.name}:\n" in (CONF / "config.yaml").read_text()
        assert in_config or (CONF / f"{record.name}.yaml").is_file()


def test_nothing_is_left_by_two_stages() -> None:
    for names in ("leaves", "summary", "judged"):
        found = [name for record in STAGES.values() for name in getattr(record, names)]
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("stage", "undone"),
    [
        ("prepare", ["evaluate", "rl", "distill", "prepare"]),
        ("distill", ["evaluate", "rl", "distill"]),
        ("rl", ["evaluate", "rl"]),
        ("evaluate", ["evaluate"]),
        ("benchmarks", ["benchmarks"]),
        ("chains", ["chains"]),
    ],
)
def test_what_builds_on_a_stage_starts_over_with_it(stage: str, undone: list[str]) -> None:
    assert [record.name for record in with_dependents(stage)] == undone


def test_settings_are_single_values_without_those_that_are_free() -> None:
    config = Config()
    settings = STAGES["distill"].settings(config)
    assert settings["distill.optimizer.learning_rate"] == config.distill.optimizer.learning_rate
    assert not any(key.startswith(("distill.checkpoints", "data.mix", "rl.")) for key in settings)
    assert set(STAGES["prepare"].settings(config)) == {
        *("seed", "data.distill_pairs", "data.rl_pairs", "data.heldout_pairs", "model.prompt", "model.path"),
        *("data.wording", "data.criteria", "data.reasoning_share"),
        *("model.hidden", "model.layers", "model.heads", "model.intermediate"),
        *("data.modes.pairwise", "data.modes.pointwise", "data.modes.listwise"),
    }


@pytest.mark.parametrize("name", [record.name for record in STAGES.values() if record.submitted])
def test_make_runs_every_stage(name: str) -> None:
    done = subprocess.run(["make", "-n", name, "RUN=mine"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert f"-m pipelines.{name} " in done.stdout, done.stderr


def test_make_runs_a_stage_that_has_no_line_in_the_makefile(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    for name in ("pipelines/mine.py", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).touch()
    asked = ["make", "-n", "-f", str(ROOT / "Makefile"), "mine", "RUN=x"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "-m pipelines.mine recipe='tiny' run='x'" in done.stdout, done.stderr
