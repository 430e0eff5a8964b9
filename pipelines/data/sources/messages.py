"""UltraFeedback- and HelpSteer-style pairs: ``chosen`` and ``rejected`` are lists of messages.

The lists hold the whole conversation, or only the answer with the question in ``prompt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, validate

HUB = "HuggingFaceH4/ultrafeedback_binarized"
LEFT_OUT = ()
SKYWORK = {"chosen", "rejected", "source"}


def recognises(row: Mapping[str, Any]) -> bool:
    """Two lists, and not Skywork's three columns alone."""
    return isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list) and row.keys() != SKYWORK


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The turns both sides share are the prompt, the last one of each is the response."""
    prompt, chosen, rejected = split_conversations(row, place)
    fields = {
        "id": f"messages/{row.get('prompt_id') or number}/{number}",
        "source": row.get("source") or "messages",
        "domain": row.get("domain") or "chat",
    }
    return validate({**fields, "prompt": prompt, "chosen": chosen, "rejected": rejected}, place=place, number=number)


def split_conversations(row: Mapping[str, Any], place: str) -> tuple[Any, Any, Any]:
    """Prompt and both responses of two lists of messages.

    Raises:
        DataError: a list that is missing, empty or does not end with the assistant, or lists with different prompts.

    """
    answers: list[Any] = []
    prompts: list[Any] = []
    for name in ("chosen", "rejected"):
        messages = row.get(name)
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
            raise DataError(f"{place}, field {name!r}: must be a list of {{role, content}} messages")
        if messages[-1].get("role") != "assistant":
            raise DataError(f"{place}, field {name!r}: the last message must be the assistant's")
        answers.append(messages[-1].get("content"))
        prompts.append(messages[:-1])
    if prompts[0] != prompts[1]:
        raise DataError(f"{place}: chosen and rejected differ before their last message: remove the row")
    return prompts[0] or row.get("prompt"), answers[0], answers[1]
