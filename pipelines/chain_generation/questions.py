"""What is put to the teachers: pairs drawn by seed, each in its mode, none of them held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.messages import JudgeMode, Order, Side
from actors.verifier.trace import LETTERS
from pipelines.config import Config
from pipelines.data.modes import asked_of, assigned, listed, shown, trained_modes
from pipelines.data.prompts import load_template, orders_of, render
from pipelines.data.schema import DataError, PreferencePair, content_key, read_pairs
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import read_pairs_of, users_split


@dataclass(frozen=True, slots=True)
class Question:
    """One pair put to the teachers: in one order, or one of its responses to rate, or as one of its lists."""

    uid: str
    """``<pair id>/<order>``"""
    pair: PreferencePair
    order: Order
    label: Side
    """Under which letter the better response stands; of a rating, A where it is the better response that is rated."""
    messages: Sequence[Mapping[str, str]]
    """As the first teacher sees it."""
    learned_messages: Sequence[Mapping[str, str]]
    """As the distilled model will see it."""
    mode: JudgeMode = "pairwise"
    responses: int = 2

    @property
    def other(self) -> str:
        """The uid of the same pair the other way round; of a rating, that of the other response."""
        return f"{self.pair.id}/{'chosen_second' if self.order == 'chosen_first' else 'chosen_first'}"

    @property
    def judged(self) -> dict[Side, str]:
        """What a quote of each side may stem from: its response, or its whole conversation where there was one."""
        if "context_messages" in self.pair.metadata:
            whole = "\n".join(message["content"] for message in self.messages)
            return {"A": whole, "B": whole}
        before = [message.content for message in self.pair.prompt if message.role == "assistant"]
        if self.mode == "listwise":
            texts = listed(self.pair, self.order)[0]
        else:
            texts = list(shown(self.pair, self.order, self.mode))[: self.responses]
        return {side: "\n".join([*before, text]) for side, text in zip(LETTERS, texts, strict=False)}


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
        counts = Counter(item.mode for item in self.items)
        of_modes = f" ({', '.join(f'{count:,} {mode}' for mode, count in counts.items())})" * (len(counts) > 1)
        return f"{self.pairs:,} pairs as {len(self.items):,} questions{of_modes}{left_out}"


def questions_of(config: Config, run: RunDirectory) -> Questions:
    """The pairs that `chains.*` names, drawn and put in order by seed, as questions in the modes of `data.modes`.

    A pair keeps its place, its mode and its label position when `chains.limit` grows, so that what was paid for still
    counts.

    Raises:
        DataError: the pairs cannot be read, all of them are held out, or there is no template for a mode.
        StageMissing: the built-in family's pairs have not been made.

    """
    pairs, held_out = _pairs(config, run)
    pairs.sort(key=lambda pair: hashlib.sha256(f"{config.seed}/chains/{pair.id}".encode()).digest())
    drawn = pairs[: config.chains.limit or None]
    mode_of = assigned(drawn, config.data.modes, config.seed)
    by_pair: dict[str, list[Question]] = {pair.id: [] for pair in drawn}
    for mode in trained_modes(config.data.modes):
        for question in _in_mode(mode, [pair for pair in drawn if mode_of[pair.id] == mode], config):
            by_pair[question.pair.id].append(question)
    items = tuple(question for mine in by_pair.values() for question in mine)
    return Questions(items, len(drawn), held_out)


def _in_mode(mode: JudgeMode, pairs: Sequence[PreferencePair], config: Config) -> Iterator[Question]:
    """The questions of pairs that are all put in one mode."""
    learned = load_template(config.model.prompt, mode)
    asked = load_template(config.chains.prompt, mode) if config.chains.prompt else learned
    if mode == "pairwise":
        for pair, order in orders_of(pairs, config.chains.orders, config.seed):
            label: Side = "A" if order == "chosen_first" else "B"
            messages, as_learned = render(pair, order, asked), render(pair, order, learned)
            yield Question(f"{pair.id}/{order}", pair, order, label, messages, as_learned)
        return
    for pair in pairs:
        both = zip(asked_of(pair, mode, asked), asked_of(pair, mode, learned), strict=True)
        for (order, label, count, messages), (*_, as_learned) in both:
            yield Question(f"{pair.id}/{order}", pair, order, label, messages, as_learned, mode, count)


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
