"""Pairs in the modes besides pairwise: which mode, what is shown, what the built-in teacher writes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from configs import configured

from actors.verifier.trace import parse, read_verdict, well_formed
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.config.data import Modes
from pipelines.data.family import family_chain, family_items
from pipelines.data.modes import ORDERS, asked_of, assigned, listed, shown, trained_modes
from pipelines.data.prompts import load_template, render
from pipelines.data.schema import DataError, PreferencePair
from pipelines.data.tiny_modes import LIST, mode_chain, with_others
from pipelines.data.tiny_tasks import WEIGHTS, generate_items, satisfies, score
from pipelines.prepare import LABELS, chain_rows

MIX = Modes(1.0, 1.0, 2.0)
PAIRS = [with_others(pair) for pair in generate_items(3, {"x": 600})["x"]]
TEMPLATES = {mode: load_template("tiny", mode) for mode in ("pointwise", "listwise")}  # type: ignore[arg-type]


def test_shares_are_drawn_from_the_seed_and_the_pair_alone() -> None:
    found = assigned(PAIRS, MIX, 0)
    counts = Counter(found.values())
    assert 100 < counts["pairwise"] < 200
    assert 100 < counts["pointwise"] < 200
    assert 250 < counts["listwise"] < 350
    assert assigned(PAIRS[::-1], MIX, 0) == found
    assert assigned(PAIRS, MIX, 1) != found
    assert set(assigned(PAIRS, Modes(), 0).values()) == {"pairwise"}
    assert trained_modes(MIX) == ("pairwise", "pointwise", "listwise")
    assert trained_modes(Modes()) == ("pairwise",)


@pytest.mark.slow
def test_without_a_mix_chains_and_items_are_those_of_before() -> None:
    config = configured("recipe=tiny")
    items = family_items(0, {"distill": 40}, config.data)["distill"]
    assert items == generate_items(0, {"distill": 40})["distill"]
    template = load_template("tiny")
    for pair in items:
        assert list(chain_rows(pair, "pairwise", config)) == [
            {
                "pair_id": pair.id,
                "order": order,
                "messages": render(pair, order, template),
                "chain": family_chain(pair, label, f"0/{pair.id}/{order}"),
            }
            for order, label in LABELS
        ]


def test_others_are_worse_than_the_chosen_response_and_different() -> None:
    for pair in PAIRS:
        others = pair.metadata["others"]
        assert len({pair.chosen, pair.rejected, *others}) == LIST
        if pair.domain == "Reasoning":
            assert pair.metadata["answer"] not in others
        else:
            true = pair.metadata["true_order"]
            assert all(score(other, true) < score(pair.chosen, true) for other in others)
    assert with_others(replace(PAIRS[0], metadata={**PAIRS[0].metadata, "others": []})) == PAIRS[0]


def test_a_list_shows_all_responses_and_its_label_is_the_chosen_one() -> None:
    places: Counter[str] = Counter()
    for pair in PAIRS:
        for order in ORDERS:
            responses, label = listed(pair, order)
            assert Counter(responses) == Counter([pair.chosen, pair.rejected, *pair.metadata["others"]])
            assert responses["ABCD".index(label)] == pair.chosen
            places[label] += 1
        assert listed(pair, ORDERS[0])[1] != listed(pair, ORDERS[1])[1]
    # No position is favoured: 400 of 1,200 each, give or take five deviations.
    assert all(abs(places[letter] - 400) < 85 for letter in "ABC")
    two = replace(PAIRS[0], metadata={})
    assert len(listed(two, "chosen_first")[0]) == 2
    for others in (["a", "b", "c"], [3], "ab"):
        with pytest.raises(DataError, match="metadata 'others': must be a list of at most 2 texts"):
            listed(replace(PAIRS[0], metadata={"others": others}), "chosen_first")


def test_what_a_prompt_shows_is_what_a_reader_is_shown() -> None:
    pair = PAIRS[0]
    for mode, template in TEMPLATES.items():
        for order, label, count, messages in asked_of(pair, mode, template):  # type: ignore[arg-type]
            first, rest = shown(pair, order, mode)  # type: ignore[arg-type]
            assert first in messages[-1]["content"]
            if mode == "pointwise":
                assert (first, rest, count) == (pair.chosen if label == "A" else pair.rejected, "", 1)
            else:
                assert rest.startswith("B: ")
                assert count == LIST
    assert shown(pair, "chosen_second", "pairwise") == (pair.rejected, pair.chosen)


def read(chain: str, mode: Any, count: int = 1) -> Any:
    assert well_formed(parse(chain, mode, count)), chain
    return read_verdict(chain, "strict", judged=mode, responses=count)


def test_the_teacher_rates_by_one_rubric_and_the_better_response_higher() -> None:
    for pair in PAIRS:
        chains = [mode_chain(pair, "pointwise", order, f"0/{pair.id}") for order in ORDERS]
        better, worse = (read(chain, "pointwise").rating for chain in chains)
        assert better > worse
        parts = [parse(chain, "pointwise") for chain in chains]
        assert parts[0].rubric == parts[1].rubric
        assert parts[0].solution == parts[1].solution
        if pair.domain == "Reasoning":
            assert (better, worse) == (8, 1)
        else:
            rubric = (parts[0].rubric or "").partition("<justify>")[0]
            order = [each.strip().rpartition(" ")[0] for each in rubric.removeprefix("list ").split(",")]
            met = [sum(w for w, each in zip(WEIGHTS, order, strict=True) if satisfies(text, each)) for text in
                   (pair.chosen, pair.rejected)]  # fmt: skip
            assert [better, worse] == [1 + value for value in met]


@pytest.mark.slow
def test_the_teacher_orders_by_its_rubric_and_the_better_response_first() -> None:
    for pair in PAIRS:
        for order in ORDERS:
            chain = mode_chain(pair, "listwise", order, f"0/{pair.id}")
            responses, label = listed(pair, order)
            ranking = read(chain, "listwise", len(responses)).ranking
            assert ranking[0] == label
            # What it notes of every response is true.
            if pair.domain == "Chat":
                notes = (parse(chain, "listwise", len(responses)).evaluation or "").removeprefix("check ").split(" , ")
                for note in notes:
                    criterion = next(each for each in pair.metadata["criteria"] if note.startswith(each))
                    said = note.removeprefix(criterion).split()
                    met = [letter for letter, text in zip("ABC", responses, strict=True) if satisfies(text, criterion)]
                    assert said == (met or ["none"])


def test_prompts_that_came_ready_made_stay_pairs() -> None:
    pair = PreferencePair("p", "s", "d", PAIRS[0].prompt, "x", "y", {"context_messages": [], "winner": "A"})
    assert assigned([pair], Modes(), 0) == {"p": "pairwise"}
    with pytest.raises(DataError, match=r"pair 'p': its prompt came ready made"):
        assigned([pair], MIX, 0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data.modes.pairwise=0",), "data.modes has no share above 0"),
        (("data.modes.pointwise=1", "data.orders=alternate"), r"data\.modes\.pointwise=1 .* set data.orders=both"),
        (("data.modes.listwise=-1",), "out of range"),
        (("data.modes.listwise=1", "data.wording=natural"), "set data.wording=terse"),
        (("data.modes.pointwise=1", "algorithm.reward.swap_consistency=1"), "swap_consistency knows pairs only"),
        (("data.modes.pointwise=1", "algorithm.reward.length=1"), "length knows pairs only"),
        (("data.modes.pointwize=1",), "did you mean 'data.modes.pointwise'"),
    ],
)
def test_mixes_that_cannot_work_are_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(["recipe=tiny", *overrides])
