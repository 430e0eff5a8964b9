"""The whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from pipelines.config.algorithm import Algorithm, Verifier
from pipelines.config.checks import check
from pipelines.config.constraints import OUTPUT, ConfigError, location, nearest, number
from pipelines.config.data import Data, MixSource
from pipelines.config.parts import Cluster, Learner, Plan, Rollout, Tracking
from pipelines.config.stages import Model, Stages


@dataclass
class Config(Stages):
    """Everything a stage reads: the sections of all stages, and what they share."""

    run: str = "tiny"
    """Name of the run: its folder under `output_root`."""
    recipe_name: str = "tiny"
    output_root: str = location("outputs", OUTPUT)
    seed: int = number(0, at_least=0)
    overwrite: bool = False
    """Start a finished or interrupted stage over."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    algorithm: Algorithm = field(default_factory=Algorithm)
    verifier: Verifier = field(default_factory=Verifier)
    rollout: Rollout = field(default_factory=Rollout)
    learner: Learner = field(default_factory=Learner)
    cluster: Cluster = field(default_factory=Cluster)
    tracking: Tracking = field(default_factory=Tracking)
    plan: Plan = field(default_factory=Plan)


OPEN = (
    "model.shape.",
    "model.chat_template_kwargs.",
    "algorithm.reward.",
    "data.mix.sources.",
    "data.mix.expect.",
    "data.lint.levels.",
    "evaluate.paths.",
    "verifier.functions.",
    "chains.first.extra_body.",
    "chains.second.extra_body.",
)
"""Sections whose keys are the user's own."""


@cache
def known_keys(kind: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration, sections included."""
    keys = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        keys.append(prefix + item.name)
        if is_dataclass(hints[item.name]):
            keys.extend(known_keys(hints[item.name], f"{prefix}{item.name}."))
    return keys


def setting(key: str) -> tuple[Any, Mapping[str, Any]]:
    """Type and metadata of a setting by its dotted key; None and nothing where there is no such setting.

    Keys of the user's own (``evaluate.paths.rmb``, ``data.mix.sources.mine.path``) are what their section holds.
    """
    kind: Any = Config
    metadata: Mapping[str, Any] = {}
    for name in key.split("."):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        item = next((item for item in fields(kind) if item.name == name), None) if is_dataclass(kind) else None
        if item is None:
            return None, {}
        kind, metadata = get_type_hints(kind)[name], item.metadata
    return kind, metadata


@cache
def _schema() -> DictConfig:
    return OmegaConf.structured(Config)


def typed(composed: DictConfig) -> Config:
    """Turn what Hydra composed into a checked :class:`Config`.

    Raises:
        ConfigError: an unknown key (with the nearest match), a value of the wrong type, or values that cannot work.

    """
    try:
        plain = _plain_keys(OmegaConf.to_container(composed))
        merged = OmegaConf.merge(_schema(), OmegaConf.create(plain))
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key)
        parts = key.split(".")
        in_source = [".".join([*parts[:-1], item.name]) for item in fields(MixSource)]
        known = in_source if parts[:3] == ["data", "mix", "sources"] else known_keys()
        raise ConfigError(f"unknown setting {key!r}{nearest(key, known)}") from error
    except OmegaConfBaseException as error:
        reason = (error.msg or str(error)).splitlines()[0]
        raise ConfigError(f"setting {error.full_key!r} has the wrong type: {reason}") from error
    assert isinstance(config, Config)
    check(config)
    return config


def _plain_keys(value: Any) -> Any:
    """What Hydra read, with keys of tables as they were typed: without the blank that kept them text."""
    if isinstance(value, dict):
        return {key.strip() if isinstance(key, str) else key: _plain_keys(item) for key, item in value.items()}
    return value
