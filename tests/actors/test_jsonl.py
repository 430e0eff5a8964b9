"""JSON lines: whole or not there, whatever ends the writer."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.jsonl import JsonLines, keep_rows, lines_of, row_of


def rows(path: Path) -> list[object]:
    return [row_of(line) for _, line in lines_of(path)]


def test_rows_are_there_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    assert list(lines_of(path)) == []
    log = JsonLines(path)
    log.append({"text": "half a pair \ud83d, \u2028 and é"}, {"n": 2})
    assert rows(path) == [{"text": "half a pair \ud83d, \u2028 and é"}, {"n": 2}]
    log.append()
    log.close()
    log.close()
    assert len(rows(path)) == 2


@pytest.mark.parametrize("torn", ["", "{", '{"n": 3}', "x" * 200_000], ids=["none", "begun", "whole", "long"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    """Even one that is whole but for its end: nobody knows whether it was."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n' + torn)
    log = JsonLines(path)
    log.append({"n": 4})
    log.close()
    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 4}\n'


def test_a_line_without_a_row_is_an_error_of_one_kind() -> None:
    for line in (b'{"n": 1}', b"{oops}\n", b"\xff\n", b"[" * 100_000 + b"\n"):
        with pytest.raises(ValueError, match=r"torn|Expecting|decode|nested"):
            row_of(line)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_row_that_does_not_fit_is_not_there_in_part(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.append({"n": 1})
    with pytest.raises(OSError, match=r"too large: .*log\.jsonl"):
        log.append({"text": "x" * 150})
    log.append({"n": 2})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n'


def test_what_json_has_no_word_for_is_refused(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"n": 1}, {"n": float("nan")})
    log.close()
    assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_rows_that_are_kept_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert keep_rows(path, bool) == 0
    path.write_text('{"n":1}\n{oops\n{"n": 2}\n{"n": 3}\n{"n": 4')
    assert keep_rows(path, lambda row: row["n"] != 2) == 3
    assert path.read_text() == '{"n":1}\n{"n": 3}\n'
    assert json.loads(path.read_text().splitlines()[1]) == {"n": 3}
    assert keep_rows(path, bool) == 0
