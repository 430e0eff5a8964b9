"""A job's command line: a pipeline's, in a form that holds wherever Ray puts the code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pipelines.config import setting
from pipelines.config.overrides import as_typed, quoted


def entrypoint(pipeline: str, overrides: Sequence[str], python: str | None, root: Path, here: Path) -> str:
    """The job's command line, for a POSIX shell.

    It runs in a copy of the code that Ray removes later, so paths are made absolute: the output root (``outputs`` under
    ``root`` unless the overrides name one) and, where it is there, what the user gave relative to ``here``.
    Without ``python`` it takes this interpreter where the cluster has it too, and ``python`` elsewhere.
    """
    arguments = [_absolute(override, here) for override in overrides]
    if not any(argument.startswith("output_root=") for argument in arguments):
        arguments.append(f"output_root={root / 'outputs'}")
    this = f'"$(command -v {shlex.quote(sys.executable)} || echo python)"'
    return f"{shlex.quote(python) if python else this} -m pipelines.{pipeline} {shlex.join(arguments)}"


def _absolute(override: str, here: Path) -> str:
    """The override with what is a path relative to ``here`` made absolute."""
    name, _, value = override.partition("=")
    is_path = setting(name.lstrip("+"))[1].get("path")
    if is_path is None or not value:
        return override
    try:
        given = OverridesParser.create().parse_override(as_typed(override)).value()
    except HydraException:
        return override  # The job refuses it and says why.
    moved = _moved(given, here, is_path)
    return override if moved == given else f"{name}={_written(moved)}"


def _moved(value: Any, here: Path, is_path: Callable[[Path], bool]) -> Any:
    if isinstance(value, list):
        return [_moved(item, here, is_path) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, here, is_path) for key, item in value.items()}
    return str(here / value) if isinstance(value, str) and is_path(here / value) else value


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(quoted(str(item)) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{str(key).strip()}:{quoted(str(item))}' for key, item in value.items())}}}"
    return str(value)
