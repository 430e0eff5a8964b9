"""Configurations for tests of what reads them. Composing one takes a sixth of a second: each is composed once."""

from __future__ import annotations

import copy
import dataclasses
import functools

from pipelines.config import Config
from pipelines.config.compose import load_config


def configured(*overrides: str, **settings: str) -> Config:
    """A configuration of the caller's own; ``settings`` differ by test and are of no section, such as ``run``."""
    return dataclasses.replace(copy.deepcopy(_composed(*overrides)), **settings)


@functools.cache
def _composed(*overrides: str) -> Config:
    return load_config(list(overrides))
