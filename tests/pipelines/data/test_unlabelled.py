"""Pairs whose labels are not needed: missing, a tie, or there and left aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.preference_file import read_pair_file
from pipelines.data.schema import DataError

ROWS: dict[str, dict[str, Any]] = {
    "pairs": {"prompt": "q", "response_a": "one", "response_b": "two"},
    "helpsteer3": {"context": [{"role": "user", "content": "q"}], "response1": "one", "response2": "two"},
    "pandalm": {"instruction": "q", "response1": "one", "response2": "two"},
    "rm_r1": {"context_messages": [{"role": "user", "content": "q [a] one [b] two"}]},
}
LABELS: dict[str, list[dict[str, Any]]] = {
    "pairs": [{}, {"label": "B"}, {"label": "tie"}],
    "helpsteer3": [{}, {"overall_preference": 2}, {"overall_preference": 0}],
    "pandalm": [{}, {"annotator1": 0, "annotator2": 0, "annotator3": 0}],
    "rm_r1": [{}, {"winner": "model_b"}],
}


@pytest.mark.parametrize(("form", "label"), [(form, label) for form in ROWS for label in LABELS[form]])
def test_the_first_response_is_the_first_whatever_the_label(tmp_path: Path, form: str, label: dict[str, Any]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**ROWS[form], **label}) + "\n")
    read = read_pair_file(file, labelled=False)
    assert read.schema == form
    (pair,) = read.pairs
    if form == "rm_r1":
        assert pair.metadata["winner"] == "A"
    else:
        assert (pair.chosen, pair.rejected) == ("one", "two")


def test_a_labelled_file_reads_as_before(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**ROWS["pairs"], "label": "B"}) + "\n")
    (pair,) = read_pair_file(file).pairs
    assert (pair.chosen, pair.rejected) == ("two", "one")


@pytest.mark.parametrize(("value", "said"), [(None, "'response_b' is missing"), (["two"], "must be text, not list")])
def test_a_response_that_is_none_is_named_and_not_the_label(tmp_path: Path, value: Any, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**ROWS["pairs"], "response_b": value}) + "\n")
    with pytest.raises(DataError, match=said):
        read_pair_file(file, labelled=False)
