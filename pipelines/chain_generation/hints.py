"""The second pass: what the second teacher is told, from a template for each mode."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.messages import JudgeMode
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

    def messages(self, prompt: Sequence[Mapping[str, str]], attempt: str, verdict: str) -> list[dict[str, str]]:
        """The prompt's messages with the last, the user's, put into the template.

        ``verdict`` is the letter of the better response; of a rating, what it should be, such as ``at least 7``.
        """
        *before, last = (dict(message) for message in prompt)
        user = self.user.format(request=last["content"], attempt=attempt, verdict=verdict)
        return [*before, {"role": "user", "content": user}]

    def own_text(self) -> str:
        """The template's own words, without what it is filled with."""
        return self.user.format(request=" ", attempt=" ", verdict=" ")


def load_hint(name: str, judged: JudgeMode = "pairwise") -> Hint:
    """A template by name (``revise``, ``retry``) or by the path of a .txt file.

    Those of the other modes lie beside the pairwise one: ``revise.pointwise.txt`` beside ``revise.txt``. One that tells
    nothing serves all modes.

    Raises:
        DataError: there is no such template, or it lacks ``{request}`` or names an unknown field.

    """
    path = Path(name) if name.endswith(".txt") else HINTS / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in HINTS.glob("*.txt") if "." not in file.stem))
        raise DataError(f"chains.hint: there is no template {name!r}; use one of {known}, or the path of a .txt file")
    pairwise = _read(path)
    own = path.with_name(f"{path.stem}.{judged}.txt")
    if judged == "pairwise" or (not pairwise.tells and not own.is_file()):
        return pairwise
    if not own.is_file():
        raise DataError(f"chains.hint={name}: no template for mode {judged}: write {own.name} beside {path}")
    return _read(own)


def _read(path: Path) -> Hint:
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
        named = {
            f"{field}{'!' * bool(how)}{how or ''}{':' * bool(code)}{code}"
            for _, field, code, how in string.Formatter().parse(text)
            if field is not None
        }
    except UnicodeDecodeError as error:
        raise DataError(f"hint template {path}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"hint template {path}: {error}; write a brace of its own twice") from error
    if "request" not in named or named - _FIELDS:
        raise DataError(
            f"hint template {path}: must name {{request}} and may name {{attempt}} and {{verdict}}, "
            f"names {sorted(named)}"
        )
    return Hint(text)
