"""A model that can only come from a hub that is not reached is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.hub import HubUnreached, check_reached
from pipelines.data.pretrained_model import HUB_NAME


@pytest.mark.parametrize("offline_set", [True, False])
def test_neither_hub_nor_folder_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline_set: bool
) -> None:
    from huggingface_hub import constants

    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    # Where this is run, `make pretrained` may have written that folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline_set)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreached, match=r"make pretrained.*models/smollm2-135m") as caught:
        check_reached(HUB_NAME)
    assert "\n" not in str(caught.value)
    for name in ("Qwen/Qwen3-8B", "gpt2", "models/smollm2-135m"):
        with pytest.raises(HubUnreached, match=rf"'{name}' is no folder here .* give the path of a checkpoint"):
            check_reached(name)
    # Whoever names a folder, or a path that is none, is told by whoever reads it.
    check_reached(str(tmp_path))
    check_reached("/no/such/folder")


def test_a_model_in_the_hubs_cache_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / f"models--{HUB_NAME.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    check_reached(HUB_NAME)
