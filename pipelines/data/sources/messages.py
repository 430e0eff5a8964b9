"""UltraFeedback- and HelpSteer-style pairs: ``chosen`` and ``rejected`` are lists of messages.

The lists hold the whole conversation, or what follows a question that stands in a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.question import Turn, as_turn, joined, question_of, response_of, stands_in, turn_key
from pipelines.data.schema import DataError, PreferencePair, validate

HUB = "HuggingFaceH4/ultrafeedback_binarized"
LEFT_OUT = ()
FIRST_BETTER: dict[str, Any] = {}
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
    # A list of messages beside two whole conversations, as UltraFeedback has it, repeats one of them.
    repeats = () if all(_is_answer(row.get(name)) for name in ("chosen", "rejected")) else ("messages", "conversations")
    before = question_of({name: row[name] for name in row if name not in repeats}, place)
    answers: list[Any] = []
    prompts: list[list[Turn]] = []
    for name in ("chosen", "rejected"):
        messages = row.get(name)
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
            raise DataError(f"{place}, field {name!r}: must be a list of {{role, content}} messages")
        turns = [as_turn(message) for message in messages]
        if turns[-1]["role"] != "assistant":
            raise DataError(f"{place}, field {name!r}: the last message must be the assistant's")
        answers.append(response_of(turns[-1], f"{place}, field {name!r}"))
        prompts.append(joined(_not_in(before, turns), turns, f"{place}, field {name!r}")[:-1])
    if [turn_key(turn) for turn in prompts[0]] != [turn_key(turn) for turn in prompts[1]]:
        raise DataError(f"{place}: chosen and rejected differ before their last message: remove the row")
    return prompts[0] or None, answers[0], answers[1]


def _is_answer(messages: Any) -> bool:
    """Whether a list of messages begins with the assistant, so that the question stands somewhere else."""
    return isinstance(messages, list) and bool(messages) and as_turn(messages[0])["role"] == "assistant"


def _not_in(before: list[Turn], turns: list[Turn]) -> list[Turn]:
    """What stands before a list, without a last question that is, or is part of, one the list has itself."""
    asked = before[-1]["content"] if before else None
    repeated = isinstance(asked, str) and any(
        turn["role"] == "user" and isinstance(turn["content"], str) and stands_in(asked, turn["content"])
        for turn in turns
    )
    return before[:-1] if repeated and len(before) == 1 else before
