"""The data of a stage, ready to use: chains to distil, pairs to judge in training, pairs held out.

Each comes from the built-in family that `prepare` wrote, or from the user's files where `data.*` names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Prompt, TrainingSequence
from pipelines.config import Config
from pipelines.config.data import Modes
from pipelines.data.family import family_checks
from pipelines.data.modes import items_of
from pipelines.data.preference_file import PairFile, losses, read_pair_file, split_by_prompt
from pipelines.data.prompts import DroppedPrompts
from pipelines.data.published import conversation, is_published
from pipelines.data.question import check_all_read, without
from pipelines.data.rows import placed_rows
from pipelines.data.schema import (
    BadRows,
    DataError,
    PreferencePair,
    content_key,
    messages_of,
    plain_messages,
    read_pairs,
)
from pipelines.data.tokenizer import load_tokenizer
from pipelines.data.tokens import chat_tokenizer
from pipelines.runs.folder import RunDirectory

PAIRWISE = Modes()
_CHAIN_NEEDS = "a chain needs `messages` (role and content) and a `chain` text"


@dataclass(frozen=True, slots=True)
class JudgingTask:
    """Pairs as prompts. An item is what a batch never splits: one order of a pair, or both."""

    pairs: Mapping[str, PreferencePair]
    items: tuple[tuple[Prompt, ...], ...]
    dropped: DroppedPrompts
    held_out: int = 0
    """Pairs that were left out because they are held out as well."""
    losses: tuple[str, ...] = ()
    """What was not read of the user's files, in words."""

    @property
    def prompts_per_item(self) -> int:
        """1, or 2 where both orders of a pair stay together."""
        return len(self.items[0])

    def prompts(self, indices: Iterable[int]) -> list[Prompt]:
        """The prompts of these items, in order."""
        return [prompt for index in indices for prompt in self.items[index]]

    def first(self, count: int) -> JudgingTask:
        """The first ``count`` items; 0 means all."""
        return replace(self, items=self.items[:count]) if count else self

    def extras(self, pair_id: str, text: str) -> dict[str, bool | None]:
        """What the built-in family can check beyond the verdict; empty for other data."""
        return family_checks(self.pairs[pair_id], text)

    def describe(self) -> str:
        """Sizes in words, dropped prompts included."""
        prompts = sum(len(item) for item in self.items)
        dropped = f", {self.dropped.count} prompts too long (up to {self.dropped.longest} tokens)"
        held_out = f", {self.held_out} left out as they are held out"
        modes = Counter(item[0].judged for item in self.items)
        others = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()) if mode != "pairwise")
        return (
            f"{len(self.items)} pairs as {prompts} prompts"
            + f" ({others})" * bool(others)
            + dropped * bool(self.dropped.count)
            + held_out * bool(self.held_out)
            + "".join(f", {loss}" for loss in self.losses)
        )


@dataclass(frozen=True, slots=True)
class ChainSet:
    """Reasoning chains as token sequences."""

    sequences: tuple[TrainingSequence, ...]
    dropped: int
    longest: int
    losses: tuple[str, ...] = ()
    """What was not read of the user's files, in words."""

    def describe(self) -> str:
        """Sizes in words, dropped sequences included."""
        dropped = f", {self.dropped} too long (up to {self.longest} tokens)" * bool(self.dropped)
        return f"{len(self.sequences)} chains{dropped}" + "".join(f", {loss}" for loss in self.losses)


@dataclass(frozen=True, slots=True)
class UsersPairs:
    """The user's pairs for training and for evaluation, disjoint by content."""

    train: list[PreferencePair]
    heldout: list[PreferencePair]
    shared: int
    """Pairs that left the first because they are in the second."""
    losses: tuple[str, ...]
    """What was not read of the training file, in words."""


def tokenizer_of(config: Config, model: str) -> Any:
    """:func:`load_tokenizer` for prompts and responses as long as the settings allow."""
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    return load_tokenizer(model, longest, variables=config.model.chat_template_kwargs)


def _task(
    config: Config, pairs: list[PreferencePair], orders: str, model: str, what: str, modes: Modes = PAIRWISE
) -> JudgingTask:
    items, dropped = items_of(
        *(pairs, orders, modes, config.seed, config.model.prompt),
        tokenizer_of(config, model),
        config.model.max_prompt_tokens,
    )
    if not items:
        raise DataError(
            f"{what}: all {len(pairs)} pairs are longer than model.max_prompt_tokens={config.model.max_prompt_tokens} "
            f"(the longest prompt has {dropped.longest} tokens): raise it, or use shorter pairs"
        )
    return JudgingTask({pair.id: pair for pair in pairs}, items, dropped)


def read_pairs_of(config: Config, path: str | Path) -> PairFile:
    """The pairs of a user's file, under the settings of `data`."""
    return read_pair_file(path, on_bad_row=config.data.on_bad_row, ignore=config.data.ignore_columns)


def users_split(config: Config) -> UsersPairs:
    """The user's pairs: of two files, or of one that is split by prompt."""
    assert config.data.train is not None
    read = read_pairs_of(config, config.data.train)
    losses = read.losses()
    if config.data.heldout is None:
        return UsersPairs(*split_by_prompt(read.pairs, config.data.heldout_fraction, config.seed), 0, losses)
    heldout = read_pairs_of(config, config.data.heldout).pairs
    shared = {content_key(pair) for pair in heldout}
    kept = [pair for pair in read.pairs if content_key(pair) not in shared]
    if not kept:
        raise DataError(
            f"{config.data.train}: every pair is in data.heldout={config.data.heldout} too: give other pairs for one"
        )
    return UsersPairs(kept, heldout, len(read.pairs) - len(kept), losses)


def training_task(config: Config, run: RunDirectory, model: str) -> JudgingTask:
    """Pairs for RL."""
    if config.data.train is not None:
        pairs = users_split(config)
        task = _task(config, pairs.train, config.data.orders, model, config.data.train, config.data.modes)
        return replace(task, held_out=pairs.shared, losses=pairs.losses)
    path = run.require(run.data / "rl.parquet", "training pairs", "prepare")
    return _task(config, read_pairs(path), config.data.orders, model, str(path), config.data.modes)


def heldout_task(config: Config, run: RunDirectory, model: str, modes: Modes = PAIRWISE) -> JudgingTask:
    """Held-out pairs, always in both orders; in other ``modes`` for their own figures."""
    losses: tuple[str, ...] = ()
    if config.data.heldout is not None:
        read, what = read_pairs_of(config, config.data.heldout), config.data.heldout
        pairs, losses = read.pairs, read.losses()
    elif config.data.train is not None:
        pairs, what = users_split(config).heldout, config.data.train
    else:
        path = run.require(run.data / "heldout.parquet", "held-out pairs", "prepare")
        pairs, what = read_pairs(path), str(path)
    return replace(_task(config, pairs, "both", model, what, modes), losses=losses)


def distillation_set(config: Config, run: RunDirectory, model: str) -> ChainSet:
    """Chains for supervised fine-tuning: the prompt as the engine will see it, then the chain and end of sequence.

    The tags of a chain's own are tokens where the tokenizer has them; whatever else it spells is text.

    Raises:
        DataError: a row without ``messages`` or ``chain``, unless bad rows are skipped; no chain short enough.
        ModelError: the model cannot be used; see :func:`load_tokenizer`.

    """
    path = config.data.chains or str(run.require(run.data / "chains.parquet", "reasoning chains", "prepare"))
    tokenizer = load_tokenizer(
        model, config.distill.max_tokens, "distill.max_tokens", config.model.chat_template_kwargs
    )
    chat = chat_tokenizer(tokenizer)
    sequences, dropped, longest = [], 0, 0
    ignored: Counter[str] = Counter()
    bad_rows = BadRows(skip=config.data.on_bad_row == "skip")
    for place, _, row in placed_rows(path, bad_rows):
        try:
            row = without(row, config.data.ignore_columns, ignored)
            messages, chain = _chain(row, place)
            check_all_read(row, [message["content"] for message in messages], [chain], place)
        except DataError as error:
            bad_rows.take(error)
            continue
        asked = chat.prompt(messages)
        prompt, written = chat.ids([asked, chat.chain(chain, asked)])
        completion = [*written, tokenizer.eos_token_id]
        longest = max(longest, len(prompt) + len(completion))
        if len(prompt) + len(completion) > config.distill.max_tokens:
            dropped += 1
            continue
        sequences.append(TrainingSequence(np.asarray(prompt, np.int32), np.asarray(completion, np.int32)))
    if not sequences and not longest:
        raise DataError(
            f"{path} holds no chains: {bad_rows.skipped[0] if bad_rows.skipped else 'write one row per chain'}"
        )
    if not sequences:
        raise DataError(
            f"{path}: no chain fits into distill.max_tokens={config.distill.max_tokens} (longest {longest}): raise it"
        )
    return ChainSet(tuple(sequences), dropped, longest, losses(bad_rows.skipped, ignored))


def _chain(row: Any, place: str) -> tuple[list[dict[str, str]], str]:
    """A row's prompt and what follows it; in the published form the chain stands in ``winner``."""
    if is_published(row):
        messages, chain = conversation(row, place), row["winner"]
    else:
        fields = row if isinstance(row, Mapping) else {}
        chain = fields.get("chain")
        try:
            messages = plain_messages(messages_of(fields.get("messages"), place, "messages"))
        except DataError as error:
            raise DataError(f"{place}: {_CHAIN_NEEDS} ({error})") from error
    if not isinstance(chain, str) or not chain.strip():
        raise DataError(f"{place}: {_CHAIN_NEEDS}")
    return messages, chain
