"""Weight files that are cut off, damaged, pointers or missing are named before anything starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors.learner.settings import ModelError
from pipelines.data.weight_files import check_whole

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two files of weights and their index."""
    for name in (FIRST, SECOND):
        save_file({name[:11]: np.zeros(1000, np.float32)}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {"a": FIRST, "b": SECOND, "c": SECOND}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_a_whole_model_a_folder_without_weights_and_a_hub_name_pass(model: Path) -> None:
    check_whole(str(model))
    check_whole(str(model / "nothing"))
    check_whole("organisation/model")


@pytest.mark.parametrize("size", [0, 5, 100, 2000, 5000])
def test_a_file_that_is_cut_off_or_too_long_is_named_with_its_size(model: Path, size: int) -> None:
    os.truncate(model / SECOND, size)
    with pytest.raises(ModelError, match=rf"{SECOND} is damaged \(.*\): it has {size:,} bytes, copy or download it"):
        check_whole(str(model))


def test_a_pointer_is_told_from_a_damaged_file(model: Path) -> None:
    (model / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 4000\n")
    with pytest.raises(ModelError, match=rf"{FIRST} is damaged .*pointer of Git LFS, `git lfs pull`"):
        check_whole(str(model))


def test_a_file_that_the_index_names_and_that_is_not_there_is_named(model: Path) -> None:
    (model / SECOND).unlink()
    with pytest.raises(ModelError, match=rf"has no {SECOND}, of 2 files that model.safetensors.index.json names"):
        check_whole(str(model))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_named(model: Path, text: str) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        check_whole(str(model))
