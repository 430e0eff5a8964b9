"""Before a job starts: what it needs in memory is compared with what there is."""

from __future__ import annotations

from dataclasses import replace

from actors.errors import UserError
from pipelines.config import Config
from pipelines.planning.budget import budget, limits
from pipelines.planning.recipe import machine, model_shape
from pipelines.planning.shape import ShapeError


class DoesNotFit(UserError, RuntimeError):
    """A job does not fit; says what is too small and which setting to change."""


def refuse_what_does_not_fit(config: Config, training: tuple[str, ...] | None = None) -> None:
    """Refuse a job whose stages ``training`` do not fit into memory; None: those of a whole run.

    The disk is left to ``make plan``. A model whose shape is not known is not checked.

    Raises:
        DoesNotFit: unless ``cluster.memory_check`` is false.
        ShapeError: the engines cannot split the model.

    """
    if not config.cluster.memory_check:
        return
    try:
        shape = model_shape(config)
    except ShapeError:  # Of another kind than those that can be planned; nothing else is wrong with it here.
        shape = None
    if shape is None:
        return
    here = machine(config)
    found = budget(config, shape, training)
    limit = next(limits(config, shape, found, replace(here, disk=None)), None)
    if limit is not None:
        raise DoesNotFit(
            f"this does not fit: {limit}. `make plan` shows all of it; cluster.memory_check=false starts it anyway"
        )
