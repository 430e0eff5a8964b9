"""Tournaments that are played on decisions made before, and the judge that measures take theirs from."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from pipelines.data.tiny_tasks import score
from pipelines.speed.__main__ import main
from pipelines.speed.demo_judge import NoDemo, demo_judge
from pipelines.speed.rank_calls import accuracy, figures, first_is_best, groups, played


def test_a_judge_that_knows_the_truth_orders_all() -> None:
    truth = [3, 9, 1, 7, 5, 2, 8, 6]
    scores = {(i, j): float(truth[i] > truth[j]) for i, j in combinations(range(8), 2)}
    for method, rounds, calls in (("all_pairs", 0, 28), ("circular", 3, 24), ("knockout", 0, 7)):
        order, made = played(method, 8, rounds, scores)
        assert made == calls
        assert order[0] == 1
        if method == "all_pairs":
            assert accuracy(order, truth) == 1.0


def test_accuracy_counts_pairs_of_different_scores() -> None:
    # Of the pairs that differ (0-1, 0-2, 1-3, 2-3), the order 0 3 1 2 has 0-1 and 0-2 right.
    assert accuracy([0, 3, 1, 2], [2, 1, 1, 2]) == 1.0
    assert accuracy([1, 2, 0, 3], [2, 1, 1, 2]) == 0.0
    assert accuracy([0, 1, 2, 3], [2, 1, 1, 2]) == 0.5
    assert [first_is_best([first], [2, 1, 1, 2]) for first in range(4)] == [True, False, False, True]


def test_a_group_of_equal_scores_has_a_best_response_and_no_right_order() -> None:
    truth = [(2, 2, 2, 2), (4, 1, 3, 2)]
    decided = [
        {(i, j): 0.5 + (true[i] > true[j]) / 2 - (true[i] < true[j]) / 2 for i, j in combinations(range(4), 2)}
        for true in truth
    ]
    found = figures(4, decided, truth)
    assert found["rank_all_pairs_of_4_calls"] == 6.0
    assert found["rank_all_pairs_of_4_accuracy"] == 1.0
    assert found["rank_all_pairs_of_4_order"] == 1.0
    assert found["rank_knockout_of_4_calls"] == 3.0


def test_groups_have_different_responses_and_their_true_scores() -> None:
    (one,) = groups(1, 16)
    assert len(set(one.responses)) == 16
    assert len(set(one.scores)) > 3
    assert groups(2, 16)[0] == one
    assert one.question.startswith("write ")
    assert all(0 <= value <= 7 for value in one.scores)
    assert score("cat please", ["polite", "mention dog", "start sun"]) == 4


def test_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoDemo, match=r"make demo.*--demo"):
        demo_judge(tmp_path)


def test_the_bench_says_so_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["speed", "--only", "packer,serve_shed", "--demo", str(tmp_path), "--output", str(tmp_path / "bench")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code
    assert "holds no finished run" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
