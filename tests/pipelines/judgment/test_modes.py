"""Ratings and lists with scripted engines: votes, rotations, failures, hostile responses, judges of other modes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from hostile import HOSTILE
from scripted_engines import RULE, ScriptedEngines, judge_of

from pipelines.data.prompts import PromptTemplate, load_template, render_list, render_rating, template_file
from pipelines.data.schema import DataError, Message
from pipelines.judgment.journal import JudgingJournal, JudgmentsFailed
from pipelines.judgment.judging import EngineJudge, in_order
from pipelines.judgment.listing import LISTWISE, Listing, contests_of, ranking_of
from pipelines.judgment.modes import ModeUnsupported, mode_templates, modes_of
from pipelines.judgment.ranking import Group, Ranking
from pipelines.judgment.rating import POINTWISE, RatingDecision, ToRate, to_rate

QWEN = FAMILIES["qwen2_5"]()
Script = Callable[[str, int], str | None]


def judge(script: Script, votes: int = 1, **settings: Any) -> EngineJudge:
    rule = replace(RULE, votes=votes, temperature=1.0 if votes > 1 else 0.0, max_prompt_tokens=10**7)
    return replace(judge_of(ScriptedEngines(QWEN, script), rule), templates=mode_templates("tiny"), **settings)


def rated(judge: EngineJudge, asked: list[ToRate]) -> list[RatingDecision]:
    return asyncio.run(in_order(judge.answers(POINTWISE, asked)))


def ranked(judge: EngineJudge, *responses: str) -> Ranking:
    async def run() -> Ranking:
        (contest,) = contests_of([Group("g", "q", responses)])
        (listing,) = await in_order(judge.answers(LISTWISE, [contest]))
        assert Listing.of_json(listing.as_json()) == listing
        return ranking_of(contest, listing)

    return asyncio.run(run())


def shown(text: str) -> dict[str, str]:
    """The responses of a tiny list prompt, by letter."""
    lines = text.split("q\n")[1].split("\norder")[0].split("\n")
    return {line[0]: line[2:-2] for line in lines}


def by_length(text: str, vote: int) -> str:
    """Longer responses first."""
    found = shown(text)
    return f"<answer>[[{' > '.join(sorted(found, key=lambda letter: -len(found[letter])))}]]</answer>"


def as_shown(text: str, vote: int) -> str:
    """A judge of positions: A is the best."""
    return f"<answer>[[{' > '.join(shown(text))}]]</answer>"


def test_a_rating_is_the_mean_of_its_votes() -> None:
    decision = rated(judge(lambda text, vote: f"<answer>[[{(4, 9, 8)[vote]}]]</answer>", votes=3), [to_rate("q", "x")])[
        0
    ]
    assert decision.rating == 7.0
    assert decision.score == pytest.approx(6 / 9)
    assert [vote.rating for vote in decision.votes] == [4, 9, 8]
    assert decision.rationale is not None
    assert decision.rationale.text == "<answer>[[8]]</answer>"
    assert RatingDecision.of_json(decision.as_json()) == decision


def test_what_is_not_read_moves_no_rating_and_is_counted() -> None:
    script = {0: "<answer>[[4]]</answer>", 1: "<answer>[[B]]</answer>", 2: None, 3: ""}
    decision = rated(judge(lambda text, vote: script[vote], votes=4), [to_rate("q", "x")])[0]
    assert (decision.rating, decision.failures) == (4.0, {"none_found": 1, "engine_error": 1, "empty": 1})
    nothing = rated(judge(lambda text, vote: "no rating"), [to_rate("q", "x")])[0]
    assert (nothing.rating, nothing.score, nothing.rationale, nothing.failures) == (None, None, None, {"none_found": 1})


def test_equal_responses_are_asked_once_and_a_long_one_is_not_asked() -> None:
    asking = judge(lambda text, vote: "<answer>[[5]]</answer>")
    short = replace(asking, rule=replace(asking.rule, max_prompt_tokens=40))
    decisions = rated(short, [to_rate("q", "x"), to_rate("q", "y " * 60), to_rate("q", "x")])
    assert [decision.rating for decision in decisions] == [5.0, None, 5.0]
    assert decisions[1].failures == {"prompt_too_long": 1}
    assert len(asking.engines.asked) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("question", "response", "said"), [("q", " ", "empty"), ("q", 3, "must be text"), ([], "x", "list of")]
)
def test_what_cannot_be_rated_is_refused(question: Any, response: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        to_rate(question, response, place="request")


def test_every_response_stands_once_in_every_position() -> None:
    asked: list[dict[str, str]] = []

    def script(text: str, vote: int) -> str:
        asked.append(shown(text))
        return by_length(text, vote)

    ranking = ranked(judge(script), "xx", "xxxx", "x", "xxx")
    assert ranking.ranking == (1, 3, 0, 2)
    assert ranking.calls == 4
    for position in "ABCD":
        assert {each[position] for each in asked} == {"x", "xx", "xxx", "xxxx"}
    assert ranking.wins[1] == (1.0, None, 1.0, 1.0)
    assert ranking.scores[1] > ranking.scores[3] > ranking.scores[0] > ranking.scores[2]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_judge_of_positions_puts_nobody_first(count: int) -> None:
    ranking = ranked(judge(as_shown), *("abcd"[:count]))
    assert ranking.scores == pytest.approx([0.0] * count, abs=1e-6)
    assert ranking.ranking == tuple(range(count))


def test_equal_responses_are_one_and_failures_move_nothing() -> None:
    ranking = ranked(
        judge(lambda text, vote: None if shown(text)["A"] == "x" else by_length(text, vote)), "x", "xx", "x "
    )
    assert ranking.ranking == (1, 0, 2)
    assert ranking.failures == {"engine_error": 1}
    assert ranking.scores[0] == ranking.scores[2]
    alone = ranked(judge(by_length), "x", "x ")
    assert (alone.calls, alone.ranking) == (0, (0, 1))


def test_more_than_four_are_refused() -> None:
    with pytest.raises(DataError, match="g: 5 responses, and listwise shows at most 4 together: use another method"):
        contests_of([Group("g", "q", tuple("abcde"))])


@pytest.mark.slow
@pytest.mark.parametrize("written", ["", "I cannot say.", "<eval>fine</eval>", "<answer>[[Z]]</answer>"])
def test_no_rating_and_no_order_stems_from_a_response(written: str) -> None:
    """A judge that says nothing: whatever the responses say, nothing is rated or ordered."""
    silent = judge(lambda text, vote: written)
    assert {decision.rating for decision in rated(silent, [to_rate("q", text) for text in HOSTILE])} == {None}

    async def run() -> list[Listing]:
        groups = [Group(str(at), "q", (text, "good")) for at, text in enumerate(HOSTILE)]
        return await in_order(silent.answers(LISTWISE, contests_of(groups)))

    found = asyncio.run(run())
    assert len(found) == len(HOSTILE) >= 500
    assert {vote.ranking for listing in found for vote in listing.votes} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_response_brings_no_control_token_into_the_prompts_of_the_other_modes(family: str) -> None:
    from pipelines.data.prompts import encode_all

    tokenizer = FAMILIES[family]()
    added = {token for name, token in tokenizer.get_added_vocab().items() if name.strip(" \n▁")}
    question, templates = (Message("user", "q"),), mode_templates("tiny")
    rate, order = templates["pointwise"], templates["listwise"]
    for ask in (
        lambda text: render_rating(question, text, rate),
        lambda text: render_list(question, ["good", text, "fine"], order),
    ):
        prompts = encode_all((ask(text) for text in ("fine", *HOSTILE)), tokenizer)
        found = [[token for token in ids if token in added] for ids in prompts]
        assert all(controls == found[0] for controls in found)


def test_a_judge_of_other_modes_says_so() -> None:
    asked = [to_rate("q", "x")]
    with pytest.raises(ModeUnsupported, match=r"model was not trained for mode pointwise, only for pairwise, listwise"):
        rated(judge(by_length, modes=("pairwise", "listwise")), asked)
    with pytest.raises(ModeUnsupported, match="not trained for mode listwise"):
        ranked(judge(by_length, modes=("pairwise",)), "x", "y")
    with pytest.raises(DataError, match="has none for mode pointwise"):
        rated(replace(judge(by_length), templates={}), asked)


def test_the_modes_of_a_run_are_those_it_was_trained_for(tmp_path: Path) -> None:
    model = tmp_path / "rl" / "hf"
    model.mkdir(parents=True)
    assert modes_of(str(model)) is None
    config = tmp_path / "config.yaml"
    config.write_text("data: {orders: both}\n")
    assert modes_of(str(model)) == ("pairwise",)
    config.write_text("data: {modes: {pairwise: 0.5, pointwise: 0.5, listwise: 0.0}}\n")
    assert modes_of(str(model)) == ("pairwise", "pointwise")
    assert modes_of("org/name") is None


def test_a_journal_keeps_ratings_and_asks_for_failures_again(tmp_path: Path) -> None:
    asked = [to_rate("q", "x", place="x"), to_rate("q", "broken", place="b")]
    failing = judge(lambda text, vote: None if "broken" in text else "<answer>[[5]]</answer>")
    working = judge(lambda text, vote: "<answer>[[7]]</answer>")

    async def run(judge: EngineJudge) -> dict[int, float | None]:
        found = {}
        with JudgingJournal(tmp_path / "journal.jsonl", RatingDecision) as journal:
            async for index, decision in journal.answers(judge, POINTWISE, asked):
                found[index] = decision.rating
        return found

    with pytest.raises(JudgmentsFailed, match="1 of 2 judgments failed; first: b: engine_error"):
        asyncio.run(run(failing))
    assert asyncio.run(run(working)) == {0: 5.0, 1: 7.0}


@pytest.mark.parametrize("name", ["tiny", "chain_of_rubrics", "instruct_short", "reasoning"])
def test_every_template_of_ours_has_the_other_modes(name: str) -> None:
    question = (Message("system", "s"), Message("user", "u{x}"))
    rating = render_rating(question, "r{y}", load_template(name, "pointwise"))[-1]["content"]
    assert "u{x}" in rating
    assert "r{y}" in rating
    order = render_list(question, ["r1", "{r2}", "r3"], load_template(name, "listwise"))[-1]["content"]
    assert order.index("r1") < order.index("{r2}") < order.index("r3")
    assert "D" not in order.split("r3")[1]


def test_a_rubric_needs_a_place_in_the_template() -> None:
    question = (Message("user", "q"),)
    text = render_rating(question, "x", load_template("reasoning", "pointwise"), "be {brief}")[-1]["content"]
    assert "be {brief}" in text
    with pytest.raises(DataError, match="no part `rubric`"):
        render_rating(question, "x", load_template("tiny", "pointwise"), "be brief")


@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [
        ("pointwise", "user: '{conversation}'", r"`user`: must name exactly \['conversation', 'response'\]"),
        ("pointwise", "user: '{conversation} {response}'\nresponse: '{letter}'", "no other part"),
        ("listwise", "user: '{conversation} {responses}'", "needs `user` and `response`"),
        ("listwise", "user: '{conversation} {responses}'\nresponse: '{letter}'", "`response`: must name exactly"),
    ],
)
def test_bad_templates_of_the_other_modes(tmp_path: Path, mode: Any, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text("user: '{conversation} {response_a} {response_b}'")
    file = template_file(str(tmp_path / "mine.yaml"), mode)
    with pytest.raises(DataError, match=f"no template for mode {mode}: write {file.name} beside"):
        load_template(str(tmp_path / "mine.yaml"), mode)
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        load_template(str(tmp_path / "mine.yaml"), mode)
    assert isinstance(load_template(str(tmp_path / "mine.yaml")), PromptTemplate)
