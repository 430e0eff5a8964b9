"""Chains of the other modes: ratings that are kept two by two, and lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from configs import configured
from teacher_server import Reply, TeacherServer, sent_text

from actors.messages import Order
from actors.verifier.trace import read_verdict
from pipelines.chain_generation.betrayal import RATED_ALONE, BetrayalLint
from pipelines.chain_generation.collection import Collection, Round
from pipelines.chain_generation.hints import load_hint
from pipelines.chain_generation.questions import Question, Questions
from pipelines.chain_generation.selection import RATED_WRONG, examine, flawed_attempt
from pipelines.chains import command
from pipelines.config import ChainFilters
from pipelines.config.compose import load_config
from pipelines.data.family import family_items
from pipelines.data.modes import asked_of, assigned
from pipelines.data.prompts import load_template
from pipelines.data.schema import DataError, Message, PreferencePair, write_pairs
from pipelines.data.tiny_modes import mode_chain
from pipelines.endpoints.dispatch import Asked
from pipelines.endpoints.requests import Answer, build_request
from pipelines.endpoints.teachers import teachers_of
from pipelines.runs.folder import RunDirectory

PAIR = PreferencePair("p", "s", "Chat", (Message("user", "Name the capital."),), "Paris, on the Seine.", "Lyon.")
SHOWN = [{"role": "user", "content": "Name the capital.\nOne answer to rate."}]
ORDERS: tuple[Order, Order] = ("chosen_first", "chosen_second")
BETTER, WORSE = (
    Question(f"p/{order}", PAIR, order, label, SHOWN, SHOWN, "pointwise", 1)
    for order, label in zip(ORDERS, ("A", "B"), strict=True)
)
LINT = BetrayalLint(load_hint("revise", "pointwise"), 6, RATED_ALONE)


def rated(question: Question, rating: object, round: int = 0, sample: int = 0, said: str = "It is a fact.") -> Answer:
    text = (
        f"<type>Chat</type><rubric>- Accuracy: 100%<justify>A fact.</justify></rubric><eval>Accuracy: {said}</eval>"
        f"<answer>[[{rating}]]</answer>"
    )
    key = f"{question.uid}/{round}/{sample}"
    return Answer(key, question.uid, round, sample, text, "stop", "m", 10, 20, False, 0.0, 1.0, 1)


def collected(*answers: Answer) -> Collection:
    questions = Questions((BETTER, WORSE), 1, 0)
    collection = Collection(questions, lambda question, answer: examine(question, answer, ChainFilters(), LINT))
    for answer in answers:
        collection.add(answer)
    return collection


def kept(collection: Collection) -> list[tuple[str, int | None]]:
    return [(question.label, candidate.rating) for question, candidate in collection.chains()]


def test_ratings_are_kept_two_by_two_where_the_better_response_has_the_higher_one() -> None:
    collection = collected(rated(BETTER, 8))
    assert not collection.chains()
    collection.add(rated(WORSE, 3))
    assert kept(collection) == [("A", 8), ("B", 3)]
    assert not collection.open_questions()
    assert [collection.right(question, one) for question, one in collection.chains()] == [True, True]
    assert not collection.refused()


@pytest.mark.parametrize(("better", "worse"), [(4, 4), (2, 9)])
def test_ratings_against_the_label_are_refused_both_and_both_are_asked_again(better: int, worse: int) -> None:
    collection = collected(rated(BETTER, better), rated(WORSE, worse))
    assert not collection.chains()
    refused = collection.refused()
    assert [candidate.cause for _, candidate in refused] == [RATED_WRONG] * 2
    assert [candidate.detail for _, candidate in refused] == [
        f"{better}, the worse response {worse}",
        f"{worse}, the better response {better}",
    ]
    assert [collection.right(*item) for item in refused] == [False, False]
    assert collection.open_questions() == [BETTER, WORSE]
    # What goes against the label says more than what has no form.
    shapeless = rated(BETTER, "much")
    collection.add(shapeless)
    assert flawed_attempt(collection.examined(BETTER)) == rated(BETTER, better).text


def test_a_later_rating_goes_with_an_earlier_one() -> None:
    collection = collected(rated(BETTER, 5), rated(WORSE, 7))
    collection.add(rated(WORSE, 4, round=1))
    assert kept(collection) == [("A", 5), ("B", 4)]
    assert collection.right(*collection.chains()[1]) is None
    assert [(one.rating, one.cause) for one in collection.examined(WORSE)] == [(7, RATED_WRONG), (4, None)]
    assert collection.examined(WORSE)[0].detail == "7, the better response 5"


@pytest.mark.parametrize(
    ("ratings", "told"),
    [((5, 7), (7, 6)), ((1, 1), (2, 1)), ((10, 10), (10, 9)), ((4, None), (5, 4)), ((None, None), (6, 5))],
)
def test_a_hint_tells_the_side_of_the_middle(ratings: tuple[int | None, ...], told: tuple[int, int]) -> None:
    answers = [rated(side, value or "none") for side, value in zip((BETTER, WORSE), ratings, strict=True)]
    collection = collected(*answers)
    assert collection.told(BETTER) == f"a rating of at least {told[0]}"
    assert collection.told(WORSE) == f"a rating of at most {told[1]}"
    messages = load_hint("revise", "pointwise").messages(SHOWN, "an attempt", collection.told(BETTER))
    assert f"It deserves a rating of at least {told[0]}." in messages[-1]["content"]


def test_a_rating_waits_for_the_other_that_was_not_answered() -> None:
    collection = collected(rated(BETTER, 3))
    teacher = teachers_of(configured("chains.first.model=m"))[0]
    requests = [build_request(teacher.settings, SHOWN, item.uid, 0, 0, 0) for item in (BETTER, WORSE)]
    answered = {requests[0].key: rated(BETTER, 3)}
    collection.end_round(requests, Round(0, "first pass", teacher, 2, Asked(answers=answered)))
    assert collection.unanswered == {WORSE.uid}
    assert not collection.open_questions()


def test_who_rates_one_answer_speaks_of_no_other() -> None:
    revised = rated(BETTER, 8, round=1, said="It is better than the other answer.")
    assert examine(BETTER, revised, ChainFilters(), LINT).cause == "betrays the hint"
    assert examine(BETTER, rated(BETTER, 8, round=1), ChainFilters(), LINT).cause is None
    assert examine(BETTER, rated(BETTER, 11), ChainFilters(), LINT).cause == "no verdict"


def test_quotes_are_of_what_was_rated() -> None:
    quoting = rated(WORSE, 3, said="<quote_A>Lyon.</quote_A> is wrong.")
    candidate = examine(WORSE, quoting, ChainFilters(quotes_found=1.0), LINT)
    assert candidate.kept
    assert candidate.quality.quotes_found == 1.0


def test_a_hint_of_ones_own_needs_one_for_each_mode_unless_it_tells_nothing(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{request}\nIt is {verdict}.")
    with pytest.raises(DataError, match=r"no template for mode listwise: write own\.listwise\.txt beside .*own\.txt"):
        load_hint(str(own), "listwise")
    (tmp_path / "own.listwise.txt").write_text("{request}\nThe first is {verdict}.")
    assert load_hint(str(own), "listwise").user == "{request}\nThe first is {verdict}."
    assert not load_hint("retry", "pointwise").tells


@pytest.mark.slow
def test_a_set_in_three_modes_is_written_told_and_continued(tmp_path: Path) -> None:
    """A teacher that is wrong about each third pair until it is told, in every mode."""
    settings = ["data.modes.pointwise=1", "data.modes.listwise=1", "data.orders=both", f"output_root={tmp_path}"]
    config = configured(*settings[:3])
    pairs = family_items(1, {"distill": 30}, config.data)["distill"]
    mode_of = assigned(pairs, config.data.modes, config.seed)
    known: dict[str, tuple[int, Any, Any, str]] = {}
    for number, pair in enumerate(pairs):
        if (mode := mode_of[pair.id]) != "pairwise":
            for order, label, _, messages in asked_of(pair, mode, load_template("tiny", mode)):
                chain = mode_chain(pair, mode, order, pair.id)
                known[messages[-1]["content"]] = (number, mode, label, chain)
    hinted: list[str] = []

    def teach(body: dict[str, Any], seen: int) -> Reply:
        text = sent_text(body)
        request = next((prompt for prompt in known if text == prompt or text.startswith(prompt + "\n")), None)
        if request is None:  # Pairwise.
            return Reply("<type>Chat</type>")
        number, mode, label, chain = known[request]
        if text != request:
            hinted.append(text.removeprefix(request))
        elif number % 3 == 0 and mode == "pointwise":
            return Reply(chain.rpartition("<answer>")[0] + f"<answer>[[{1 if label == 'A' else 9}]]</answer>")
        elif number % 3 == 0:
            wrong = chain.rpartition("[[")[2].partition("]]")[0].split(" > ")[::-1]
            return Reply(chain.rpartition("<answer>")[0] + f"<answer>[[{' > '.join(wrong)}]]</answer>")
        return Reply(chain)

    run = RunDirectory(tmp_path, "r", "tiny")
    write_pairs(pairs, run.data / "distill.parquet")
    with TeacherServer(teach) as server:
        teacher = ["chains.first.model=teacher-x", f"chains.first.base_url={server.url}", "chains.hint_words=40"]
        arguments = ["run=r", *settings, *teacher]
        command(load_config(arguments))
        rows = pq.read_table(run.chains / "chains.parquet").to_pylist()
        asked = len(server.bodies)
        (run.chains / "chains.parquet").unlink()
        command(load_config(arguments))
        assert len(server.bodies) == asked
    assert pq.read_table(run.chains / "chains.parquet").to_pylist() == rows

    found: dict[str, dict[str, dict[str, str]]] = {"pointwise": {}, "listwise": {}}
    for row in rows:
        mode = json.loads(row["metadata"])["mode"]
        found[mode].setdefault(row["pair_id"], {})[row["order"]] = row["chain"]
        assert row["messages"][-1]["content"] in known
    for mode, of_pairs in found.items():
        assert set(of_pairs) == {pair.id for pair in pairs if mode_of[pair.id] == mode}
        assert all(set(both) == set(ORDERS) for both in of_pairs.values())
    for both in found["pointwise"].values():
        ratings = [read_verdict(both[order], "strict", judged="pointwise").rating or 0 for order in ORDERS]
        assert ratings[0] > ratings[1]
    wrong = [pair for number, pair in enumerate(pairs) if number % 3 == 0]
    in_mode = {mode: sum(mode_of[pair.id] == mode for pair in wrong) for mode in found}
    assert min(in_mode.values()) > 0
    refused = pq.read_table(run.chains / "refused.parquet").to_pylist()
    causes = [row["cause"] for row in refused]
    assert causes.count(RATED_WRONG) == 2 * in_mode["pointwise"]
    assert causes.count("wrong verdict") == 2 * in_mode["listwise"]
    assert sum("It deserves a rating of at least 6" in text for text in hinted) == in_mode["pointwise"]
    assert sum("It deserves a rating of at most 5" in text for text in hinted) == in_mode["pointwise"]
    assert sum("gave the strongest of the answers" in text for text in hinted) == 2 * in_mode["listwise"]
    card = (run.chains / "card.md").read_text()
    right = 1 - in_mode["pointwise"] / sum(mode == "pointwise" for mode in mode_of.values())
    assert f"| pointwise | {2 * sum(mode == 'pointwise' for mode in mode_of.values())} | {right:.1%} | 100.0% |" in card
