"""Whether a model can be had from the hub, asked at once: Transformers would try for minutes, and then say less."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from actors.errors import UserError
from pipelines.data.pretrained_model import FOLDER, HUB_NAME

_PATIENCE = 10.0
"""Seconds for a hub to answer."""


class HubUnreached(UserError, RuntimeError):
    """A model is no folder here, not in the hub's cache, and the hub is not reached; says what to do."""


def check_reached(model: str) -> None:
    """Refuse a model by its hub name where neither the cache nor the hub has an answer.

    Behind a proxy nothing is refused, for whether that reaches the hub is not known here.

    Raises:
        HubUnreached: naming the model, the hub and the remedy.

    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        return
    try:
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return
    except HFValidationError:  # A path, and no name at all.
        return
    hub = urlsplit(constants.ENDPOINT)
    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        if getproxies():
            return
        try:
            socket.create_connection((hub.hostname, hub.port or 443), _PATIENCE).close()
            return
        except OSError as error:
            why = str(error)
    remedy = f"run `make pretrained`, which writes the model to {FOLDER}, or " if model == HUB_NAME else ""
    raise HubUnreached(
        f"{model!r} is no folder here and not in the hub's cache, and {hub.hostname} is not reached ({why}): {remedy}"
        "give the path of a checkpoint"
    )
