"""The panels: every number that training logs is in exactly one, and docs/metrics.md has the same list."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judge_ranks import OPTIMIZERS, POLICY, build_model, sequences
from small_settings import small_learner

from actors.learner.actor import Learner
from actors.messages import (
    GenerationFailure,
    MemoryUse,
    Order,
    Prompt,
    RewardFailure,
    ScoredGroup,
    ScoredTrace,
    Trace,
    Verdict,
)
from actors.restarts import Faults
from actors.turns import Turns
from pipelines.config import Algorithm
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.loop.batches import policy_batch
from pipelines.loop.buffer import BufferSizes, GroupBuffer
from pipelines.loop.clock import StepTimes, loop_metrics, step_metrics
from pipelines.loop.rollouts import RolloutBatch
from pipelines.reporting.panels import SECTIONS, STAGES, WITHOUT_PANEL, drawn, fits, panels_of, unplaced
from pipelines.stages.training import _held_out

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """What a learner measures: of a supervised step, and of a policy step with a reference."""
    path = build_model(tmp_path_factory.mktemp("model"))
    threads = torch.get_num_threads()
    learner = Learner(0, 1, small_learner())
    learner.join(*learner.rendezvous())
    learner.load(path, path, OPTIMIZERS["adamw"])
    items = sequences(4, 0)
    tokens = sum(len(item.completion_ids) for item in items)
    yield learner.supervised_step([items], tokens), learner.policy_step([items], POLICY, tokens, 4)
    torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)


def rollout() -> RolloutBatch:
    """A batch in which everything that is counted occurs."""
    prompt = Prompt("p", "p", "chosen_first", "A", "Chat", (1,))
    ends = np.zeros(2, np.float32)

    def trace(sample: int) -> Trace:
        return Trace("p", sample, np.arange(2, dtype=np.int32), ends, "", "length", np.zeros(2, np.int32))

    scored = (
        ScoredTrace(trace(0), Verdict("A", None), 1.0, {"verdict": 1.0}),
        ScoredTrace(trace(1), Verdict(None, "truncated"), -1.0, {"verdict": -1.0}),
    )
    unscored = (RewardFailure("p", 2, "mine", "timeout", ""),)
    group = ScoredGroup(prompt, scored, (GenerationFailure("p", 3, "engine_error", ""),), unscored)
    listed = ScoredGroup(replace(prompt, judged="listwise", responses=3), scored)
    return RolloutBatch((group, listed), 1.0, 0.5, 1)


def assigned(file: str) -> set[str]:
    """The numbers that a training loop names itself: keys that are set in, or joined to, its metrics."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target, keys = node.targets[0].value, [node.targets[0].slice]
        elif isinstance(node, ast.AugAssign) and isinstance(node.value, ast.Dict):
            target, keys = node.target, [key for key in node.value.keys if key is not None]
        else:
            continue
        if isinstance(target, ast.Name) and target.id in ("metrics", "logged"):
            found |= {key.value for key in keys if isinstance(key, ast.Constant)}
    return found


def held_out() -> dict[str, float]:
    orders: tuple[Order, ...] = ("chosen_first", "chosen_second")
    judged = [
        JudgedComparison("p", order, label, "Chat", Verdict("A", None), 3, "stop", "[[A]]")
        for order, label in zip(orders, ("A", "B"), strict=True)
    ]
    return _held_out(judged, 0)


def faults() -> Faults:
    """One thing has died."""
    seen = Faults(2, 60.0)
    seen.noticed("engine", "engine 0", "was killed", "another starts")
    return seen


class Parts:
    """Engines and learners, with nothing to move."""

    def sleep(self, at_once: bool) -> list[MemoryUse]:
        return [MemoryUse(2, 1)]

    def wake(self, part: str) -> None:
        pass

    def leave_device(self) -> list[MemoryUse]:
        return [MemoryUse(2, 1)]

    def take_device(self) -> None:
        pass


def turns() -> Turns:
    """Each had the devices once."""
    taken, parts = Turns(60.0), Parts()
    taken.attach(engines=parts, learners=parts)
    with taken.publishing():
        pass
    return taken


@pytest.mark.slow
def test_every_number_that_training_logs_is_in_one_panel(learned: tuple[dict[str, float], dict[str, float]]) -> None:
    times = StepTimes(9.0, {"learn": 1.0, "publish": 1.0})
    both = {**held_out(), **step_metrics(times, 5), **dict.fromkeys(assigned("pipelines/stages/training.py"), 0.0)}
    supervised, policy = learned
    batch = policy_batch(rollout().groups, Algorithm(), 1, 0).metrics
    gauges = GroupBuffer[None](BufferSizes(1, 1, 1, 0, 1)).gauges(0)
    names = {
        "distill": {*both, *supervised, *assigned("pipelines/distill.py")},
        "rl": {*both, *policy, *batch, *loop_metrics(times, rollout()), *assigned("pipelines/rl.py"), *gauges}
        | {"optimizer_steps", "kl_coefficient", *faults().metrics(), *turns().metrics()},
    }
    # That what is asked about is what there is.
    assert {"epoch", "eval/accuracy/domain/Chat", "eval/accuracy/order/chosen_second"} <= names["distill"]
    assert {"failed_share", "reward_failures/timeout", "parse_failures/truncated", "kl", "ess_traces"} <= names["rl"]
    assert {"weight_version", "publish_pause_seconds", "kl_coefficient", "refill_rounds"} <= names["rl"]
    for stage, logged in names.items():
        assert unplaced(stage, logged) == []
        counts = {name: len(panels_of(stage, name)) for name in logged}
        assert {name for name, count in counts.items() if count != 1} == logged & set(WITHOUT_PANEL)
        # And no panel waits for a number that nobody logs.
        panels = [panel for section in SECTIONS for panel in section.panels]
        patterns = {pattern for panel in panels for pattern in panel.metrics(stage)}
        assert {pattern for pattern in patterns if not any(fits(pattern, name) for name in logged)} == set()


def test_titles_are_unique_and_no_panel_mixes_names_and_families() -> None:
    """W&B draws either names or a pattern."""
    panels = [panel for section in SECTIONS for panel in section.panels]
    assert [title for title, count in Counter(panel.title for panel in panels).items() if count > 1] == []
    for panel in panels:
        for stage in STAGES:
            metrics = panel.metrics(stage)
            assert len(metrics) == 1 or not any(name.endswith("/*") for name in metrics)


def test_what_is_drawn_keeps_the_order_of_the_list_and_leaves_out_what_is_not_there() -> None:
    found = [
        (section.title, panel.title, names)
        for section, panel, names in drawn("rl", ["reward_failures/b", "reward_failures/a", "accuracy", "mine"])
    ]
    assert found == [
        ("Outcome by domain and order", "Accuracy", ["accuracy"]),
        ("Faults", "Why rewards failed", ["reward_failures/a", "reward_failures/b"]),
    ]
    assert unplaced("rl", ["accuracy", "mine", "weight_version"]) == ["mine"]


def test_the_docs_have_the_same_panels() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = rows.index(["section", "panel", "stages", "numbers"]) + 2
    named = [row for row in rows[start:] if len(row) == 4 and row[0] in {section.title for section in SECTIONS}]
    assert named == [
        [
            section.title,
            panel.title,
            ", ".join(stage for stage in STAGES if panel.metrics(stage)),
            ", ".join(f"`{name}`" for name in dict.fromkeys(panel.distill + panel.rl)),
        ]
        for section in SECTIONS
        for panel in section.panels
    ]
    undrawn = text.partition("Not drawn:")[2].partition("\n")[0]
    assert all(f"`{name}`" in undrawn for name in WITHOUT_PANEL)
