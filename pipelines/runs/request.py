"""What ``DATA=`` names: an option of the group ``data``, a YAML file of settings, pairs in files, or a built set."""

from __future__ import annotations

from pathlib import Path

from pipelines.config import Config, ConfigError, MixSource, nearest
from pipelines.config.compose import CONF, load_config
from pipelines.data.published import is_hub_name
from pipelines.data.rows import stem_of

_SETTINGS = (".yaml", ".yml")
# No learner takes part, so what its micro-batch can hold must not decide how long a prompt may be.
_NO_LEARNER = ["learner.micro_batch_tokens=1000000000"]
TRAIN, HELDOUT = "train.parquet", "heldout.parquet"


def configured(target: str, overrides: list[str]) -> tuple[str, Config]:
    """A data set's name and the configuration with ``target`` as its data.

    Raises:
        ConfigError: it is nothing of the kind, or the settings cannot work; names the nearest option.

    """
    path = Path(target)
    overrides = [*_NO_LEARNER, *overrides]
    options = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))
    if target in options:
        return target, load_config([f"data={target}", *overrides])
    if path.suffix in _SETTINGS:
        if not path.is_file():
            raise ConfigError(f"{path} is not there: give the path of a YAML file of data settings")
        return path.stem, load_config(overrides, path)
    if path.is_dir() or stem_of(path) or is_hub_name(target):
        config = load_config(overrides)
        name = path.resolve().name if path.is_dir() else stem_of(path) or path.name
        settings = config.data.mix.sources.get(name, MixSource())
        settings.path = target
        config.data.mix.sources = {name: settings}
        return name, config
    raise ConfigError(
        f"DATA={target} is no data configuration{nearest(target, options)} (there are {', '.join(options)}), no .yaml "
        "file, no .jsonl or .parquet file of pairs, and no folder of them or of a built data set"
    )
