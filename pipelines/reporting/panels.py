"""Which numbers are drawn together, and under which heading: the one list for W&B's workspace and report and our page.

Names are those of ``metrics.jsonl``, without the stage. One that ends in ``/*`` stands for all below it. Every number
that a training stage logs is in exactly one panel, or in :data:`WITHOUT_PANEL`; docs/metrics.md has the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Unit = Literal["number", "share", "seconds"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of each stage that has numbers for it."""

    title: str
    rl: tuple[str, ...] = ()
    """What it draws of stage ``rl``."""
    distill: tuple[str, ...] = ()
    """What it draws of stage ``distill``."""
    unit: Unit = "number"
    stacked: bool = False
    """Whether the numbers are parts of a whole, drawn on top of one another as shares of it."""

    def metrics(self, stage: str) -> tuple[str, ...]:
        """What it draws of a stage."""
        return {"rl": self.rl, "distill": self.distill}.get(stage, ())


@dataclass(frozen=True, slots=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


STAGES = ("distill", "rl")
"""Stages that have panels, in their order."""

_HELD_OUT = ("eval/consistent_accuracy", "eval/flip_rate")
_TIME = ("time/generate", "time/verify", "time/wait", "time/learn", "time/publish")

SECTIONS: tuple[Section, ...] = (
    Section(
        "Outcome by domain and order",
        (
            Panel("Accuracy", ("accuracy", "eval/accuracy"), ("eval/accuracy",), "share"),
            Panel("Held out, both orders", _HELD_OUT, _HELD_OUT, "share"),
            Panel("Held out, by domain", ("eval/accuracy/domain/*",), ("eval/accuracy/domain/*",), "share"),
            Panel("Held out, by order", ("eval/accuracy/order/*",), ("eval/accuracy/order/*",), "share"),
            Panel("Training pairs, by domain", ("accuracy/domain/*",), unit="share"),
            Panel("Training pairs, by order", ("accuracy/order/*",), unit="share"),
            Panel("Training pairs, by mode", ("accuracy/mode/*",), unit="share"),
            Panel("Verdicts for A", ("share_a",), unit="share"),
            Panel("Reward", ("reward", "reward_std")),
            Panel("Parts of the reward", ("reward/*",)),
        ),
    ),
    Section(
        "Policy health",
        (
            Panel("Loss", ("loss", "policy_loss"), ("loss",)),
            Panel("Groups that teach nothing", ("equal_reward_groups",), unit="share"),
            Panel("KL to the reference", ("kl",)),
            Panel("KL coefficient", ("kl_coefficient",)),
            Panel("Entropy", ("entropy",)),
            Panel("Gradient norm", ("grad_norm",), ("grad_norm",)),
            Panel("Learning rate", ("learning_rate",), ("learning_rate",)),
            Panel("Policy ratio", ("ratio_mean", "ratio_max")),
            Panel(
                "Clipped tokens",
                ("clip_fraction", "clip_fraction_low", "clip_fraction_high", "clip_fraction_dual"),
                unit="share",
            ),
            Panel("Engine and learner apart", ("logprob_difference", "logprob_difference_max")),
            Panel("Effective sample size", ("ess", "ess_traces"), unit="share"),
            Panel("Off-policy correction", ("correction_weight", "correction_limited")),
            Panel("Staleness", ("staleness_min", "staleness", "staleness_max")),
            Panel("Oldest under way, in versions", ("oldest_item",)),
        ),
    ),
    Section(
        "Data and lengths",
        (
            Panel(
                "Tokens in a judgment",
                ("completion_tokens_min", "completion_tokens", "completion_tokens_max", "eval/mean_tokens"),
                ("eval/mean_tokens",),
            ),
            Panel("Cut at the limit", ("truncated",), unit="share"),
            Panel("Verdicts that could be read", ("parse_rate", "eval/parse_rate"), ("eval/parse_rate",), "share"),
            Panel("Why a verdict could not be read", ("parse_failures/*",)),
            Panel("Tokens per step", ("tokens",), ("tokens",)),
            Panel("Epochs", distill=("epoch",)),
            Panel("Rounds of refill", ("refill_rounds",)),
        ),
    ),
    Section(
        "Speed, and where a step's time goes",
        (
            Panel("Tokens per second", ("tokens_per_second",), ("tokens_per_second",)),
            Panel("Where a step's time goes", _TIME, unit="seconds", stacked=True),
            Panel("Step and evaluation", ("time/step", "time/evaluate"), ("time/step", "time/evaluate"), "seconds"),
            Panel("Engines at work", ("time/engine_busy",), unit="seconds"),
            Panel("Slots of the engines", ("slots", "slots_in_use")),
            Panel("Complete, for later steps", ("items_waiting",)),
            Panel("Learned while others were written", ("time/learn_early",), unit="seconds"),
            Panel("Pause of a publish", ("publish_pause_seconds",), unit="seconds"),
            Panel(
                "Turns on shared devices", ("time/sleep", "time/wake", "time/offload", "time/onload"), unit="seconds"
            ),
            Panel("Memory by turn, in GiB", ("memory/*",)),
        ),
    ),
    Section(
        "Faults",
        (
            Panel("Failed share of traces", ("failed_share",), unit="share"),
            Panel("Failed traces", ("generation_failures", "reward_failures")),
            Panel("Why rewards failed", ("reward_failures/*",)),
            Panel("Restarts so far", ("restarts/*",)),
            Panel("Groups left too small", ("short_groups",)),
            Panel("Optimiser steps", ("optimizer_steps",)),
            Panel("Steps that were not applied", ("skipped_steps",), ("skipped_steps",)),
        ),
    ),
)

FINAL = ("accuracy", "consistent_accuracy", "flip_rate", "parse_rate")
"""Held-out figures with which a stage ends, as in ``summary.json``: what runs are compared by."""

WITHOUT_PANEL = ("weight_version",)
"""Numbers that are not drawn: the version is the step's number."""


def fits(pattern: str, name: str) -> bool:
    """Whether a name is the one of a panel, or is below one that ends in ``/*``."""
    return name.startswith(pattern[:-1]) if pattern.endswith("/*") else name == pattern


def panels_of(stage: str, name: str) -> list[Panel]:
    """The panels that draw a number: one, unless it is in :data:`WITHOUT_PANEL` or nobody said where it belongs."""
    found = [panel for section in SECTIONS for panel in section.panels]
    return [panel for panel in found if any(fits(pattern, name) for pattern in panel.metrics(stage))]


def drawn(stage: str, names: Iterable[str]) -> Iterator[tuple[Section, Panel, list[str]]]:
    """Section, panel and numbers, in order, of the numbers that there are; panels without any are left out."""
    known = sorted(names)
    for section in SECTIONS:
        for panel in section.panels:
            found = [name for pattern in panel.metrics(stage) for name in known if fits(pattern, name)]
            if found:
                yield section, panel, found


def unplaced(stage: str, names: Iterable[str]) -> list[str]:
    """The numbers that no panel draws and that :data:`WITHOUT_PANEL` does not name."""
    return sorted(name for name in names if name not in WITHOUT_PANEL and not panels_of(stage, name))
