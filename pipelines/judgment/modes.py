"""What a model can be asked for: the modes that its run trained, and the templates there are for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from actors.errors import UserError
from actors.messages import JudgeMode
from pipelines.data.prompts import PromptTemplate, load_template, template_file

MODES: tuple[JudgeMode, ...] = get_args(JudgeMode)


class ModeUnsupported(UserError, ValueError):
    """The judge was not trained for what it is asked; says what it was trained for."""


def check_mode(model: str, trained: Collection[JudgeMode] | None, judged: JudgeMode) -> None:
    """Refuse what a judge is known not to have learned; of ``trained`` None, nothing is known.

    Raises:
        ModeUnsupported: its run trained it for other modes.

    """
    if trained is not None and judged not in trained:
        raise ModeUnsupported(
            f"{model} was not trained for mode {judged}, only for {', '.join(trained)}: train a judge with "
            f"data.modes.{judged} above 0"
        )


def run_of(model: str) -> Mapping[str, Any] | None:
    """The resolved configuration of the run that trained a model, ``<run>/<stage>/hf``; None for a model of no run."""
    file = Path(model).resolve().parent.parent / "config.yaml"
    if Path(model).name != "hf" or not file.is_file():
        return None
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def modes_of(model: str) -> tuple[JudgeMode, ...] | None:
    """The modes that a model's run trained it for; None where that is not known."""
    config = run_of(model)
    if config is None:
        return None
    shares = config["data"].get("modes") or {"pairwise": 1.0}
    return tuple(mode for mode in MODES if shares.get(mode, 0) > 0)


def mode_templates(name: str) -> dict[JudgeMode, PromptTemplate]:
    """The templates of the other modes that lie beside a pairwise one.

    Raises:
        DataError: one of them cannot be used.

    """
    others = [mode for mode in MODES if mode != "pairwise" and template_file(name, mode).is_file()]
    return {mode: load_template(name, mode) for mode in others}
