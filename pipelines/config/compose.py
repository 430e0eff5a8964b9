"""From overrides on a command line to a checked configuration, composed by Hydra from the YAML files of ``conf/``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.config import OPEN, Config, ConfigError, known_keys, nearest, typed
from pipelines.config.arithmetic import cpu_dtype
from pipelines.config.overrides import as_typed, quoted

CONF = Path(__file__).resolve().parents[2] / "conf"

# In YAML: ${folder_or:models/here,owner/name} is the folder where it is there, and otherwise the name on the hub.
OmegaConf.register_new_resolver("folder_or", lambda folder, name: folder if Path(folder).is_dir() else name)
# ${cpu_dtype:bfloat16} is bfloat16 where this machine's processor computes in it, and otherwise float32.
OmegaConf.register_new_resolver("cpu_dtype", cpu_dtype)


def load_config(overrides: list[str], data_file: Path | None = None) -> Config:
    """Compose and check the configuration that command-line overrides give.

    ``data_file`` is a YAML file of the user's own in place of an option of the group ``data``.

    Raises:
        ConfigError: an unknown key or option (with the nearest match), a wrong type, or values that cannot work.

    """
    overrides = checked(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", overrides=overrides)
            if missing := sorted(OmegaConf.missing_keys(composed)):
                raise ConfigError(f"{missing[0]}=??? stands for a value that is still to be given: give one")
            return typed(_with_data(composed, data_file, overrides) if data_file else composed)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file or "").rpartition("/")
        options = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
        raise ConfigError(
            f"there is no {group or 'configuration'} {name!r}{nearest(name, options)} (available: {', '.join(options)})"
        ) from error
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _with_data(composed: DictConfig, path: Path, overrides: list[str]) -> DictConfig:
    """The configuration with the section ``data`` of a file, under the overrides."""
    try:
        stated = yaml.load(path.read_text(encoding="utf-8"), _AsTyped)
        section = OmegaConf.create(stated) if isinstance(stated, dict) else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(section, DictConfig):
        raise ConfigError(f"{path}: must hold settings of the section `data`, such as `mix` and `orders`")
    OmegaConf.set_struct(composed, False)
    composed.data = section
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group.startswith("data."):
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=True)
    return composed


class _AsTyped(yaml.SafeLoader):
    """Reads a file of settings as text, which becomes a number or a truth value where the setting is one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice, of which YAML would keep the last."""
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_AsTyped.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.endswith((":null", ":merge"))]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def checked(overrides: list[str]) -> list[str]:
    """The overrides in a form Hydra takes: every key known, text as it was typed.

    Hydra refuses to override a setting that no YAML file states, though it has a default of its own: ``++`` sets it
    either way. Of a key that does not exist Hydra only says that it could not be overridden; here the nearest is named.

    Raises:
        ConfigError: an unknown key, or a value that cannot be read; shows what to type.

    """
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    accepted = []
    for override in overrides:
        name, equals, value = override.partition("=")
        key = name.lstrip("+~").partition("@")[0]
        is_group = key in groups or key.startswith("hydra")
        if not is_group and key not in known_keys() and not key.startswith(OPEN):
            raise ConfigError(f"unknown setting {key!r}{nearest(key, known_keys() + groups)}")
        text = override if is_group or name.startswith("~") else "++" + as_typed(override).lstrip("+")
        try:
            OverridesParser.create().parse_override(text)
        except HydraException as error:
            remedy = f"; if the value is text, type {shlex.quote(f'{name}={quoted(value)}')}" if equals else ""
            if value.startswith("{"):
                remedy = "; a table is written {key: value, ...}, and keys with other characters only in a YAML file"
            raise ConfigError(f"{override!r} cannot be read as a setting and its value{remedy}") from error
        accepted.append(text)
    return accepted
