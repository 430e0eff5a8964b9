"""The whole pipeline against a local server: two passes, resumed at any moment, budgets and failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from teacher_server import Reply, TeacherServer, sent_text, tiny_teacher

from pipelines.chains import command
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.schema import DataError, PreferencePair, write_pairs
from pipelines.data.tiny_tasks import generate_items
from pipelines.runs.folder import RunDirectory, StageMissing

pytestmark = pytest.mark.slow

PAIRS = 24
Write = Callable[..., RunDirectory]


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return generate_items(0, {"distill": PAIRS})["distill"]


@pytest.fixture(scope="module")
def teach(pairs: list[PreferencePair]) -> Callable[[dict[str, Any], int], Reply]:
    """Wrong about each third pair until told the verdict: 8 of 24 go to the second pass."""
    answer = tiny_teacher(pairs)
    return lambda body, seen: Reply(answer(sent_text(body)))


@pytest.fixture
def write(tmp_path: Path, pairs: list[PreferencePair]) -> Write:
    """Run the pipeline in a folder that has the pairs; returns the folder."""

    def run_pipeline(url: str, *overrides: str, run: str = "r") -> RunDirectory:
        folder = RunDirectory(tmp_path, run, "tiny")
        if not (folder.data / "distill.parquet").exists():
            write_pairs(pairs, folder.data / "distill.parquet")
        teacher = ["chains.first.model=teacher-x", f"chains.first.base_url={url}", "chains.first.backoff=0.001"]
        command(load_config([f"run={run}", f"output_root={tmp_path}", *teacher, *overrides]))
        return folder

    return run_pipeline


def rows(run: RunDirectory, name: str = "chains") -> list[dict[str, Any]]:
    return pq.read_table(run.chains / f"{name}.parquet").to_pylist()


def test_two_passes(write: Write, teach: Any, pairs: list[PreferencePair], capsys: pytest.CaptureFixture[str]) -> None:
    with TeacherServer(teach) as server:
        run = write(server.url)
    assert len(server.bodies) == PAIRS + 8
    chains, summary = rows(run), run.summary()["chains"]
    assert sorted(row["pair_id"] for row in chains) == sorted(pair.id for pair in pairs)
    assert [row["label"] for row in chains] == ["A", "B"] * (PAIRS // 2)
    assert all(row["chain"].endswith(f"<answer>[[{row['label']}]]</answer>") for row in chains)
    rounds = [json.loads(row["metadata"])["round"] for row in chains]
    assert (rounds.count(0), rounds.count(1)) == (16, 8)
    # The distilled model never sees the hint.
    assert not any("Notes for you alone" in row["messages"][-1]["content"] for row in chains)
    assert sum("Notes for you alone" in sent_text(body) for body in server.bodies) == 8
    assert (summary["first_pass_accuracy"], summary["revised"], summary["recovered"]) == (pytest.approx(2 / 3), 8, 8)
    assert summary["refused"] == {"wrong verdict": 8}
    assert [row["cause"] for row in rows(run, "refused")] == ["wrong verdict"] * 8
    card = (run.chains / "card.md").read_text()
    assert "| first pass: right verdicts | 66.7% |" in card
    assert "| wrong verdict | 8 | 0 |" in card
    assert "<h1>Reasoning chains: r</h1>" in (run.chains / "card.html").read_text()
    assert "first pass right 66.7%, second pass recovered 8 of 8, kept 24 of 24" in capsys.readouterr().out


def test_a_run_cut_off_anywhere_ends_in_the_same_set_and_asks_only_for_the_rest(write: Write, teach: Any) -> None:
    with TeacherServer(teach) as server:
        whole = write(server.url, run="whole")
        journal = (whole.chains / "journal.jsonl").read_bytes()
        assert journal.count(b"\n") == PAIRS + 8
        for number, cut in enumerate((0, len(journal) // 3 + 7, len(journal) - 30)):
            asked = len(server.bodies)
            resumed = RunDirectory(whole.path.parent, f"cut-{number}", "tiny")
            resumed.chains.mkdir(parents=True)
            (resumed.chains / "journal.jsonl").write_bytes(journal[:cut])
            write(server.url, run=resumed.name)
            assert rows(resumed) == rows(whole)
            assert len(server.bodies) - asked == PAIRS + 8 - journal[:cut].count(b"\n")
        asked = len(server.bodies)
        write(server.url, run="whole")
        assert len(server.bodies) == asked


def test_a_larger_limit_pays_only_for_the_new_pairs(write: Write, teach: Any) -> None:
    with TeacherServer(teach) as server:
        write(server.url, "chains.limit=6", "chains.rounds=0")
        assert len(server.bodies) == 6
        run = write(server.url, "chains.limit=10", "chains.rounds=0")
        assert len(server.bodies) == 10
    assert run.summary()["chains"]["questions"] == 10


def test_start_over_keeps_what_was_paid_for(write: Write, teach: Any) -> None:
    with TeacherServer(teach) as server:
        write(server.url, "chains.limit=3", "chains.rounds=0", "chains.orders=both")
        run = write(server.url, "chains.limit=3", "chains.rounds=0", "chains.orders=both", "overwrite=true")
        assert len(server.bodies) == 12
    journals = [(run.chains / name).read_bytes().count(b"\n") for name in ("journal.jsonl", "journal-1.jsonl")]
    assert journals == [6, 6]


def test_a_set_without_open_questions_is_finished_and_outlives_its_pairs(write: Write, teach: Any) -> None:
    with TeacherServer(teach) as server:
        run = write(server.url, "chains.rounds=0", "chains.budget_tokens=500")
        assert (run.summary()["chains"]["unanswered"] > 0, run.finished("chains")) == (True, False)
        run = write(server.url, "chains.rounds=0")
        assert run.finished("chains")
        # A refused set is not finished, whatever the one before was.
        with pytest.raises(DataError, match="no chain could be kept"):
            write(server.url, "chains.rounds=0", "chains.filters.min_words=10000")
        assert not run.finished("chains")
        run = write(server.url, "chains.rounds=0")
    run.start_over("prepare")
    assert run.finished("chains")
    assert len(rows(run)) == 16
    run.start_over("chains")
    assert [file.name for file in run.chains.iterdir()] == ["journal.jsonl"]
    assert "chains" not in run.summary()


def test_a_second_teacher_and_several_samples_and_rounds(write: Write, teach: Any) -> None:
    """The second teacher betrays the hint at first, and by its third sample does not."""

    def betray(body: dict[str, Any], seen: int) -> Reply:
        second.setdefault(sent_text(body), []).append(body["seed"])
        reply = teach(body, seen).text
        told = len(second[sent_text(body)]) < 3
        return Reply(reply.replace("<eval>", "<eval>I was told so . ") if told else reply, model="teacher-y")

    second: dict[str, list[int]] = {}
    with TeacherServer(teach) as server, TeacherServer(betray) as other:
        teacher = [f"chains.second.base_url={other.url}", "chains.second.model=teacher-y"]
        run = write(server.url, *teacher, "chains.second.concurrency=1", "chains.samples=2", "chains.rounds=3")
    assert len(server.bodies) == 2 * PAIRS
    summary = run.summary()["chains"]
    assert (summary["kept"], summary["recovered"]) == (PAIRS, 8)
    assert summary["refused"] == {"wrong verdict": 16, "betrays the hint": 16}
    metadata = [json.loads(row["metadata"]) for row in rows(run)]
    assert {item["model"] for item in metadata if item["round"]} == {"teacher-y"}
    assert {item["round"] for item in metadata} == {0, 2}
    # Two samples in each of two rounds, each with a seed of its own.
    assert {len(seeds) for seeds in second.values()} == {4}
    assert all(len(set(seeds)) == 4 for seeds in second.values())


def test_failed_questions_wait_for_the_next_run(write: Write, teach: Any, capsys: pytest.CaptureFixture[str]) -> None:
    refuse = True

    def script(body: dict[str, Any], seen: int) -> Reply:
        number = sum(map(ord, sent_text(body))) % 4
        return Reply(status=400) if refuse and number == 0 and "Notes" not in sent_text(body) else teach(body, seen)

    with TeacherServer(script) as server:
        first = write(server.url)
        left = first.summary()["chains"]["unanswered"]
        assert 0 < left < PAIRS
        assert len(rows(first)) == PAIRS - left
        shown = capsys.readouterr().out
        assert f"requests failed: {left} refused" in shown
        assert f"{left} questions are not answered yet: run the same command" in shown
        assert "**Not complete:**" in (first.chains / "card.md").read_text()
        refuse = False
        asked = len(server.bodies)
        again = write(server.url)
        assert len(rows(again)) == PAIRS
        assert again.summary()["chains"]["unanswered"] == 0
        assert left <= len(server.bodies) - asked <= 2 * left


def test_budget_ends_with_the_set_so_far_and_a_larger_one_goes_on(
    write: Write, teach: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with TeacherServer(teach) as server:
        run = write(server.url, "chains.budget_tokens=500")
        summary = run.summary()["chains"]
        assert 400 < summary["tokens"] <= 500
        assert summary["kept"] > 0
        assert summary["unanswered"] == PAIRS - len(server.bodies)
        assert "the budget is spent (" in capsys.readouterr().out
        assert len(rows(write(server.url, "chains.budget_tokens=100000"))) == PAIRS
        assert len(server.bodies) == PAIRS + 8


def test_no_chain_kept_is_an_error_that_says_why(write: Write) -> None:
    with TeacherServer(lambda body, seen: Reply("no idea")) as server, pytest.raises(DataError) as caught:
        write(server.url, "chains.rounds=0")
    assert f"no chain could be kept ({PAIRS} no verdict)" in str(caught.value)
    assert "refused.parquet" in str(caught.value)


def test_own_pairs_without_those_held_out(write: Write, tmp_path: Path) -> None:
    def line(name: str) -> str:
        return json.dumps({"id": name, "prompt": f"question {name}", "chosen": "good", "rejected": "bad"}) + "\n"

    (tmp_path / "all.jsonl").write_text("".join(map(line, "abcd")))
    (tmp_path / "held.jsonl").write_text("".join(map(line, "bd")))
    chain = "<type>Reasoning</type><solution>x</solution><eval>y</eval><answer>[[{}]]</answer>"
    with TeacherServer(lambda body, seen: Reply(chain.format("A" if "A good" in sent_text(body) else "B"))) as server:
        run = write(server.url, f"chains.pairs={tmp_path / 'all.jsonl'}", f"data.heldout={tmp_path / 'held.jsonl'}")
    assert sorted(row["pair_id"] for row in rows(run)) == ["a", "c"]
    assert "2 pairs were left out because they are held out." in (run.chains / "card.md").read_text()


def test_settings_that_cannot_work_are_refused_before_anything_is_asked(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set chains\.first\.model"):
        write("http://127.0.0.1:9/v1", "chains.first.model=null")
    for override, part in [
        ("chains.second.temperature=1", "set chains.second.model"),
        ("chains.budget_cost=3", "no effect without prices"),
        ("chains.first.kind=remote", "not one of endpoint, local"),
        ("chains.filters.quotes_found=2", "chains.filters.quotes_found=2.0"),
        ("chains.first.atempts=2", "did you mean 'chains.first.attempts'"),
    ]:
        with pytest.raises(ConfigError) as caught:
            write("http://127.0.0.1:9/v1", override)
        assert part in str(caught.value)
    with pytest.raises(StageMissing, match="make prepare"):
        command(load_config(["run=x", f"output_root={tmp_path}", "chains.first.model=m"]))
