"""Every benchmark from files in its published form, down to the last style, loser and order of responses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmarks.benchmark import Score, find, names, score
from pipelines.data.schema import DataError


def write(path: Path, rows: list[Any]) -> str:
    """A file of JSON lines, or a JSON list where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answer(text: str) -> dict[str, str]:
    """An answer as RMB writes it."""
    return {"llm_name": "some-model", "answer": text}


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation as RMB writes it."""
    roles = ["user", "assistant"]
    return [{"role": roles[index % 2], "content": text, "language": "English"} for index, text in enumerate(texts)]


def test_each_benchmark_is_one_module() -> None:
    assert names() == [
        *("builtin", "judgebench", "pairs", "ppe_correctness", "ppe_preference"),
        *("reward_bench", "reward_bench_2", "rm_bench", "rmb"),
    ]
    assert [find(name).name for name in names()] == names()
    with pytest.raises(DataError, match="there is no benchmark 'rewardbench': choose builtin, judgebench"):
        find("rewardbench")


def test_rm_bench_makes_nine_comparisons_and_ignores_count_tables(tmp_path: Path) -> None:
    row = {"id": 7, "prompt": "p", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"], "subset": "x"}
    write(tmp_path / "safety-refuse.jsonl", [row])
    write(tmp_path / "chat.jsonl", [row])
    write(tmp_path / "domain_counts.json", [{"chat": {"items": 129}}])
    loaded = find("rm_bench").load(str(tmp_path))
    assert len(loaded) == 18
    assert {(item.subset, item.category, item.item) for item in loaded} == {
        ("chat", "chat", "chat/7"),
        ("safety", "safety-refuse", "safety-refuse/7"),
    }
    cells = {
        (item.chosen_style, item.rejected_style): (item.pair.chosen, item.pair.rejected)
        for item in loaded
        if item.subset == "chat"
    }
    assert cells == {(i, j): (f"c{i}", f"r{j}") for i in range(3) for j in range(3)}
    assert len({item.pair.id for item in loaded}) == 18


def test_rm_bench_combined_file(tmp_path: Path) -> None:
    row = {"id": "safety-response/3", "domain": "safety-response", "prompt": "p", "chosen": ["a"] * 3}
    loaded = find("rm_bench").load(write(tmp_path / "total.json", [row | {"rejected": ["b"] * 3}]))
    assert {(item.subset, item.item) for item in loaded} == {("safety", "safety-response/3")}


def test_rmb_pairs_and_groups(tmp_path: Path) -> None:
    pair = {"pair_uid": "5", "category_path": "Pairwise_set/Helpfulness/Chat/Discussion"}
    pair |= {"conversation_input": turns("one", "two", "three"), "chosen": answer("good"), "reject": answer("bad")}
    group = {"bon_uid": "9", "category_path": "BoN_set/Harmlessness/S1", "conversation_input": turns("ask")}
    group |= {"bon_best": answer("best"), "loser_list": [answer("first"), answer("second")]}
    write(tmp_path / "Pairwise_set" / "discussion.json", [pair])
    write(tmp_path / "BoN_set" / "s1.jsonl", [group, group])
    write(tmp_path / "scores.jsonl", [{"pair_uid": "5", "category_path": pair["category_path"], "chosen_reward": 0.1}])
    loaded = find("rmb").load(str(tmp_path))
    assert [(item.subset, item.group, item.pair.rejected) for item in loaded] == [
        ("BoN_set/Harmlessness/S1", "0", "first"),
        ("BoN_set/Harmlessness/S1", "0", "second"),
        ("BoN_set/Harmlessness/S1", "1", "first"),
        ("BoN_set/Harmlessness/S1", "1", "second"),
        ("Pairwise_set/Helpfulness/Chat/Discussion", None, "bad"),
    ]
    assert [message.role for message in loaded[-1].pair.prompt] == ["user", "assistant", "user"]
    assert loaded[-1].category == "Pairwise_set/Helpfulness/Chat"
    assert len({item.pair.id for item in loaded}) == 5
    with pytest.raises(DataError, match="rmb is not on the hub: download it and set"):
        find("rmb").load(None)


def test_reward_bench_and_its_sections(tmp_path: Path) -> None:
    rows = [{"id": "1", "subset": "llmbar-natural", "prompt": "p", "chosen": "c", "rejected": "r"}]
    rows.append({"id": "2", "subset": "hep-go", "prompt": "p", "chosen": "", "rejected": ""})
    loaded = find("reward_bench").load(write(tmp_path / "rows.jsonl", rows))
    assert [(item.subset, item.category, item.item) for item in loaded] == [
        ("llmbar-natural", "Chat Hard", "1"),
        ("hep-go", "Reasoning", "2"),
    ]
    with pytest.raises(DataError, match="row 1, field 'subset': 'hep-cobol' is no subset of RewardBench"):
        find("reward_bench").load(write(tmp_path / "bad.jsonl", [rows[0] | {"subset": "hep-cobol"}]))


def test_judgebench_puts_the_better_response_first_in_the_pair(tmp_path: Path) -> None:
    row = {"pair_id": "u1", "source": "livebench-math", "question": "q", "response_A": "a", "response_B": "b"}
    rows = [row | {"label": "A>B"}, row | {"label": "B>A", "pair_id": "u2", "source": "mmlu-pro-law"}]
    loaded = find("judgebench").load(write(tmp_path / "rows.jsonl", rows))
    assert [(item.pair.chosen, item.pair.rejected, item.category) for item in loaded] == [
        ("a", "b", "math"),
        ("b", "a", "knowledge"),
    ]


def test_reward_bench_2_compares_each_right_with_each_wrong_answer(tmp_path: Path) -> None:
    rows = [{"id": "1", "subset": "Math", "prompt": "p", "chosen": ["c"], "rejected": ["x", "y", "z"]}]
    rows.append({"id": "tied:4", "subset": "Ties", "prompt": "p", "chosen": ["c", "d"], "rejected": ["x", "y"]})
    loaded = find("reward_bench_2").load(write(tmp_path / "rows.jsonl", rows))
    assert [(item.group, item.pair.chosen, item.pair.rejected) for item in loaded] == [
        *(("1", "c", loser) for loser in "xyz"),
        *(("tied:4", winner, loser) for winner in "cd" for loser in "xy"),
    ]


def test_the_built_in_family_and_files_of_pairs(tmp_path: Path) -> None:
    family = find("builtin").load(None)
    assert len(family) == 600
    assert {item.subset for item in family} == {"Chat", "Reasoning"}
    rows = [{"id": "a", "domain": "chat", "prompt": "p", "chosen": "c", "rejected": "r"}]
    loaded = find("pairs").load(write(tmp_path / "mine.jsonl", rows))
    assert [(item.subset, item.item, item.pair.source) for item in loaded] == [("chat", "a", "user")]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("rm_bench", [{"prompt": "p", "chosen": ["c"] * 3, "rejected": ["r"] * 2}], "must be a list of three texts"),
        ("rm_bench", [{"prompt": "p", "chosen": ["c"] * 3}], "row 1: has chosen, prompt; needs prompt, chosen, rejec"),
        ("judgebench", [{"question": "q", "response_A": "a", "response_B": "b", "label": "A", "source": "s"}], "'A>B'"),
    ],
)
def test_rows_of_another_form_are_named(tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=r"chat\.jsonl, row 1") as error:
        find(name).load(write(tmp_path / "chat.jsonl", rows))
    assert message in str(error.value)


def test_a_place_without_the_benchmark_is_named(tmp_path: Path) -> None:
    write(tmp_path / "other.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match="has no file of judgebench"):
        find("judgebench").load(str(tmp_path))
    with pytest.raises(DataError, match="is not there: set"):
        find("judgebench").load(str(tmp_path / "nowhere" / "deep"))


def test_the_prior_sets_as_published(tmp_path: Path) -> None:
    """Prompts are messages, ids may be null, and the split or the file says which set it is."""
    row = {"prompt": turns("egg?", "soft?", "soft"), "chosen": "six", "rejected": "freeze", "id": None}
    write(tmp_path / "anthropic_helpful-00000-of-00001.jsonl", [row, {**row, "id": 7}])
    (tmp_path / "shp.jsonl.gz").write_bytes(gzip.compress(json.dumps({**row, "subset": None}).encode()))
    write(tmp_path / "pku_safer.jsonl", [row])
    write(tmp_path / "z.jsonl", [{**row, "subset": "donotanswer", "prompt": "egg?"}])
    loaded = find("reward_bench").load(str(tmp_path))
    assert [(item.pair.id, item.category, len(item.pair.prompt)) for item in loaded] == [
        ("anthropic_helpful/1", "Prior Sets", 3),
        ("anthropic_helpful/7", "Prior Sets", 3),
        ("other/pku_safer/1", "other/pku_safer", 3),
        ("shp/1", "Prior Sets", 3),
        ("donotanswer/1", "Safety", 1),
    ]
    scores = [Score(item.subset, item.item, float(item.subset != "shp")) for item in loaded]
    figures = score(find("reward_bench"), scores)
    assert figures["sections"] == {"Safety": 1.0, "Prior Sets": 0.5, "other/pku_safer": 1.0}
    assert (figures["average"], figures["micro"]) == (1.0, 1.0)
    lists = {"prompt": "egg?", "chosen": turns("egg?", "six"), "rejected": turns("egg?", "freeze")}
    (loaded_lists,) = find("reward_bench").load(write(tmp_path / "lists" / "shp.jsonl", [lists]))
    assert (loaded_lists.pair.chosen, loaded_lists.pair.rejected) == ("six", "freeze")
    with pytest.raises(DataError, match="row 1, field 'prompt': the last message must be the user's"):
        find("reward_bench").load(write(tmp_path / "bad" / "shp.jsonl", [{**row, "prompt": turns("a", "b")}]))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("rm_bench", {"prompt": "p", "chosen": ["c"] * 3, "rejected": ["r"] * 3, "id": None}),
        (
            "rmb",
            {
                "conversation_input": turns("p"),
                "category_path": "Pairwise_set/Helpfulness/Chat",
                "chosen": {"llm_name": "x", "answer": "c"},
                "reject": {"llm_name": "y", "answer": "r"},
                "pair_uid": None,
            },
        ),
        (
            "judgebench",
            {"question": "q", "response_A": "a", "response_B": "b", "label": "A>B", "source": "s", "pair_id": None},
        ),
    ],
)
def test_an_id_that_is_null_is_the_place(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    loaded = find(name).load(write(tmp_path / "chat.jsonl", [row, row]))
    assert len({item.pair.id for item in loaded}) == len(loaded) > 1
    assert not any("None" in item.pair.id for item in loaded)


@pytest.mark.parametrize("losers", [[], 5, "text"])
def test_a_group_without_losers_is_refused(tmp_path: Path, losers: Any) -> None:
    best = {"llm_name": "x", "answer": "c"}
    row = {"conversation_input": turns("p"), "category_path": "BoN_set/Helpfulness/Chat", "bon_best": best}
    with pytest.raises(DataError, match="row 1, field 'loser_list'"):
        find("rmb").load(write(tmp_path / "bon.jsonl", [{**row, "loser_list": losers}]))
