"""make data and make lint-data as commands: what is written, what it says, and how they end."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pairs import many_pairs

from actors.files import sha256_file
from pipelines import build_data, lint_data
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.preference_file import load_pairs
from pipelines.data.schema import PreferencePair, write_pairs
from pipelines.runs.request import configured

pytestmark = pytest.mark.slow

Run = Any


def labelled(pairs: list[PreferencePair], first: int, of: int) -> str:
    """Rows that state sides, with the better response first in ``first`` of every ``of``."""
    lines = []
    for index, pair in enumerate(pairs):
        label = "A" if index % of < first else "B"
        sides = (pair.chosen, pair.rejected) if label == "A" else (pair.rejected, pair.chosen)
        row = {"prompt": pair.prompt[0].content, "response_a": sides[0], "response_b": sides[1], "label": label}
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and returns its exit status and all it printed."""

    def run(module: Any, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        status = 0
        try:
            module.main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        # A table breaks its lines where the terminal ends.
        return status, " ".join((printed.out + printed.err).split())

    return run


def test_a_data_set_from_a_file_of_pairs(tmp_path: Path, command: Run) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(labelled(many_pairs(300), 1, 2))
    folder = tmp_path / "data" / "mine"
    status, printed = command(build_data, path, f"data.mix.folder={tmp_path / 'data'}", "data.heldout_fraction=0.1")
    assert (status, sorted(file.name for file in folder.iterdir())) == (
        0,
        ["card.html", "card.md", "heldout.parquet", "lint.json", "train.parquet"],
    )
    assert "mine: 300 of 300 pairs" in printed
    report = json.loads((folder / "lint.json").read_text())
    assert report["passed"]
    assert report["files"] == {name: sha256_file(folder / name) for name in ("train.parquet", "heldout.parquet")}
    train, heldout = (load_pairs(folder / name) for name in ("train.parquet", "heldout.parquet"))
    assert len(train) + len(heldout) == 300
    card = (folder / "card.md").read_text()
    assert f"| user | {len(train)} | {len(heldout)} |" in card
    assert "| positions | pass |" in card
    assert sha256_file(path) in card
    html = (folder / "card.html").read_text()
    assert html.count("<svg") == 3
    # What was built passes the linter as it is, and the same command builds the same bytes.
    assert command(lint_data, folder)[0] == 0
    before = {name: sha256_file(folder / name) for name in ("train.parquet", "heldout.parquet", "card.md", "lint.json")}
    command(build_data, path, f"data.mix.folder={tmp_path / 'data'}", "data.heldout_fraction=0.1")
    assert {name: sha256_file(folder / name) for name in before} == before


def test_text_of_the_data_is_no_markup(tmp_path: Path, command: Run) -> None:
    pairs = [replace(pair, source="<script>x</script>|y") for pair in many_pairs(60)]
    write_pairs(pairs, tmp_path / "mine.parquet")
    command(build_data, tmp_path / "mine.parquet", f"data.mix.folder={tmp_path}", "data.heldout_fraction=0.2")
    assert "<script>" not in (tmp_path / "mine" / "card.html").read_text()
    assert "<script>x</script>\\|y |" in (tmp_path / "mine" / "card.md").read_text()


@pytest.mark.parametrize(("first", "of", "status"), [(3, 5, 1), (1, 2, 0)])
def test_positions_of_a_labelled_file(tmp_path: Path, command: Run, first: int, of: int, status: int) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(labelled(many_pairs(300), first, of))
    # The recipe asks for both orders of a pair; the file is linted in the one it has.
    found, printed = command(lint_data, path)
    assert found == status
    assert f"better response first in {100 * first / of:.1f}% of 300 prompts" in printed
    if status:
        assert command(lint_data, path, "data.lint.levels.positions=warn")[0] == 0


def test_duplicates_between_two_files(tmp_path: Path, command: Run) -> None:
    train, heldout = many_pairs(300), many_pairs(100, source="other")
    write_pairs([*train, *(replace(pair, id=f"x{pair.id}") for pair in heldout[:3])], tmp_path / "train.parquet")
    write_pairs(heldout, tmp_path / "heldout.parquet")
    for target in ([tmp_path], [tmp_path / "train.parquet", f"data.heldout={tmp_path / 'heldout.parquet'}"]):
        status, printed = command(lint_data, *target)
        assert status == 1
        assert "3 prompts are in two splits (3 of 303 pairs of train, 3 of 100 pairs of heldout)" in printed


def test_a_build_that_fails_a_check_says_so_and_is_written(tmp_path: Path, command: Run) -> None:
    pairs = many_pairs(200)
    write_pairs(pairs, tmp_path / "mine.parquet")
    (tmp_path / "bench.jsonl").write_text(json.dumps({"id": "b1", "prompt": pairs[0].prompt[0].content}))
    arguments = (
        tmp_path / "mine.parquet",
        f"data.mix.folder={tmp_path}",
        f"data.lint.benchmarks=[{tmp_path}/bench.jsonl]",
    )
    status, printed = command(build_data, *arguments)
    assert status == 1
    assert "1 of 1 benchmark items are in the prompts of 1 pairs" in printed
    assert "1 checks failed" in printed
    assert not json.loads((tmp_path / "mine" / "lint.json").read_text())["passed"]
    assert command(build_data, *arguments, "data.mix.drop_benchmark_items=true")[0] == 0


def test_bad_rows_end_the_build_or_are_listed_in_the_card(tmp_path: Path, command: Run) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(labelled(many_pairs(100), 1, 2) + '{"prompt": "q", "chosen": "x"}\n')
    status, printed = command(build_data, path, f"data.mix.folder={tmp_path}")
    assert status == 1
    assert "mine.jsonl, row 101: field 'rejected' is missing" in printed
    assert not (tmp_path / "mine").exists()
    status, _ = command(build_data, path, f"data.mix.folder={tmp_path}", "data.on_bad_row=skip")
    assert status == 0
    card = (tmp_path / "mine" / "card.md").read_text()
    assert "| mine | bad row | 1 |" in card
    assert "mine.jsonl, row 101: field 'rejected' is missing" in card


def test_settings_from_a_file_of_ones_own(tmp_path: Path, command: Run) -> None:
    write_pairs(many_pairs(100), tmp_path / "a.parquet")
    (tmp_path / "own.yaml").write_text(
        f"heldout_fraction: 0.3\nmix:\n  folder: {tmp_path}\n  expect: {{renamed: 90}}\n"
        f"  sources:\n    a: {{path: {tmp_path / 'a.parquet'}, source: renamed, take: 80}}\n"
    )
    status, printed = command(build_data, tmp_path / "own.yaml", "data.mix.sources.a.take=60")
    assert status == 0
    assert "60 of 100 pairs" in printed
    assert "renamed: 60, expected 90" in printed
    (tmp_path / "own.yaml").write_text("mix:\n  sources:\n    a: {pth: x}\n")
    status, printed = command(build_data, tmp_path / "own.yaml")
    assert status == 2
    assert "unknown setting 'data.mix.sources.a.pth'; did you mean 'data.mix.sources.a.path'?" in printed


def test_unknown_data_and_checks(tmp_path: Path, command: Run) -> None:
    status, printed = command(build_data, "rm_r2")
    assert status == 2
    assert "DATA=rm_r2 is no data configuration; did you mean 'rm_r1'?" in printed
    assert command(build_data)[0] == 2
    assert command(lint_data, tmp_path)[0] == 1
    write_pairs(many_pairs(10), tmp_path / "a.parquet")
    status, printed = command(lint_data, tmp_path / "a.parquet", "data.lint.levels.position=off")
    assert status == 2
    assert "no check 'position'; did you mean 'positions'?" in printed


def test_the_papers_mix() -> None:
    """RM-R1, arXiv 2505.02387: 54,146 pairs of Skywork without magpie_ultra, 8,000 of code, 10,000 of mathematics."""
    name, config = configured("rm_r1", [])
    mix = config.data.mix
    assert name == "rm_r1"
    assert {key: (entry.schema, entry.take) for key, entry in mix.sources.items()} == {
        "skywork": ("skywork", 0),
        "code": ("code_preference", 8000),
        "math": ("math_step_dpo", 10000),
    }
    assert sum(mix.expect.values()) == 54_146 + 8_000 + 10_000
    assert "magpie_ultra" not in mix.expect
    assert config.data.orders == "alternate"


def test_mix_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"data\.on_bad_row='ignore' is not one of fail, skip"):
        load_config(["data.on_bad_row=ignore"])
    assert load_config(["data.mix.sources.x.take=5"]).data.mix.sources["x"].take == 5
