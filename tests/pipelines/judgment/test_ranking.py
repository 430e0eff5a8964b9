"""Rankings of many groups at once with scripted engines, and groups from files."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from families import qwen2_5
from scripted_engines import ScriptedEngines, judge_of, longer

from pipelines.data.schema import DataError
from pipelines.judgment.decision import PAIRWISE
from pipelines.judgment.groups import read_groups
from pipelines.judgment.ranking import Group, Ranking, rank_groups
from pipelines.judgment.tournaments import METHODS, Method

QWEN = qwen2_5()


def ranked(engines: ScriptedEngines, groups: list[Group], method: Method) -> list[Ranking]:
    return asyncio.run(rank_groups(partial(judge_of(engines).answers, PAIRWISE), groups, method))


def lengths(*sizes: int) -> tuple[str, ...]:
    return tuple("x" * size for size in sizes)


@pytest.mark.parametrize("method", METHODS)
def test_the_longest_is_first_in_every_group(method: Method) -> None:
    engines = ScriptedEngines(QWEN, longer)
    groups = [Group("one", "q", lengths(3, 9, 1, 5)), Group("two", "p", lengths(2, 1, 4))]
    first, second = ranked(engines, groups, method)
    assert (first.ranking[0], second.ranking[0]) == (1, 2)
    assert first.calls == {"all_pairs": 6, "circular": 6, "knockout": 3, "swiss": first.calls}[method]
    if method == "all_pairs":
        assert first.ranking == (1, 3, 0, 2)
        assert sorted(first.scores) == [first.scores[i] for i in (2, 0, 3, 1)]
        assert first.wins[1] == (1.0, None, 1.0, 1.0)
        # Both groups' comparisons went to the engines together.
        assert engines.calls == 1


def test_equal_responses_share_a_place_and_are_not_compared() -> None:
    engines = ScriptedEngines(QWEN, longer)
    (found,) = ranked(engines, [Group("g", "q", ("xx", "x", "xx "))], "all_pairs")
    assert (found.calls, found.ranking) == (1, (0, 2, 1))
    assert found.scores[0] == found.scores[2] > found.scores[1]
    (same,) = ranked(engines, [Group("g", "q", ("x", "x"))], "swiss")
    assert (same.calls, same.ranking, same.scores, same.model) == (0, (0, 1), (0.0, 0.0), None)


def test_a_judge_that_says_nothing_ranks_nothing_and_says_why() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: "hm")
    (found,) = ranked(engines, [Group("g", "q", lengths(1, 2, 3))], "all_pairs")
    assert found.scores == (0.0, 0.0, 0.0)
    assert found.failures == {"none_found": 6}
    assert found.wins[0] == (None, None, None)


@pytest.mark.parametrize(
    ("responses", "said"),
    [((), "0 responses"), (("x",), "1 responses"), (("x", ""), "empty"), (("x", 3), "must be text")],
)
def test_groups_that_cannot_be_ranked(responses: tuple[Any, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        ranked(ScriptedEngines(QWEN, longer), [Group("g", "q", responses)], "knockout")


def file_of(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_row_with_all_responses_or_a_row_each(tmp_path: Path) -> None:
    user = [{"role": "user", "content": "q"}]
    whole = file_of(tmp_path / "whole.jsonl", [{"id": "x", "prompt": "q", "responses": ["a", "b"]}])
    rows = [{"prompt": user, "response": "a"}, {"question": "p", "output": "c"}]
    rows += [{"prompt": "q", "completion": "b"}, {"question": "p", "answer": "d"}]
    each = file_of(tmp_path / "each.jsonl", rows)
    assert read_groups(whole)[0] == [Group("x", user, ("a", "b"))]
    groups, _ = read_groups(each)
    assert [(group.id, group.responses) for group in groups] == [("row-1", ("a", "b")), ("row-2", ("c", "d"))]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "q", "responses": ["a"]}], "the group '1' has 1 responses, and at least 2 are needed"),
        ([{"prompt": "q", "responses": "ab"}], "must be a list"),
        ([{"prompt": "q", "responses": ["a", ""]}], "is empty"),
        ([{"prompt": "q", "responses": ["a", 3]}], "no text"),
        ([{"prompt": "q"}], "needs one column"),
        ([{"responses": ["a", "b"], "kind": "x"}], r"no question in prompt, .*the row has: kind"),
        ([{"id": 1, "prompt": "q", "responses": ["a", "b"]}] * 2, "there twice"),
        ([{"prompt": "q", "responses": ["a", "b"], "context": "read this"}], "could be part of the question"),
        (
            [{"prompt": q, "response": r, "prompt_id": 1} for q in "qp" for r in "ab"],
            "have the same prompt_id '1'",
        ),
        ([["a"]], "must be an object"),
        ([], "holds no responses"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_groups(file_of(tmp_path / "rows.jsonl", rows))


def test_columns_of_the_question_that_are_to_be_ignored(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "responses": ["a", "b"], "context": "read this"}]
    groups, _ = read_groups(file_of(tmp_path / "rows.jsonl", rows), ignore=["context"])
    assert groups[0].responses == ("a", "b")
