"""The built-in family: answers worked out again from the questions, the house rule, and what the teacher gets right."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import permutations

import pytest

from actors.messages import Side
from actors.verifier.trace import parse, read_verdict, well_formed
from pipelines.data.schema import DataError, PreferencePair, content_key, prompt_key
from pipelines.data.tiny_tasks import (
    NUMBERS,
    PRIORITY,
    chat_item,
    generate_items,
    kind_of,
    read_solution,
    reasoning_item,
    satisfies,
    score,
    teacher_chain,
    true_first,
)

COUNTS = {"distill": 1500, "rl": 1500, "heldout": 600}
SIDES: tuple[Side, Side] = ("A", "B")


@pytest.fixture(scope="module")
def items() -> dict[str, list[PreferencePair]]:
    return generate_items(3, COUNTS)


@pytest.fixture(scope="module")
def chat(items: dict[str, list[PreferencePair]]) -> list[PreferencePair]:
    return [pair for pairs in items.values() for pair in pairs if pair.domain == "Chat"]


@pytest.fixture(scope="module")
def reasoning(items: dict[str, list[PreferencePair]]) -> list[PreferencePair]:
    return [pair for pairs in items.values() for pair in pairs if pair.domain == "Reasoning"]


def question(pair: PreferencePair) -> str:
    (message,) = pair.prompt
    return message.content


def key(pair: PreferencePair) -> str:
    return prompt_key(pair) if pair.domain == "Reasoning" else content_key(pair)


@pytest.mark.slow
def test_items_are_a_function_of_seed_and_sizes(items: dict[str, list[PreferencePair]]) -> None:
    assert generate_items(3, COUNTS) == items
    assert generate_items(4, {"rl": 5})["rl"] != generate_items(3, {"rl": 5})["rl"]
    assert {name: len(pairs) for name, pairs in items.items()} == COUNTS
    ids = [pair.id for pairs in items.values() for pair in pairs]
    assert len(set(ids)) == len(ids)


def test_a_set_has_its_own_stream() -> None:
    few, many = generate_items(0, {"rl": 20, "heldout": 20}), generate_items(0, {"rl": 60, "heldout": 20})
    assert few["rl"] == many["rl"][:20]
    assert few["heldout"] == many["heldout"]


def test_no_item_is_in_two_sets_or_twice_in_one(items: dict[str, list[PreferencePair]]) -> None:
    keys = {name: [key(pair) for pair in pairs] for name, pairs in items.items()}
    for name, own in keys.items():
        assert len(set(own)) == len(own), name
    training = set(keys["distill"]) | set(keys["rl"])
    assert not set(keys["distill"]) & set(keys["rl"])
    assert not training & set(keys["heldout"])
    # By content too, for every pair: a Reasoning question is never asked again with other wrong answers.
    asked = {question(pair) for name in ("distill", "rl") for pair in items[name] if pair.domain == "Reasoning"}
    assert not asked & {question(pair) for pair in items["heldout"]}


def test_a_family_that_runs_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    only = reasoning_item(random.Random(0), "only")
    monkeypatch.setattr("pipelines.data.tiny_tasks.reasoning_item", lambda rng, identifier: only)
    with pytest.raises(DataError, match=r"no further Reasoning item for rl-\d+: ask for fewer pairs .*data\.rl_pairs"):
        generate_items(0, {"rl": 100})


def test_shares_of_domains_and_kinds(items: dict[str, list[PreferencePair]], reasoning: list[PreferencePair]) -> None:
    for name, pairs in items.items():
        share = sum(pair.domain == "Reasoning" for pair in pairs) / len(pairs)
        assert share == pytest.approx(0.4, abs=0.06 if name == "heldout" else 0.03), name
    kinds = Counter(pair.metadata["kind"] for pair in reasoning)
    assert set(kinds) == {"sort", "reverse", "count"}
    for kind, count in kinds.items():
        assert count / len(reasoning) == pytest.approx(1 / 3, abs=0.04), kind


@pytest.mark.slow
def test_repeats_do_not_thin_out_reasoning() -> None:
    """Of 14,000 items many Reasoning questions come up again; their share of the last set is still 40%."""
    pairs = generate_items(0, {"training": 13000, "heldout": 1000})["heldout"]
    assert sum(pair.domain == "Reasoning" for pair in pairs) / 1000 == pytest.approx(0.4, abs=0.045)


def solve(text: str) -> tuple[str, str]:
    """Work and answer of a question, worked out from its words alone."""
    if match := re.fullmatch(r"count ([a-h]) in ((?:[a-h] ){3,4}[a-h])", text):
        seen: Counter[str] = Counter()
        work = []
        for letter in match[2].split():
            seen[letter] += 1
            work += [letter, NUMBERS[seen[letter]]]
        return " ".join(work), NUMBERS[seen[match[1]]]
    match = re.fullmatch(r"(sort|reverse) ((?:[a-z]+ ){3,4}), after ([a-z]+)", text)
    assert match, text
    values = [NUMBERS.index(word) for word in match[2].split()]
    assert len(set(values)) == len(values)
    values = sorted(values) if match[1] == "sort" else list(reversed(values))
    answer = values[values.index(NUMBERS.index(match[3])) + 1]
    return " ".join(NUMBERS[value] for value in values), NUMBERS[answer]


def test_answers_are_what_the_questions_ask(reasoning: list[PreferencePair]) -> None:
    for pair in reasoning:
        work, answer = solve(question(pair))
        assert (pair.metadata["work"], pair.metadata["answer"]) == (work, answer)
        assert pair.chosen == answer != pair.rejected
        if pair.metadata["kind"] == "count":
            off = NUMBERS.index(pair.rejected) - NUMBERS.index(answer)
            assert 1 <= abs(off) <= 2
        else:
            listed, _, target = question(pair).partition(" , after ")
            assert pair.rejected in listed.split()[1:]
            assert pair.rejected != target


@pytest.mark.parametrize(
    ("text", "work", "answer"),
    [
        ("sort nine two five , after two", "two five nine", "five"),
        ("reverse nine two five , after five", "five two nine", "two"),
        ("count c in c f c a", "c one f one c two a one", "two"),
        ("count b in c f c a", "c one f one c two a one", "zero"),
    ],
)
def test_solver_of_this_test_by_hand(text: str, work: str, answer: str) -> None:
    assert solve(text) == (work, answer)


@pytest.mark.parametrize(
    ("response", "criterion", "met"),
    [
        ("cat sun tree", "mention sun", True),
        ("cat sun tree", "mention dog", False),
        ("sunny cat", "mention sun", False),
        ("cat sun tree", "start cat", True),
        ("cat sun tree", "start sun", False),
        ("cat sun tree", "end tree", True),
        ("cat sun tree", "end cat", False),
        ("cat thanks", "polite", True),
        ("please cat", "polite", True),
        ("cat sun", "polite", False),
        ("cat", "start cat", True),
        ("cat", "end cat", True),
    ],
)
def test_criteria_by_hand(response: str, criterion: str, met: bool) -> None:
    assert satisfies(response, criterion) is met
    assert kind_of(criterion) == criterion.split()[0]


def test_score_by_hand() -> None:
    assert score("cat thanks sun", ["start cat", "polite", "end dog"]) == 4 + 2
    assert score("cat thanks sun", ["end dog", "start cat", "polite"]) == 2 + 1
    assert score("rain", ["end dog", "start cat", "polite"]) == 0
    assert score("cat please dog", ["end dog", "start cat", "polite"]) == 7


def test_the_house_rule_decides_every_chat_item(chat: list[PreferencePair]) -> None:
    for pair in chat:
        match = re.fullmatch(r"write (mail|poem|note) : (.+)", question(pair))
        assert match
        listed = match[2].split(" , ")
        kinds = [criterion.split()[0] for criterion in listed]
        words = [criterion.split()[1] for criterion in listed if " " in criterion]
        assert len(set(kinds)) == 3
        assert len(set(words)) == len(words)
        by_rule = [criterion for kind in PRIORITY[match[1]] for criterion in listed if criterion.split()[0] == kind]
        assert pair.metadata["true_order"] == by_rule
        assert pair.metadata["criteria"] == listed
        assert score(pair.chosen, by_rule) > score(pair.rejected, by_rule)


def test_house_rule_by_topic() -> None:
    assert PRIORITY == {
        "mail": ("polite", "end", "mention", "start"),
        "poem": ("end", "start", "mention", "polite"),
        "note": ("mention", "polite", "start", "end"),
    }


def test_share_of_items_that_mislead_a_judge_by_listed_order(chat: list[PreferencePair]) -> None:
    misled = [
        score(pair.chosen, pair.metadata["criteria"]) < score(pair.rejected, pair.metadata["criteria"]) for pair in chat
    ]
    # 45% are drawn to mislead, and about a fifth of the others do so by chance.
    assert sum(misled) / len(misled) == pytest.approx(0.57, abs=0.03)


def test_teacher_ends_right_on_both_sides(items: dict[str, list[PreferencePair]]) -> None:
    for pair in items["distill"][:400]:
        for label in SIDES:
            chain = teacher_chain(pair, label, f"0/{pair.id}/{label}")
            judgment = parse(chain)
            assert well_formed(judgment), judgment.problems
            assert judgment.task_type == pair.domain
            assert read_verdict(chain, "strict").side == read_verdict(chain).side == label
            assert read_solution(chain, pair) is (True if pair.domain == "Reasoning" else None)
            assert chain == teacher_chain(pair, label, f"0/{pair.id}/{label}")


def test_teachers_checks_follow_from_the_responses(chat: list[PreferencePair]) -> None:
    for pair in chat[:300]:
        for label in SIDES:
            shown = {label: pair.chosen, "BA"[SIDES.index(label)]: pair.rejected}
            judgment = parse(teacher_chain(pair, label, f"s/{pair.id}"))
            assert judgment.evaluation is not None
            assert judgment.rubric is not None
            weights, totals = [], Counter({"A": 0, "B": 0})
            checks = judgment.evaluation.removeprefix("check ").split(" , ")
            rubric = judgment.rubric.partition("<justify>")[0].removeprefix("list ").split(" , ")
            for listed, check in zip(rubric, checks, strict=True):
                criterion, _, weight = listed.rpartition(" ")
                checked, _, who = check.rpartition(" ")
                assert checked == criterion
                met = {side for side, response in shown.items() if satisfies(response, criterion)}
                assert met == {"both": {"A", "B"}, "none": set(), "A": {"A"}, "B": {"B"}}[who]
                weights.append(NUMBERS.index(weight))
                for side in met:
                    totals[side] += weights[-1]
            assert weights == [4, 2, 1]
            assert max(totals, key=lambda side: totals[side]) == label
            assert judgment.justify == f"so {pair.metadata['topic']} first {kind_of(rubric[0])}"


def test_teacher_knows_the_house_rule_by_chance_only(items: dict[str, list[PreferencePair]]) -> None:
    orders, firsts = [], []
    for pair in items["distill"]:
        if pair.domain != "Chat":
            continue
        for label in SIDES:
            chain = teacher_chain(pair, label, f"0/{pair.id}/{label}")
            rubric = chain.partition("<rubric>list ")[2].partition("<justify>")[0].split(" , ")
            orders.append([listed.rpartition(" ")[0] for listed in rubric] == pair.metadata["true_order"])
            firsts.append(true_first(chain, pair))
    assert sum(orders) / len(orders) == pytest.approx(0.29, abs=0.03)
    assert sum(bool(first) for first in firsts) / len(firsts) == pytest.approx(0.50, abs=0.03)


@pytest.mark.slow
def test_teacher_keeps_the_listed_order_where_it_is_right_and_else_swaps_as_few_as_it_can(
    chat: list[PreferencePair],
) -> None:
    kept = 0
    for pair in chat:
        listed = pair.metadata["criteria"]
        rubric = parse(teacher_chain(pair, "A", pair.id)).rubric.partition("<justify>")[0]
        ordered = [part.rpartition(" ")[0] for part in rubric.removeprefix("list ").split(" , ")]
        right = [
            list(order) for order in permutations(listed) if score(pair.chosen, order) > score(pair.rejected, order)
        ]
        kept += ordered == listed
        assert ordered in right
        assert (ordered == listed) == (listed in right)
        # One swap of neighbours is the least change there is: where one suffices, no more are made.
        neighbours = [[listed[1], listed[0], listed[2]], [listed[0], listed[2], listed[1]]]
        if listed not in right and any(order in right for order in neighbours):
            assert ordered in neighbours
    assert 0.3 < kept / len(chat) < 0.55


def test_teacher_draws_the_rubric_of_each_order_anew(chat: list[PreferencePair]) -> None:
    rubrics = [{parse(teacher_chain(pair, "A", f"{seed}")).rubric for seed in range(8)} for pair in chat[:50]]
    assert any(len(drawn) > 1 for drawn in rubrics)


@pytest.fixture(scope="module")
def sort_item() -> PreferencePair:
    return reasoning_item(random.Random(5), "x", "sort")


def test_read_solution_wants_work_and_answer(sort_item: PreferencePair) -> None:
    work, answer = sort_item.metadata["work"], sort_item.metadata["answer"]
    other = sort_item.rejected
    assert read_solution(f"<solution>so {work} : {answer}</solution>", sort_item) is True
    assert read_solution(f"<solution>so {work} : {other}</solution>", sort_item) is False
    assert read_solution(f"<solution>so {work} {work} : {answer}</solution>", sort_item) is False
    assert read_solution(f"<solution>so {other} : {answer}</solution>", sort_item) is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<solution>",
        "<solution>so </solution>",
        "<solution>so : </solution>",
        "<SOLUTION>so zero : zero</SOLUTION>",
        "<solution>so \x00\n : \ud800</solution>",
        "<solution>so " * 200,
        "(.*" * 50,
    ],
)
def test_hostile_text_is_no_solution_and_no_rubric(text: str, sort_item: PreferencePair) -> None:
    assert read_solution(text, sort_item) is False
    assert true_first(text.replace("solution>so", "rubric>list"), chat_item(random.Random(1), "c")) is False


def test_only_the_first_solution_counts(sort_item: PreferencePair) -> None:
    right = f"<solution>so {sort_item.metadata['work']} : {sort_item.metadata['answer']}</solution>"
    assert read_solution(f"<solution>so zero : zero</solution>{right}", sort_item) is False


def test_true_first_reads_the_heaviest_criterion() -> None:
    pair = chat_item(random.Random(2), "c")
    first, second, third = pair.metadata["true_order"]
    assert true_first(f"<rubric>list {first} four , {third} two , {second} one", pair) is True
    assert true_first(f"<rubric>list {second} four , {first} two , {third} one", pair) is False
    assert true_first(f"<rubric>list {first} , {second} four , {third} two", pair) is False
    assert true_first(f"{first} four ,", pair) is False


def test_checks_apply_to_their_own_domain_only(sort_item: PreferencePair) -> None:
    assert read_solution("anything", chat_item(random.Random(0), "c")) is None
    assert true_first("anything", sort_item) is None
