"""hh-rlhf: two transcripts of ``Human:`` and ``Assistant:`` turns that share all but the last one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, text_field, validate

HUB = "Anthropic/hh-rlhf"
LEFT_OUT = ()
FIRST_BETTER: dict[str, Any] = {}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def recognises(row: Mapping[str, Any]) -> bool:
    """Two transcripts and no prompt."""
    texts = row.get("chosen"), row.get("rejected")
    return "prompt" not in row and all(isinstance(text, str) and _TURN.match(text) for text in texts)


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The shared turns are the prompt."""
    (shared, chosen), (other, rejected) = (_turns(row, name, place) for name in ("chosen", "rejected"))
    if shared != other:
        raise DataError(f"{place}: chosen and rejected differ before their last turn: remove the row")
    fields = {"id": f"hh_rlhf/{number}", "source": "hh-rlhf", "domain": "safety"}
    return validate({**fields, "prompt": shared, "chosen": chosen, "rejected": rejected}, place=place, number=number)


def _turns(row: Mapping[str, Any], name: str, place: str) -> tuple[list[dict[str, str]], str]:
    """All messages but the last, and the last, which must be the assistant's."""
    parts = _TURN.split(text_field(row, name, place))
    turns = [
        {"role": _ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if parts[0].strip() or not turns:
        raise DataError(f"{place}, field {name!r}: must be turns that begin with 'Human:' or 'Assistant:'")
    if turns[-1]["role"] != "assistant":
        raise DataError(f"{place}, field {name!r}: the last turn must be the assistant's: remove the row")
    return turns[:-1], turns[-1]["content"]
