"""What is put to the teachers: pairs drawn by seed, in one order or both, none of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.messages import Order, Side
from pipelines.config import Config
from pipelines.data.prompts import load_template, orders_of, render
from pipelines.data.schema import DataError, PreferencePair, content_key, read_pairs
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import read_pairs_of, users_split


@dataclass(frozen=True, slots=True)
class Question:
    """One order of one pair, put to the teachers."""

    uid: str
    """``<pair id>/<order>``"""
    pair: PreferencePair
    order: Order
    label: Side
    messages: Sequence[Mapping[str, str]]
    """As the first teacher sees it."""
    learned_messages: Sequence[Mapping[str, str]]
    """As the distilled model will see it."""

    @property
    def judged(self) -> dict[Side, str]:
        """What a quote of either side may stem from: its response, or its whole conversation where there was one."""
        if "context_messages" in self.pair.metadata:
            shown = "\n".join(message["content"] for message in self.messages)
            return {"A": shown, "B": shown}
        before = [message.content for message in self.pair.prompt if message.role == "assistant"]
        chosen, rejected = ("\n".join([*before, text]) for text in (self.pair.chosen, self.pair.rejected))
        return {"A": chosen, "B": rejected} if self.label == "A" else {"A": rejected, "B": chosen}


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions of a set, in the order in which they are asked."""

    items: tuple[Question, ...]
    pairs: int
    held_out: int
    """Pairs left out because they are held-out ones too."""

    def describe(self) -> str:
        """Sizes in words."""
        left_out = f", {self.held_out} pairs left out because they are held out" * bool(self.held_out)
        return f"{self.pairs:,} pairs as {len(self.items):,} questions{left_out}"


def questions_of(config: Config, run: RunDirectory) -> Questions:
    """The pairs that `chains.*` names, drawn and put in order by seed, as questions.

    A pair keeps its place and its label position when `chains.limit` grows, so that what was paid for still counts.

    Raises:
        DataError: the pairs cannot be read, or all of them are held out.
        StageMissing: the built-in family's pairs have not been made.

    """
    pairs, held_out = _pairs(config, run)
    pairs.sort(key=lambda pair: hashlib.sha256(f"{config.seed}/chains/{pair.id}".encode()).digest())
    drawn = pairs[: config.chains.limit or None]
    learned = load_template(config.model.prompt)
    asked = load_template(config.chains.prompt) if config.chains.prompt else learned
    items = tuple(
        Question(
            uid=f"{pair.id}/{order}",
            pair=pair,
            order=order,
            label="A" if order == "chosen_first" else "B",
            messages=render(pair, order, asked),
            learned_messages=render(pair, order, learned),
        )
        for pair, order in orders_of(drawn, config.chains.orders, config.seed)
    )
    return Questions(items, len(drawn), held_out)


def _pairs(config: Config, run: RunDirectory) -> tuple[list[PreferencePair], int]:
    """Pairs to draw from, and how many were left out as held out."""
    if config.chains.pairs is not None:
        pairs = read_pairs_of(config, config.chains.pairs).pairs
        held_out = {content_key(pair) for pair in _heldout(config, run)}
        kept = [pair for pair in pairs if content_key(pair) not in held_out]
        if not kept:
            raise DataError(f"{config.chains.pairs}: every pair is held out too: give other pairs in chains.pairs")
        return kept, len(pairs) - len(kept)
    if config.data.train is not None:
        split = users_split(config)
        return split.train, split.shared
    return read_pairs(run.require(run.data / "distill.parquet", "pairs to judge", "prepare")), 0


def _heldout(config: Config, run: RunDirectory) -> list[PreferencePair]:
    if config.data.heldout is not None:
        return read_pairs_of(config, config.data.heldout).pairs
    if config.data.train is not None:
        return users_split(config).heldout
    path = run.data / "heldout.parquet"
    return read_pairs(path) if path.is_file() else []
