"""The second pass: what the second teacher is told, from a template."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from actors.messages import Side
from pipelines.data.schema import DataError

HINTS = Path(__file__).parent / "hints"
_FIELDS = {"request", "attempt", "verdict"}


@dataclass(frozen=True, slots=True)
class Hint:
    """A template of the second pass."""

    user: str
    """With ``{request}``, and ``{attempt}`` and ``{verdict}`` where the teacher is told."""

    @property
    def tells(self) -> bool:
        """Whether it tells anything; a template of ``{request}`` alone only asks again."""
        return self.user.strip() != "{request}"

    def messages(self, prompt: Sequence[Mapping[str, str]], attempt: str, verdict: Side) -> list[dict[str, str]]:
        """The prompt's messages with the last, the user's, put into the template."""
        *before, last = (dict(message) for message in prompt)
        user = self.user.format(request=last["content"], attempt=attempt, verdict=verdict)
        return [*before, {"role": "user", "content": user}]

    def own_text(self) -> str:
        """The template's own words, without what it is filled with."""
        return self.user.format(request=" ", attempt=" ", verdict=" ")


def load_hint(name: str) -> Hint:
    """A template by name (``revise``, ``retry``) or by the path of a YAML file with one part, ``user``.

    Raises:
        DataError: there is no such template, or it lacks ``{request}`` or names an unknown field.

    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else HINTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in HINTS.glob("*.yaml")))
        raise DataError(f"chains.hint: there is no template {name!r}; use one of {known}, or the path of a .yaml file")
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"hint template {path}: cannot be read: {error}") from error
    if not isinstance(parts, dict) or set(parts) != {"user"} or not isinstance(parts["user"], str):
        raise DataError(f"hint template {path}: needs one part, the text `user`")
    try:
        named = {
            f"{field}{'!' * bool(how)}{how or ''}{':' * bool(code)}{code}"
            for _, field, code, how in string.Formatter().parse(parts["user"])
            if field is not None
        }
    except ValueError as error:
        raise DataError(f"hint template {path}: {error}; write a brace of its own twice") from error
    if "request" not in named or named - _FIELDS:
        raise DataError(
            f"hint template {path}: must name {{request}} and may name {{attempt}} and {{verdict}}, "
            f"names {sorted(named)}"
        )
    return Hint(parts["user"])
