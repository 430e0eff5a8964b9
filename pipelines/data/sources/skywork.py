"""Skywork-Reward-Preference-80K-v0.2: two conversations and the ``source`` each pair was taken from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import PreferencePair, text_field, validate
from pipelines.data.sources.messages import SKYWORK, split_conversations

HUB = "Skywork/Skywork-Reward-Preference-80K-v0.2"
# About 30% of the set; spurious cues tell its two sides apart (RM-R1, arXiv 2505.02387).
LEFT_OUT = ("magpie_ultra",)
FIRST_BETTER: dict[str, Any] = {}
DOMAINS = {"wildguard": "safety"}


def recognises(row: Mapping[str, Any]) -> bool:
    """Exactly the three columns of the set."""
    return row.keys() == SKYWORK and isinstance(row["chosen"], list)


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The pair, under the name of its own source."""
    prompt, chosen, rejected = split_conversations(row, place)
    source = text_field(row, "source", place)
    fields = {"id": f"skywork/{number}", "source": source, "domain": DOMAINS.get(source, "chat")}
    return validate({**fields, "prompt": prompt, "chosen": chosen, "rejected": rejected}, place=place, number=number)
