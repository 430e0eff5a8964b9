"""Which pair is put to the judge in which mode, and the prompts of the modes besides pairwise.

A pair makes two prompts in every mode: both orders; a rating of either response; a list in two rotations.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from actors.messages import JudgeMode, Order, Prompt, Side
from actors.verifier.trace import LETTERS
from pipelines.data.prompts import (
    DroppedPrompts,
    PromptTemplate,
    encode_all,
    load_template,
    orders_of,
    render_list,
    render_rating,
    tokenise,
)
from pipelines.data.schema import DataError, PreferencePair

if TYPE_CHECKING:
    from pipelines.config.data import Modes

ORDERS: tuple[Order, Order] = ("chosen_first", "chosen_second")
_MOST_OTHERS = len(LETTERS) - 2


def trained_modes(modes: Modes) -> tuple[JudgeMode, ...]:
    """The modes that have a share."""
    return tuple(cast(JudgeMode, name) for name, share in asdict(modes).items() if share > 0)


def assigned(pairs: Iterable[PreferencePair], modes: Modes, seed: int) -> dict[str, JudgeMode]:
    """The mode of every pair by its id: drawn by the shares, from ``seed`` and the id alone.

    Raises:
        DataError: a pair's prompt came ready made, and there are other modes than pairwise.

    """
    names = trained_modes(modes)
    shares = [asdict(modes)[name] for name in names]
    found: dict[str, JudgeMode] = {}
    for pair in pairs:
        if names == ("pairwise",):
            found[pair.id] = "pairwise"
            continue
        if pair.ready_made:
            raise DataError(
                f"pair {pair.id!r}: its prompt came ready made, for two responses: set data.modes.pointwise and "
                "data.modes.listwise to 0, or give pairs whose prompts are made here"
            )
        (found[pair.id],) = random.Random(f"{seed}/{pair.id}/mode").choices(names, shares)
    return found


def listed(pair: PreferencePair, order: Order) -> tuple[list[str], Side]:
    """The responses of a pair as a list shows them, and the letter of the chosen one.

    Besides the two, ``others`` in the pair's metadata: at most two responses more that are worse than the chosen one.
    Their places are drawn from the pair's id; the other order has them moved on by half of the list.

    Raises:
        DataError: ``others`` are no texts, or too many.

    """
    others = pair.metadata.get("others", [])
    if not isinstance(others, list) or len(others) > _MOST_OTHERS or not all(isinstance(item, str) for item in others):
        raise DataError(f"pair {pair.id!r}, metadata 'others': must be a list of at most {_MOST_OTHERS} texts")
    responses = [pair.chosen, pair.rejected, *others]
    places = list(range(len(responses)))
    random.Random(f"{pair.id}/list").shuffle(places)
    if order == "chosen_second":
        half = len(places) // 2
        places = [*places[half:], *places[:half]]
    return [responses[place] for place in places], LETTERS[places.index(0)]


def asked_of(
    pair: PreferencePair, mode: JudgeMode, template: PromptTemplate
) -> Iterator[tuple[Order, Side, int, list[dict[str, str]]]]:
    """Both prompts of a pair, rated or listed: order, label, number of responses, messages."""
    for order in ORDERS:
        first = order == "chosen_first"
        if mode == "pointwise":
            rated = pair.chosen if first else pair.rejected
            yield order, ("A" if first else "B"), 1, render_rating(pair.prompt, rated, template)
        else:
            responses, label = listed(pair, order)
            yield order, label, len(responses), render_list(pair.prompt, responses, template)


def mode_prompts(
    pairs: Sequence[PreferencePair], mode: JudgeMode, template: PromptTemplate, tokenizer: Any, max_prompt_tokens: int
) -> tuple[list[Prompt], DroppedPrompts]:
    """Prompts of at most ``max_prompt_tokens`` tokens, in order. Longer ones are counted, never cut."""
    asked = [(pair, *prompt) for pair in pairs for prompt in asked_of(pair, mode, template)]
    prompts: list[Prompt] = []
    dropped = longest = 0
    for (pair, order, label, count, _), token_ids in zip(
        asked, encode_all((messages for *_, messages in asked), tokenizer), strict=True
    ):
        longest = max(longest, len(token_ids))
        if len(token_ids) > max_prompt_tokens:
            dropped += 1
            continue
        uid = f"{pair.id}/{order}"
        prompts.append(Prompt(uid, pair.id, order, label, pair.domain, tuple(token_ids), mode, count))
    return prompts, DroppedPrompts(dropped, longest)


def items_of(
    pairs: Sequence[PreferencePair],
    orders: str,
    modes: Modes,
    seed: int,
    prompt: str,
    tokenizer: Any,
    max_prompt_tokens: int,
) -> tuple[tuple[tuple[Prompt, ...], ...], DroppedPrompts]:
    """The prompts of each pair together, in the order of the pairs; ``orders`` is of those that stay pairs.

    A pair of which one prompt is too long is left out whole: half of it would unbalance the positions.

    Raises:
        DataError: there is no template ``prompt`` for a mode, or a pair cannot be put to the judge in its mode.

    """
    by_mode: dict[JudgeMode, list[PreferencePair]] = {}
    mode_of = assigned(pairs, modes, seed)
    for pair in pairs:
        by_mode.setdefault(mode_of[pair.id], []).append(pair)
    by_pair: dict[str, list[Prompt]] = {pair.id: [] for pair in pairs}
    wanted: Counter[str] = Counter()
    dropped = DroppedPrompts(0, 0)
    for mode, mine in by_mode.items():
        template = load_template(prompt, mode)
        if mode == "pairwise":
            ordered = orders_of(mine, orders, seed)
            prompts, lost = tokenise(ordered, template, tokenizer, max_prompt_tokens)
            wanted.update(pair.id for pair, _ in ordered)
        else:
            prompts, lost = mode_prompts(mine, mode, template, tokenizer, max_prompt_tokens)
            wanted.update([pair.id for pair in mine] * len(ORDERS))
        dropped = DroppedPrompts(dropped.count + lost.count, max(dropped.longest, lost.longest))
        for item in prompts:
            by_pair[item.pair_id].append(item)
    items = tuple(tuple(mine) for name, mine in by_pair.items() if mine and len(mine) == wanted[name])
    return items, dropped


def shown(pair: PreferencePair, order: Order, mode: JudgeMode) -> tuple[str, str]:
    """What a prompt shows as A, and what besides: as B, or in a list as B, C and D."""
    if mode == "pointwise":
        return (pair.chosen if order == "chosen_first" else pair.rejected), ""
    if mode == "listwise":
        first, *rest = listed(pair, order)[0]
        return first, rest[0] if len(rest) == 1 else "\n\n".join(map("{}: {}".format, LETTERS[1:], rest))
    return (pair.chosen, pair.rejected) if order == "chosen_first" else (pair.rejected, pair.chosen)
