"""Bad input on the command line: one clear message, a non-zero exit, nothing left half done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import SMALL, Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("overrides", "status", "parts"),
    [
        (["rl.stepz=3"], 2, ["unknown setting 'rl.stepz'", "did you mean 'rl.steps'?"]),
        (["recipe=tinny"], 2, ["there is no recipe 'tinny'", "did you mean 'tiny'?"]),
        (["rl.steps=x"], 2, ["'rl.steps' has the wrong type"]),
        (["stray"], 2, ["cannot read argument 'stray'"]),
    ],
)
def test_bad_setting_ends_with_one_message(runs: Runs, overrides: list[str], status: int, parts: list[str]) -> None:
    output = runs("rl", "bad", *overrides, status=status)
    assert output.startswith("error: ")
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    assert not runs.path("bad").exists()


def test_rl_without_distilled_model_says_what_to_run(runs: Runs) -> None:
    output = runs("rl", "empty", *SMALL, status=1)
    assert "has no distilled model" in output
    assert "make distill RUN=empty" in output
    assert "Traceback" not in output


def test_distill_without_data_says_what_to_run(runs: Runs) -> None:
    assert "make prepare RUN=nothing" in runs("distill", "nothing", *SMALL, status=1)


def test_model_that_is_not_there_is_named(runs: Runs, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    missing = str(tmp_path / "no-model")
    output = runs("rl", "missing", *SMALL, f"rl.policy={missing}", f"data.train={pairs}", status=1)
    assert missing in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def prepared(runs: Runs) -> str:
    """A run that is prepared, by its name."""
    runs("prepare", "prepared", *SMALL)
    return "prepared"


def test_bad_row_is_named_with_file_and_line(runs: Runs, prepared: str, tmp_path: Path) -> None:
    model = str(runs.path(prepared) / "model")
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    with pairs.open("a") as file:
        file.write(json.dumps({"prompt": "q", "response_a": "x", "response_b": "y", "label": "C"}) + "\n")
    output = runs("rl", prepared, *SMALL, f"rl.policy={model}", f"data.train={pairs}", status=1)
    assert f"{pairs}, row 41, field 'label': 'C' is neither side" in output


@pytest.mark.ray
def test_cluster_without_the_resources_is_an_error_after_a_deadline(runs: Runs, prepared: str) -> None:
    output = runs(
        "distill",
        prepared,
        *SMALL,
        "learner.ranks=5000",
        "cluster.ready_timeout=0.5",
        "cluster.memory_check=false",
        status=1,
    )
    assert "CPU: 2501 needed" in output
    assert "learner.ranks" in output


def test_run_folder_in_use_names_the_other_process(runs: Runs) -> None:
    from pipelines.runs.folder import RunDirectory

    with RunDirectory(runs.outputs, "busy"):
        output = runs("prepare", "busy", *SMALL, status=1)
    assert "is in use by process" in output


def write_pairs(path: Path) -> Path:
    """Forty small pairs of our own in the schema of a preference file."""
    rows = [
        {
            "id": f"own-{number}",
            "source": "own",
            "domain": "chat",
            "prompt": [{"role": "user", "content": f"Say {number} twice."}],
            "chosen": f"{number} {number}",
            "rejected": f"{number}",
        }
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
