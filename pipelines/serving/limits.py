"""Who may ask, how much, and how many at once: the rules, apart from HTTP."""

from __future__ import annotations

import errno
import ipaddress
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

from pipelines.config import ConfigError


class Refused(Exception):
    """A request that is not answered: an HTTP status, a code, and a message for who asked."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        """Seconds after which it may be asked again; None: the same request will be refused again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one replica."""

    in_flight: int
    body_bytes: int
    votes: int
    responses: int
    deadline: float
    """Seconds."""


def read_keys(path: str | None, host: str, section: str = "serve") -> tuple[str, ...]:
    """The bearer keys of a file, one a line; none without a file, which only a loopback address may do.

    Raises:
        ConfigError: the file is missing, others may read it, it is no UTF-8, holds no key or one that cannot be sent;
            or keys are needed.

    """
    if path is None:
        if not _is_loopback(host):
            raise ConfigError(
                f"{section}.host={host} is reached from other machines, and {section}.keys is not set: name a file "
                "of keys"
            )
        return ()
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{section}.keys={path}: there is no such file")
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{section}.keys={path}: others may read or change it: chmod 600 {path}")
    try:
        keys = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{section}.keys={path}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    if not keys:
        raise ConfigError(f"{section}.keys={path} holds no key: write one a line")
    if not all(key.isprintable() for key in keys):
        raise ConfigError(
            f"{section}.keys={path}: a key has control characters, which no header can hold: write another"
        )
    return keys


def check_port(host: str, port: int, section: str = "serve") -> None:
    """Hold the address of settings ``section`` to one that can be listened at.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        remedy = f"another server listens there: set {section}.port" if error.errno == errno.EADDRINUSE else str(error)
        raise ConfigError(f"{section}.host={host} {section}.port={port}: cannot listen: {remedy}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_key(keys: Sequence[str], authorization: str | None) -> None:
    """Compare the key of an ``Authorization`` header with all keys, in the same time whichever it is.

    Raises:
        Refused: 401.

    """
    if not keys:
        return
    kind, _, given = (authorization or "").partition(" ")
    known = [compare_digest(key.encode(), given.strip().encode()) for key in keys]
    if kind.lower() != "bearer" or not any(known):
        raise Refused(401, "invalid_api_key", "no valid key: send the header `Authorization: Bearer <key>`")


class Slots:
    """Requests in flight."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot.

        Raises:
            Refused: 429; all are taken.

        """
        if self.taken >= self.most:
            raise Refused(429, "rate_limit_exceeded", f"{self.most} requests are in flight: ask again", retry_after=1)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
