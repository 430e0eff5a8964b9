"""A stage that goes on reads what it read when it began: another content under the same name is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipelines.config import Config, ConfigError
from pipelines.config.compose import load_config
from pipelines.config.schema import setting
from pipelines.prepare import prepare
from pipelines.runs.catalogue import STAGES
from pipelines.runs.folder import RunDirectory
from pipelines.stages.contents import READERS, changes
from pipelines.stages.stage import Stage

Open = Callable[..., AbstractContextManager[Stage]]
LARGE = 40 << 20


def safetensors(path: Path, size: int, flipped: int | None = None) -> None:
    """A file of zeros with a header, one byte of it another."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    data = bytearray(size)
    if flipped is not None:
        data[flipped] = 1
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything RL may read, in one folder."""
    folder = tmp_path / "inputs"
    for name in ("policy", "shards"):
        (folder / name).mkdir(parents=True)
    safetensors(folder / "policy" / "model.safetensors", LARGE)
    (folder / "policy" / "tokenizer.json").write_text("{}")
    for part in (0, 1):
        (folder / "shards" / f"part-{part}.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    (folder / "heldout.jsonl").write_text('{"prompt": "h", "chosen": "a", "rejected": "b"}\n')
    (folder / "prompt.yaml").write_text("user: '{conversation} {response_a} {response_b}'\n")
    (folder / "my_rewards.py").write_text("def short(judged):\n    return -len(judged.text)\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def settings(inputs: Path) -> tuple[str, ...]:
    return (
        f"rl.policy={inputs / 'policy'}",
        f"data.train={inputs / 'shards'}",
        f"data.heldout={inputs / 'heldout.jsonl'}",
        f"model.prompt={inputs / 'prompt.yaml'}",
        "verifier.functions.short.path=my_rewards.short",
        "algorithm.reward.short=1",
    )


def replaced(inputs: Path, name: str) -> None:
    """Another content of the same file; of the model one byte in the middle of its last block."""
    path = inputs / name
    if path.suffix == ".safetensors":
        safetensors(path, LARGE, LARGE - 100)
    elif path.exists():
        path.write_text(path.read_text().replace("a", "c") + " ")
    else:
        path.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("policy/model.safetensors", "rl.policy: model.safetensors"),
        ("policy/tokenizer.json", "rl.policy: tokenizer.json"),
        ("shards/part-1.jsonl", "data.train: part-1.jsonl"),
        ("shards/part-2.jsonl", "data.train: part-2.jsonl was not there, is"),
        ("heldout.jsonl", "data.heldout: heldout.jsonl"),
        ("prompt.yaml", "model.prompt: prompt.yaml"),
        ("my_rewards.py", "verifier.functions: short in my_rewards.py"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_content_is_refused(
    opened: Open, run: RunDirectory, inputs: Path, name: str, key: str, finished: bool
) -> None:
    given = settings(inputs)
    with opened(*given):
        pass
    if finished:
        run.mark_finished("rl")
    with opened(*given) as stage:
        assert stage.is_finished is finished
    replaced(inputs, name)
    with pytest.raises(ConfigError) as refused:
        opened(*given).__enter__()
    assert key in str(refused.value)
    assert "SHA-256" in str(refused.value)
    assert "overwrite=true" in str(refused.value)
    with opened(*given, "overwrite=true") as stage:
        assert not stage.is_finished
    with opened(*given):
        pass


@pytest.mark.slow
def test_a_shard_that_is_gone_is_refused_and_a_gone_file_is_remembered(opened: Open, inputs: Path) -> None:
    given = settings(inputs)
    with opened(*given):
        pass
    whole = (inputs / "heldout.jsonl").read_text()
    (inputs / "heldout.jsonl").unlink()
    # Whoever reads it says that it is missing.
    with opened(*given):
        pass
    (inputs / "heldout.jsonl").write_text(whole + whole)
    with pytest.raises(ConfigError, match=r"data\.heldout: heldout\.jsonl was \d+ bytes with SHA-256 \w{16}, is \d+"):
        opened(*given).__enter__()
    (inputs / "heldout.jsonl").write_text(whole)
    (inputs / "shards" / "part-0.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"data\.train: part-0\.jsonl was .*, is not there"):
        opened(*given).__enter__()


def test_what_a_run_made_itself_counts_too(opened: Open, run: RunDirectory) -> None:
    (run.path / "distill" / "hf").mkdir(parents=True)
    safetensors(run.path / "distill" / "hf" / "model.safetensors", 100)
    (run.data).mkdir(exist_ok=True)
    (run.data / "rl.parquet").write_bytes(b"one")
    with opened():
        pass
    safetensors(run.path / "distill" / "hf" / "model.safetensors", 100, 50)
    with pytest.raises(ConfigError, match=r"rl\.policy: model\.safetensors"):
        opened().__enter__()


def test_a_moved_file_of_the_same_content_is_the_same() -> None:
    assert list(changes({"data.train": {"a": "x"}}, {"data.train": {"a": "x"}, "data.heldout": {"b": "y"}})) == []
    assert list(changes({"data.train": {}}, {"data.train": {"a": "x"}})) == []


def test_records_name_readers_and_settings() -> None:
    for record in STAGES.values():
        assert set(record.reads) <= READERS.keys()
        for key in record.reads:
            assert setting(key) is not None, key
    assert Config().model.prompt


@pytest.mark.slow
def test_prepared_data_of_other_settings_is_kept_and_refused(run: RunDirectory, opened: Open) -> None:
    """It used to be made anew, with all that was trained on it removed."""
    small = ["data.distill_pairs=4", "data.rl_pairs=4", "data.heldout_pairs=2"]
    base = ["recipe=tiny", "tracking=off", f"run={run.name}", f"output_root={run.path.parent}"]
    prepare(load_config([*base, *small]), run)
    before = {file: file.read_bytes() for file in run.data.iterdir()}
    (run.path / "rl").mkdir()
    prepare(load_config([*base, *small]), run)
    with pytest.raises(ConfigError, match=r"prepare of run 'tiny' was begun with other settings \(seed: was 0, is 1\)"):
        prepare(load_config([*base, *small, "seed=1"]), run)
    assert {file: file.read_bytes() for file in run.data.iterdir()} == before
    assert (run.path / "rl").exists()
    prepare(load_config([*base, *small, "seed=1", "overwrite=true"]), run)
    assert (run.data / "rl.parquet").read_bytes() != before[run.data / "rl.parquet"]
    assert not (run.path / "rl").exists()


def test_a_function_is_known_by_its_package_which_is_not_run(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "words.py").write_text("from my_package.helper import short\n")
    (package / "helper.py").write_text("def short(judged):\n    return 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ("verifier.functions.short.path=my_package.words.short", "algorithm.reward.short=1")
    with opened(*given):
        pass
    (package / "helper.py").write_text("def short(judged):\n    return 1\n")
    with pytest.raises(ConfigError, match=r"verifier\.functions: short in helper\.py was"):
        opened(*given).__enter__()
