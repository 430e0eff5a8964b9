"""The table of how right a judge is by how sure it says it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data.schema import DataError
from pipelines.evaluation.reliability import forecasts, main


def write(path: Path, rows: list[tuple[str, float]]) -> str:
    path.write_text("".join(json.dumps({"winner": winner, "confidence": sure}) + "\n" for winner, sure in rows))
    return str(path)


def test_bins_and_errors_of_a_worked_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Of ten at 0.9 eight are right, of four at 0.6 one is; a tie names nobody.
    rows = [("a", 0.9)] * 8 + [("b", 0.9)] * 2 + [("a", 0.6)] + [("b", 0.6)] * 3 + [("tie", 0.3)]
    main([write(tmp_path / "decisions.jsonl", rows)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["| 0.50 to 0.60 | 4 | 0.600 | 0.250 |", "| 0.80 to 0.90 | 10 | 0.900 | 0.800 |"]
    # (10 * 0.1 + 4 * 0.35) / 14, and (8 * 0.01 + 2 * 0.81 + 0.16 + 3 * 0.36) / 14.
    assert "14 decisions, mean confidence 0.814, right 0.643; 1 ties. ECE 0.171 (" in lines[-1]
    assert "Brier score 0.210 (" in lines[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"winner": "a"}\n', "no decision of `make judge`"),
        ('{"winner": "c", "confidence": 0.5}\n', "no decision"),
        ('{"winner": "a", "confidence": 1.5}\n', "no decision"),
        ("[1]\n", "no decision"),
        ('{"winner": "tie", "confidence": 0.5}\n', "no decision for a response .1 ties"),
    ],
)
def test_what_holds_no_decisions_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        forecasts(str(file))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "nothing.jsonl")])
    assert caught.value.code == 1
    assert "nothing.jsonl" in capsys.readouterr().err
