"""A stage as a command: its settings checked before it begins, its errors one message and an exit status."""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import hydra
from omegaconf import DictConfig

from actors.collector import collect_seldom
from actors.errors import UserError, machine_fault
from actors.redaction import redact
from pipelines.config import Config, ConfigError, typed
from pipelines.config.compose import CONF, checked, load_config
from pipelines.config.overrides import arguments_of
from pipelines.runs import interruption


def main(stage: Callable[[Config], None]) -> None:
    """Run a stage as a command: Hydra's flags and overrides, clear errors, exit status 0, 1, 2, or 128 + a signal's."""
    # The terminal shows our own progress; libraries' bars and warnings would cut through it.
    for name, value in (("TOKENIZERS_PARALLELISM", "false"), ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    collect_seldom()
    # torch warns whoever imports torchao, as Transformers does, of torchao's own calls.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def run(composed: DictConfig) -> None:
        with clear_errors(begun=True):
            stage(typed(composed))

    with clear_errors():
        sys.argv[1:] = arguments_of(sys.argv[1:])
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-") and "=" in argument]
        _refuse_stray(sys.argv)
        if "--multirun" not in sys.argv and "-m" not in sys.argv:
            load_config(overrides)
            flags = [argument for argument in sys.argv[1:] if argument not in overrides]
            sys.argv[1:] = [*flags, *checked(overrides)]
    interruption.own_process()
    interruption.install()
    run()


def _refuse_stray(arguments: Sequence[str]) -> None:
    for before, argument in pairwise(arguments):
        # What follows a flag may be its value: --cfg job
        if argument.startswith("-") or "=" in argument or before.startswith("-"):
            continue
        remedy = ""
        if "=" in before:
            remedy = f"; a value with blanks needs quotes: {shlex.quote(f'{before} {argument}')}"
        raise ConfigError(f"cannot read argument {argument!r}: settings are given as key=value{remedy}")


@contextmanager
def clear_errors(begun: bool = False) -> Iterator[None]:
    """End the process with one message and a status where the error inside is one that a user can mend.

    The status is the error's own, but 1 for all of them once a stage has ``begun``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where a terminal or a locale knows ASCII only, text of data and models has other characters all the same.
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt as error:
        with interruption.shielded():
            name, point, status = interruption.described(error)
            _show(f"\ninterrupted by {name}. Run the same command again to continue {point}:\n  {same_command()}")
        sys.exit(status)
    except Exception as error:
        status = tell(error)
        sys.exit(1 if begun else status)


def same_command() -> str:
    """What to type for this process to run again: as it was typed, but without ``overwrite``, which starts over."""
    given = sys.orig_argv
    start = next(
        (index for index, argument in enumerate(given) if argument.startswith("--args=") or "=" in argument), 0
    )
    if not start:
        return shlex.join(given)
    kept = [
        argument for argument in arguments_of(given[start:]) if argument.partition("=")[0].lstrip("+") != "overwrite"
    ]
    return shlex.join([*given[:start], *kept])


def tell(error: Exception) -> int:
    """Show an error; its exit status. One that a user can mend is one message; a defect of ours has its traceback, in
    which keys are hidden as well."""
    found = error if isinstance(error, UserError) else machine_fault(error)
    if not isinstance(found, UserError) or found.is_defect:
        _show("".join(traceback.format_exception(error)).rstrip())
        return 1
    logging.getLogger(__name__).debug("ended by", exc_info=True)
    _show(f"error: {found}")
    return found.exit_status


def _show(message: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{redact(message)}\n")
