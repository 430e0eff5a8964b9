"""One record per stage: what it needs, what it leaves, and which settings and files make its result what it is.

The run's folder, the stages' lifecycle, the checks and ``make submit`` read it. CONTRIBUTING.md says what else a new
stage needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import Config


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage. Paths are relative to the run's folder."""

    name: str
    section: str
    """Its section of the configuration."""
    needs: tuple[str, ...] = ()
    """Stages it builds on: when one of them starts over, so does this one."""
    leaves: tuple[str, ...] = ()
    """Files and folders it makes, besides its notes, checkpoints, metrics and traces."""
    summary: tuple[str, ...] = ()
    """Its top-level keys of ``summary.json``, besides ``judged``."""
    judged: tuple[str, ...] = ()
    """Keys of ``summary.json`` with held-out figures; the judgments are in ``traces/heldout-<key>.parquet``."""
    defining: tuple[str, ...] = ()
    """Settings and sections, as dotted keys, that make its result what it is."""
    free: tuple[str, ...] = ()
    """Exceptions from ``defining``."""
    reads: tuple[str, ...] = ()
    """Settings that name files whose content makes its result what it is, too; see ``stages/contents.py``."""
    submitted: bool = True
    """Whether ``python -m pipelines.<name>`` runs it, here or as a job; otherwise it is part of another command."""

    def traces(self) -> tuple[str, ...]:
        """Patterns of its files in ``traces/``."""
        return (f"{self.name}-*.parquet", *(f"heldout-{row}.parquet" for row in self.judged))

    def settings(self, config: Config) -> dict[str, Any]:
        """The values of ``defining`` without ``free``, by dotted keys of single settings."""
        everything = asdict(config)
        flat: dict[str, Any] = {}

        def add(key: str, value: Any) -> None:
            if key in self.free:
                return
            if isinstance(value, dict):
                for name, inner in value.items():
                    add(f"{key}.{name}", inner)
            else:
                flat[key] = value

        for key in self.defining:
            add(key, reduce(lambda section, name: section[name], key.split("."), everything))
        return flat


_DATA_SETS = ("data.mix", "data.lint")  # Read by `make data` and `make lint-data` alone.
_SHAPE = "model.shape"  # What is known of a model beforehand.
_RHYTHM = ("checkpoints", "evaluate_every")
# How an endpoint is asked, not what is asked of it.
_OPERATION = (
    *("base_url", "key_variable", "answers_as", "ends_as", "limit_field", "stream", "concurrency", "timeout"),
    *("attempts", "requests_per_minute", "tokens_per_minute", "backoff", "longest_wait", "give_up_after"),
    *("input_price", "output_price"),
)
# More benchmarks may be added to an evaluation, and it may be reported another way.
_EVALUATION = (
    *("evaluate.benchmarks", "evaluate.paths", "evaluate.limit", "evaluate.as_published", "evaluate.compare"),
    "evaluate.protocol",
    *("evaluate.example_traces", "evaluate.base_url", "evaluate.budget_tokens", "evaluate.budget_cost"),
    *(f"evaluate.endpoint.{name}" for name in _OPERATION),
)

STAGES = MappingProxyType(
    {
        record.name: record
        for record in (
            StageRecord(
                "prepare",
                section="data",
                leaves=("data", "model"),
                summary=("data",),
                defining=(
                    "seed",
                    *("data.distill_pairs", "data.rl_pairs", "data.heldout_pairs"),
                    *("data.wording", "data.criteria", "data.reasoning_share", "data.modes"),
                    *("model.prompt", "model.path"),
                    *("model.hidden", "model.layers", "model.heads", "model.intermediate"),
                ),
                reads=("model.prompt",),
            ),
            StageRecord(
                "distill",
                section="distill",
                needs=("prepare",),
                leaves=("distill",),
                summary=("distill_modes",),
                judged=("before", "distill"),
                defining=("seed", "model", "data", "distill"),
                free=(_SHAPE, *_DATA_SETS, *(f"distill.{name}" for name in _RHYTHM)),
                reads=("model.path", "model.prompt", "data.chains", "data.train", "data.heldout"),
            ),
            StageRecord(
                "rl",
                section="rl",
                needs=("distill",),
                leaves=("rl",),
                summary=("time_share", "rl_modes"),
                judged=("rl",),
                defining=("seed", "model", "data", "rl", "algorithm", "verifier"),
                free=(
                    _SHAPE,
                    *_DATA_SETS,
                    *(f"rl.{name}" for name in _RHYTHM),
                    "rl.evaluate_pairs",
                    "rl.warn_after_flat_steps",
                ),
                reads=("rl.policy", "model.prompt", "data.train", "data.heldout", "verifier.functions"),
            ),
            StageRecord(
                "evaluate",
                section="evaluate",
                needs=("rl",),
                judged=("evaluate",),
                defining=("seed", "model", "data", "evaluate"),
                free=(_SHAPE, *_DATA_SETS, *_EVALUATION),
            ),
            # Benchmarks. It has a folder of its own, evaluations/<label>/.
            StageRecord(
                "benchmarks",
                section="evaluate",
                leaves=(
                    *("judgments.jsonl", "judgments.parquet", "comparisons.jsonl", "results.json"),
                    "reward_bench_form",
                ),
                defining=("seed", "model", "evaluate"),
                free=(_SHAPE, *_EVALUATION),
                submitted=False,
            ),
            # Its set is made from the journal at every call, under whatever settings, and outlives the pairs of
            # `prepare`: the answers were paid for. The journal itself is never removed.
            StageRecord(
                "chains",
                section="chains",
                leaves=("chains/chains.parquet", "chains/refused.parquet", "chains/card.md", "chains/card.html"),
                summary=("chains",),
                defining=("seed", "model.prompt", "data", "chains"),
                free=(*_DATA_SETS, "chains.budget_tokens", "chains.budget_cost"),
            ),
        )
    }
)
"""By name, each after those it needs."""


def with_dependents(name: str) -> Iterator[StageRecord]:
    """The stage and all that build on it, directly or not; the last to be run comes first."""
    undone = {STAGES[name].name}
    for record in STAGES.values():
        if undone.intersection(record.needs):
            undone.add(record.name)
    return (STAGES[name] for name in reversed(STAGES) if name in undone)
