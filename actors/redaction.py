"""Keys of services: read and checked in one place, and replaced in whatever a person or a log is shown."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from urllib.parse import quote, quote_plus

from actors.errors import UserError

HIDDEN = "***"
_SHORTEST = 6
"""Characters of a text that counts as a secret: servers of one's own take `none`, which is also a word."""
_NAMES = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/\s?#\"'<>]*@")
_PARAMETER = re.compile(
    r"(?<=[?&])([\w.-]*(?:key|token|secret|passw|sig|auth|credential)[\w.-]*=)[^&\s#\"'<>]+", re.IGNORECASE
)
_remembered: set[str] = set()
"""Secrets this process has read under names that do not give them away."""


class KeyRefused(UserError, ValueError):
    """A key cannot be sent as it is; names the variable that holds it, never the key."""


def read_key(variable: str) -> str:
    """The key in an environment variable, white space around it removed; empty where there is none.

    Raises:
        KeyRefused: it holds what no header can carry: white space, control or non-ASCII characters.

    """
    value = os.environ.get(variable, "")
    remember(value)
    key = value.strip()
    for place, character in enumerate(key, start=1):
        if not "!" <= character <= "~":
            kind = "white space" if character.isspace() else "control" if character.isascii() else "non-ASCII"
            raise KeyRefused(
                f"the environment variable {variable} holds no usable key: character {place} of {len(key)} is a "
                f"{kind} character: export the key again, on one line and without quotation marks"
            )
    return key


def remember(secret: str) -> None:
    """Hide a secret from now on, whatever the name it was read under."""
    if secret:
        _remembered.add(secret)


def redact(text: str) -> str:
    """``text`` with every known secret replaced by ``***``.

    Known are keys that were read, the values of environment variables that end in KEY, TOKEN, SECRET or PASSWORD, each
    also as messages show them (line by line, escaped, quoted for a URL, in base 64), and what stands in any URL as a
    user's name and password or as a parameter that is named like a key.
    """
    values = _remembered | {value for name, value in os.environ.items() if _NAMES.search(name)}
    forms = {form for value in values for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return _PARAMETER.sub(rf"\g<1>{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


@functools.cache
def _forms(value: str) -> frozenset[str]:
    """How a secret may stand in a message. A line break or blank in it may have been taken for its end."""
    forms: set[str] = set()
    for part in {value, value.strip(), *value.split()}:
        if len(part) >= _SHORTEST:
            raw = part.encode(errors="surrogateescape")
            encoded = base64.b64encode(raw).decode().rstrip("=")
            forms |= {part, repr(part)[1:-1], ascii(part)[1:-1], repr(raw)[2:-1], json.dumps(part)[1:-1]}
            forms |= {quote(raw, safe=""), quote_plus(raw), encoded, encoded.translate(_URL_SAFE)}
    return frozenset(forms)


_URL_SAFE = str.maketrans("+/", "-_")
