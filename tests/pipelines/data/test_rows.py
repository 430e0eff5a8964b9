"""Folders of shards and compressed files: read in name order, each bad row by its shard, nothing mixed silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build_data import build
from pipelines.config import ConfigError
from pipelines.data.lint.overlap import benchmark_items
from pipelines.data.preference_file import load_pairs, read_pair_file
from pipelines.data.published import is_hub_name
from pipelines.data.rows import files_of, placed_rows
from pipelines.data.schema import DataError
from pipelines.lint_data import splits_of
from pipelines.reporting.console import Console
from pipelines.runs.request import configured


def row(number: int) -> dict[str, Any]:
    return {"prompt": f"Question {number}", "chosen": f"good {number}", "rejected": f"bad {number}"}


def write(path: Path, *rows: Any) -> Path:
    """Rows in the kind of file that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(item) + "\n" for item in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(text)
    else:
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def asked(path: Path) -> list[str]:
    return [pair.prompt[0].content for pair in load_pairs(path)]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_one_file_of_each_kind(tmp_path: Path, ending: str) -> None:
    assert asked(write(tmp_path / f"set{ending}", row(1), row(2))) == ["Question 1", "Question 2"]
    assert not is_hub_name(f"data/set{ending}")


def test_a_folder_in_name_order(tmp_path: Path) -> None:
    for name, number in (("part-10.jsonl", 10), ("part-2.jsonl.gz", 2), ("part-1.parquet", 1), ("part-3.jsonl.zst", 3)):
        write(tmp_path / name, row(number), row(number + 100))
    for name in ("_SUCCESS", ".part-1.parquet.crc", "._part-2.jsonl", "README.md", "dataset_infos.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache" / "part-4.jsonl", row(4))
    pairs = load_pairs(tmp_path)
    wanted = [1, 101, 2, 102, 3, 103, 10, 110]
    assert [pair.prompt[0].content for pair in pairs] == [f"Question {number}" for number in wanted]
    assert len({pair.id for pair in pairs}) == 8
    assert [place for place, _, _ in placed_rows(tmp_path)][-1] == f"{tmp_path}/part-10.jsonl, row 2"
    assert len(benchmark_items([str(tmp_path)])) == 8


def test_a_bad_row_names_its_shard(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", row(1))
    write(tmp_path / "b.jsonl.gz", row(2), {**row(3), "chosen": 3})
    with pytest.raises(DataError, match=r"/b\.jsonl\.gz, row 2, field 'chosen'"):
        load_pairs(tmp_path)
    read = read_pair_file(tmp_path, on_bad_row="skip")
    assert (len(read.pairs), len(read.bad)) == (2, 1)


def test_an_id_of_two_shards(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {**row(1), "id": "x"})
    write(tmp_path / "b.jsonl", row(2), {**row(3), "id": "x"})
    with pytest.raises(DataError, match=r"/b\.jsonl, row 2, field 'id': 'x' is the id of .*/a\.jsonl, row 1 too"):
        load_pairs(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "a file of rows is not there"),
        (("README.md",), "a file of rows is not there"),
        (("a.jsonl", "b.csv"), r"b\.csv: unknown kind of file in a folder of rows"),
        (("a.jsonl", "b.json"), r"b\.json: unknown kind"),
        (("a.jsonl", "b.jsonl.bz2"), r"b\.jsonl\.bz2: unknown kind"),
        (("a.jsonl", "b.JSON"), r"b\.JSON: unknown kind of file in a folder of rows"),
        (("a.jsonl", "b.jsonl.part"), r"b\.jsonl\.part: unknown kind of file in a folder of rows"),
        (("a.jsonl", "b.feather"), r"b\.feather: unknown kind of file in a folder of rows"),
        (("a.jsonl", "more/b.jsonl"), "holds files in the folder more/ below it"),
        (("a.jsonl", "more/b.csv"), "holds files in the folder more/ below it"),
        (("set_train.jsonl", "set_test.jsonl"), "holds files of several splits"),
        (("a.jsonl", "a.jsonl.gz"), r"holds a\.jsonl and a\.jsonl\.gz, the same shard twice"),
        (
            ("train.parquet", "heldout.parquet"),
            r"several splits.*data\.train=.*/train\.parquet data\.heldout=.*/heldout",
        ),
        (("train-00000-of-00002.parquet", "test-00000-of-00001.parquet"), "several splits"),
        (("mine.jsonl", "validation.jsonl"), "several splits"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in names:
        write(folder / name, row(1))
    with pytest.raises(DataError, match=message):
        files_of(folder)


@pytest.mark.parametrize("names", [("train-1.jsonl", "more.jsonl"), ("test-0.jsonl", "test-1.jsonl")])
def test_files_of_one_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / name, row(number))
    assert len(load_pairs(tmp_path)) == 2


@pytest.mark.parametrize("ending", [".JSONL", ".Jsonl.GZ", ".PARQUET"])
def test_endings_in_capitals_are_endings(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"a{ending.lower()}", row(1)).rename(tmp_path / f"a{ending}")
    write(tmp_path / "b.jsonl", row(2))
    assert asked(tmp_path) == ["Question 1", "Question 2"]


@pytest.mark.parametrize("nothing", ["", "\n \n"])
def test_a_shard_without_rows_says_nothing_of_the_form(tmp_path: Path, nothing: str) -> None:
    (tmp_path / "a.jsonl").write_text(nothing)
    hh = {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}
    write(tmp_path / "b.jsonl", hh)
    assert read_pair_file(tmp_path).schema == "hh_rlhf"
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match="holds no pairs"):
        read_pair_file(tmp_path)


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    columns = [pa.array([text]) for text in ("q", "a", "b", "z")]
    pq.write_table(pa.table(columns, names=["prompt", "chosen", "rejected", "prompt"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has the column 'prompt' twice"):
        read_pair_file(tmp_path)


def test_a_device_is_no_file() -> None:
    with pytest.raises(DataError, match="/dev/null is neither a file nor a folder"):
        files_of("/dev/null")


def test_files_of_two_forms(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", row(1))
    lists = {
        name: [{"role": "user", "content": "q"}, {"role": "assistant", "content": name}]
        for name in ("chosen", "rejected")
    }
    write(tmp_path / "b.jsonl", lists)
    with pytest.raises(DataError, match=r"/b\.jsonl has the form messages, .*/a\.jsonl the form pairs"):
        read_pair_file(tmp_path, on_bad_row="skip")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("left", [0.5, 0.9])
def test_compressed_files_that_were_damaged(tmp_path: Path, ending: str, left: float) -> None:
    path = write(tmp_path / f"set{ending}", *map(row, range(5000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(DataError, match=rf"set{ending}: cannot be read as (gzip|zstd), write it again"):
        read_pair_file(path, on_bad_row="skip")
    path.write_bytes(b"not compressed at all")
    with pytest.raises(DataError, match=rf"set{ending}: cannot be read as"):
        load_pairs(path)


def test_gzip_in_several_members_is_one_file(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{number}.jsonl.gz", row(number)).read_bytes() for number in (1, 2))
    (tmp_path / "1.jsonl.gz").write_bytes(one + two)
    (tmp_path / "2.jsonl.gz").unlink()
    assert asked(tmp_path) == ["Question 1", "Question 2"]


@pytest.mark.slow
def test_a_folder_is_built_and_linted(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "mine" / f"part-{number}.jsonl.gz", *map(row, range(number * 10, number * 10 + 10)))
    name, config = configured(str(tmp_path / "mine"), [f"data.mix.folder={tmp_path}/out", "data.heldout_fraction=0.2"])
    splits, _, _ = splits_of(str(tmp_path / "mine"), config)
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 40}
    build(name, config, Console())
    built = tmp_path / "out" / "mine"
    assert sum(len(load_pairs(built / f"{split}.parquet")) for split in ("train", "heldout")) == 40
    splits, _, _ = splits_of(str(built), configured(str(built), [])[1])
    assert set(splits) == {"train", "heldout"}
    with pytest.raises(DataError, match="several splits"):
        build("again", configured(str(built), [f"data.mix.folder={tmp_path}/out"])[1], Console())


@pytest.mark.slow
def test_a_set_is_not_written_into_the_folder_it_is_read_from(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "part-0.jsonl", *map(row, range(20)))
    name, config = configured(str(tmp_path / "mine"), [f"data.mix.folder={tmp_path}"])
    with pytest.raises(ConfigError, match=r"would be read and written: set data\.mix\.folder"):
        build(name, config, Console())


@pytest.mark.slow
def test_the_ignored_columns_are_on_the_card(tmp_path: Path) -> None:
    rows = [{**row(number), "context": "Norway."} for number in range(40)]
    write(tmp_path / "mine.jsonl", *rows)
    overrides = [f"data.mix.folder={tmp_path}", "data.ignore_columns=[context]", "data.heldout_fraction=0.3"]
    build(*configured(str(tmp_path / "mine.jsonl"), overrides), Console())
    for kind in ("md", "html"):
        assert "mine: column context ignored in 40 rows" in (tmp_path / "mine" / f"card.{kind}").read_text()
