"""From a command line to a checked configuration, and from an error to a clear message and an exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from actors.errors import UserError, machine_fault
from pipelines.config import OPEN, Config, ConfigError, known_keys, nearest, typed

CONF = Path(__file__).resolve().parents[2] / "conf"


def load_config(overrides: list[str], data_file: Path | None = None) -> Config:
    """Compose and check the configuration that command-line overrides give.

    ``data_file`` is a YAML file of the user's own in place of an option of the group ``data``.

    Raises:
        ConfigError: an unknown key or option (with the nearest match), a wrong type, or values that cannot work.

    """
    overrides = _checked(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", overrides=overrides)
            return typed(_with_data(composed, data_file, overrides) if data_file else composed)
    except MissingConfigException as error:
        missing = str(error.missing_cfg_file or "")
        group = missing.rpartition("/")[0]
        options = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
        name = missing.rpartition("/")[2]
        raise ConfigError(
            f"there is no {group or 'configuration'} {name!r}{nearest(name, options)} (available: {', '.join(options)})"
        ) from error
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _with_data(composed: DictConfig, path: Path, overrides: list[str]) -> DictConfig:
    """The configuration with the section ``data`` of a file, under the overrides."""
    try:
        section = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(section, DictConfig):
        raise ConfigError(f"{path}: must hold settings of the section `data`, such as `mix` and `orders`")
    OmegaConf.set_struct(composed, False)
    composed.data = section
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group.startswith("data."):
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=True)
    return composed


def _checked(overrides: list[str]) -> list[str]:
    """The overrides in a form Hydra takes, every key known.

    Hydra refuses to override a setting that no YAML file states, though it has a default of its own: ``++`` sets it
    either way. Of a key that does not exist Hydra only says that it could not be overridden; here the nearest is named.
    """
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"an override cannot be read ({reason}): write key=value, quoting values with spaces"
        ) from error
    checked = []
    for text, override in zip(overrides, parsed, strict=True):
        key = override.key_or_group
        if key in groups or key.startswith("hydra"):
            checked.append(text)
        elif key in known_keys() or key.startswith(OPEN):
            checked.append("++" + text.lstrip("+") if not text.startswith("~") else text)
        else:
            raise ConfigError(f"unknown setting {key!r}{nearest(key, known_keys() + groups)}")
    return checked


def main(stage: Callable[[Config], None]) -> None:
    """Run a stage as a command: Hydra's flags and overrides, clear errors, exit status 0, 1, 2 or 130."""
    # The terminal shows our own progress; libraries' bars and warnings would cut through it.
    for name, value in (("TOKENIZERS_PARALLELISM", "false"), ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-") and "=" in argument]
    stray = [
        argument
        for before, argument in pairwise(sys.argv)
        # What follows a flag may be its value: --cfg job
        if not argument.startswith("-") and "=" not in argument and not before.startswith("-")
    ]

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def run(composed: DictConfig) -> None:
        with clear_errors(begun=True):
            stage(typed(composed))

    with clear_errors():
        if stray:
            raise ConfigError(f"cannot read argument {stray[0]!r}: settings are given as key=value")
        if "--multirun" not in sys.argv and "-m" not in sys.argv:
            load_config(overrides)
            flags = [argument for argument in sys.argv[1:] if argument not in overrides]
            sys.argv[1:] = [*flags, *_checked(overrides)]
    # A job that is stopped from outside (Ray's job server, Slurm, a container) ends as one that is interrupted by hand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run()


@contextmanager
def clear_errors(begun: bool = False) -> Iterator[None]:
    """Ends the process with one message and a status where what happened is something a user can mend.

    The status is the error's own, but 1 for all of them once a stage has ``begun``.
    """
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted. Run the same command again to continue from the last checkpoint.", 130)
    except (UserError, OSError) as error:
        mendable = error if isinstance(error, UserError) else machine_fault(error)
        if mendable is None:
            raise
        logging.getLogger(__name__).debug("ended by", exc_info=True)
        _fail(str(mendable), 1 if begun else mendable.exit_status)


def _fail(message: str, status: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n" if status != 130 else f"\n{message}\n")
    sys.exit(status)
