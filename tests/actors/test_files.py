"""Files and folders that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.files import atomic_folder, atomic_path, clean_leftovers


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "hf"
    for text in ("first", "second"):
        with atomic_folder(target) as partial:
            (partial / "model").write_text(text)
            assert not target.exists() or (target / "model").read_text() == "first"
        assert (target / "model").read_text() == text
        assert [entry.name for entry in target.parent.iterdir()] == ["hf"]


def test_a_folder_that_is_not_filled_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(IsADirectoryError), atomic_folder(tmp_path / "hf") as partial:
        partial.write_text("a folder is no file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path, durable: bool) -> None:
    with atomic_path(tmp_path / "file", durable=durable) as partial:
        partial.write_text("x")
        assert not (tmp_path / "file").exists()
    with pytest.raises(UnicodeEncodeError), atomic_path(tmp_path / "file", durable=durable) as partial:
        partial.write_text("y\ud800", encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "x"


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    for name in ("hf.tmp-0000", "other.tmp-0000"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "hf"):
        assert not (tmp_path / "hf.tmp-0000").exists()
    assert [entry.name for entry in clean_leftovers(tmp_path)] == ["other.tmp-0000"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]
