"""Whether a stage is tracked by W&B online, offline or not at all, from settings and credentials."""

from __future__ import annotations

import logging
import netrc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from actors.redaction import redact

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]


def resolve_mode(mode: str, environment: Mapping[str, str], home: Path, hosts: Sequence[str]) -> Mode:
    """Turn the configured mode into the one to use.

    ``auto`` follows ``WANDB_MODE`` where it is set, and is otherwise online with credentials (see
    :func:`has_credentials`) and offline without. ``online`` without credentials becomes offline, because W&B would
    stop and ask for a key.

    Raises:
        ValueError: the mode is none of online, offline, disabled, auto.
    """
    if mode not in ("online", "offline", "disabled", "auto"):
        raise ValueError(f"tracking.wandb is {mode!r}; use one of: auto, online, offline, disabled")
    asked = environment.get("WANDB_MODE", "") if mode == "auto" else mode
    if asked == "disabled":
        return "disabled"
    if asked == "offline":
        return "offline"
    if has_credentials(environment, home, hosts):
        return "online"
    if asked == "online":
        log.warning("W&B: no WANDB_API_KEY and no netrc login, so this stage is tracked offline")
    return "offline"


def has_credentials(environment: Mapping[str, str], home: Path, hosts: Sequence[str]) -> bool:
    """Whether the environment has a W&B key or identity token, or a netrc file a login for one of W&B's ``hosts``."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    candidates = [Path(environment["NETRC"])] if environment.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for path in candidates:
        try:
            logins = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if any(logins.authenticators(host) is not None for host in hosts):
            return True
    return False


def server_hosts() -> tuple[str, ...]:
    """The hosts W&B may log in to: the configured server's; its own cloud goes by two names."""
    try:
        import wandb

        # Silent from here on: a run's own settings come too late for what is said while logging in.
        url = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    except Exception as error:
        log.warning("W&B: its settings cannot be read (%s)", redact(str(error)))
        return ()
    host = urlparse(url).netloc
    return (host, "api.wandb.ai") if host.endswith(".coreweave.com") else (host,)
