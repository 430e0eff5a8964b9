"""The data of a stage, ready to use: chains to distil, pairs to judge in training, pairs held out.

Each comes from the built-in family that `prepare` wrote, or from the user's files where `data.*` names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np

from actors.learner.settings import ModelError
from actors.messages import Prompt, TrainingSequence
from pipelines.config import Config
from pipelines.data.preference_file import load_pairs, rows_of, split_by_prompt
from pipelines.data.prompts import DroppedPrompts, encode, load_template, orders_of, tokenise
from pipelines.data.published import conversation, is_published
from pipelines.data.schema import ROLES, DataError, PreferencePair, content_key, read_pairs
from pipelines.data.tiny_tasks import SOURCE, read_solution, true_first
from pipelines.runs.folder import RunDirectory

_TAIL = 8
"""Tokens at a prompt's end that are looked at: `<think>` is one token, or a few where it is no token of its own."""


@dataclass(frozen=True, slots=True)
class JudgingTask:
    """Pairs as prompts. An item is what a batch never splits: one order of a pair, or both."""

    pairs: Mapping[str, PreferencePair]
    items: tuple[tuple[Prompt, ...], ...]
    dropped: DroppedPrompts
    held_out: int = 0
    """Pairs that were left out because they are held out as well."""

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
        pair = self.pairs[pair_id]
        if pair.source != SOURCE or "kind" not in pair.metadata:
            return {}
        return {"solution_correct": read_solution(text, pair), "true_first_rubric": true_first(text, pair)}

    def describe(self) -> str:
        """Sizes in words, dropped prompts included."""
        prompts = sum(len(item) for item in self.items)
        dropped = f", {self.dropped.count} prompts too long (up to {self.dropped.longest} tokens)"
        held_out = f", {self.held_out} left out as they are held out"
        return (
            f"{len(self.items)} pairs as {prompts} prompts"
            + dropped * bool(self.dropped.count)
            + held_out * bool(self.held_out)
        )


@dataclass(frozen=True, slots=True)
class ChainSet:
    """Reasoning chains as token sequences."""

    sequences: tuple[TrainingSequence, ...]
    dropped: int
    longest: int

    def describe(self) -> str:
        """Sizes in words, dropped sequences included."""
        dropped = f", {self.dropped} too long (up to {self.longest} tokens)" * bool(self.dropped)
        return f"{len(self.sequences)} chains{dropped}"


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a checkpoint; one that stands without a model's configuration is taken as it is.

    Raises:
        ModelError: there is none at that path or name, or it has more tokens than the model beside it.

    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a tokenizer from {model!r}: {str(error).splitlines()[0]}") from error
    try:
        vocabulary = AutoConfig.from_pretrained(model).get_text_config().vocab_size
    except (OSError, ValueError):
        return tokenizer
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"the tokenizer of {model!r} has {len(tokenizer):,} tokens, the model a vocabulary of {vocabulary:,}: save "
            "the tokenizer the model was trained with, or enlarge the model with resize_token_embeddings"
        )
    return tokenizer


def _task(config: Config, pairs: list[PreferencePair], orders: str, model: str, what: str) -> JudgingTask:
    ordered = orders_of(pairs, orders, config.seed)
    prompts, dropped = tokenise(
        ordered,
        load_template(config.model.prompt),
        load_tokenizer(model),
        config.model.max_prompt_tokens,
    )
    by_pair: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_pair.setdefault(prompt.pair_id, []).append(prompt)
    # A pair of which one order is too long is left out whole: half of it would unbalance the positions.
    wanted = Counter(pair.id for pair, _ in ordered)
    items = tuple(tuple(group) for name, group in by_pair.items() if len(group) == wanted[name])
    if not items:
        raise DataError(
            f"{what}: all {len(pairs)} pairs are longer than model.max_prompt_tokens={config.model.max_prompt_tokens} "
            f"(the longest prompt has {dropped.longest} tokens): raise it, or use shorter pairs"
        )
    return JudgingTask({pair.id: pair for pair in pairs}, items, dropped)


def users_split(config: Config) -> tuple[list[PreferencePair], list[PreferencePair], int]:
    """The user's pairs for training and for evaluation, disjoint by content, and how many left the first for that."""
    assert config.data.train is not None
    train = load_pairs(config.data.train, config.data.on_bad_row)
    if config.data.heldout is None:
        return *split_by_prompt(train, config.data.heldout_fraction, config.seed), 0
    heldout = load_pairs(config.data.heldout, config.data.on_bad_row)
    shared = {content_key(pair) for pair in heldout}
    kept = [pair for pair in train if content_key(pair) not in shared]
    if not kept:
        raise DataError(
            f"{config.data.train}: every pair is in data.heldout={config.data.heldout} too: give other pairs for one"
        )
    return kept, heldout, len(train) - len(kept)


def training_task(config: Config, run: RunDirectory, model: str) -> JudgingTask:
    """Pairs for RL."""
    if config.data.train is not None:
        pairs, _, held_out = users_split(config)
        return replace(_task(config, pairs, config.data.orders, model, config.data.train), held_out=held_out)
    path = run.require(run.data / "rl.parquet", "training pairs", "prepare")
    return _task(config, read_pairs(path), config.data.orders, model, str(path))


def heldout_task(config: Config, run: RunDirectory, model: str) -> JudgingTask:
    """Held-out pairs, always in both orders."""
    if config.data.heldout is not None:
        pairs, what = load_pairs(config.data.heldout, config.data.on_bad_row), config.data.heldout
    elif config.data.train is not None:
        pairs, what = users_split(config)[1], config.data.train
    else:
        path = run.require(run.data / "heldout.parquet", "held-out pairs", "prepare")
        pairs, what = read_pairs(path), str(path)
    return _task(config, pairs, "both", model, what)


def distillation_set(config: Config, run: RunDirectory, model: str) -> ChainSet:
    """Chains for supervised fine-tuning: the prompt as the engine will see it, then the chain and end of sequence.

    Raises:
        DataError: a row without ``messages`` or ``chain``; no chain short enough.

    """
    path = config.data.chains or str(run.require(run.data / "chains.parquet", "reasoning chains", "prepare"))
    tokenizer = load_tokenizer(model)
    sequences, dropped, longest = [], 0, 0
    for number, row in rows_of(path):
        if is_published(row):
            messages: Any = conversation(row, f"{path}, row {number}")
            chain = row["winner"]
        else:
            messages, chain = row.get("messages"), row.get("chain")
        if not _is_conversation(messages) or not isinstance(chain, str) or not chain.strip():
            raise DataError(f"{path}, row {number}: a chain needs `messages` (role and content) and a `chain` text")
        prompt = encode(messages, tokenizer)
        if tokenizer.decode(prompt[-_TAIL:]).rstrip().endswith("<think>"):
            # The chat template opens the thought itself.
            chain = chain.removeprefix("<think>").removeprefix("\n")
        completion = [*tokenizer.encode(chain, add_special_tokens=False), tokenizer.eos_token_id]
        longest = max(longest, len(prompt) + len(completion))
        if len(prompt) + len(completion) > config.distill.max_tokens:
            dropped += 1
            continue
        sequences.append(TrainingSequence(np.asarray(prompt, np.int32), np.asarray(completion, np.int32)))
    if not sequences:
        raise DataError(
            f"{path}: no chain fits into distill.max_tokens={config.distill.max_tokens} (longest {longest}): raise it"
        )
    return ChainSet(tuple(sequences), dropped, longest)


def _is_conversation(messages: Any) -> TypeGuard[list[dict[str, str]]]:
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(message, Mapping) and message.get("role") in ROLES and isinstance(message.get("content"), str)
        for message in messages
    )
