"""From comparisons to logged judgments: what is to be judged, by which prompts, streamed from the rollout workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.messages import JudgeMode, Order, Prompt, Sampling, Side, Trace
from actors.rollout.fleet import RolloutFleet
from actors.verifier.trace import LETTERS, VerdictMode, read_verdict
from pipelines.benchmarks.benchmark import Benchmark, Comparison
from pipelines.data.prompts import PromptTemplate, orders_of, render, render_list, render_rating
from pipelines.data.schema import DataError
from pipelines.evaluation.log import JudgmentLog, Key
from pipelines.evaluation.traces import traces_of
from pipelines.judgment.judging import TOO_LONG, encoded, encoded_messages, logprob_of

UNRATED = -1.0
"""Score of a rating that could not be read: below all that could."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """One judgment to be made."""

    benchmark: Benchmark
    name: str
    """The benchmark's name in this evaluation; for a file of pairs, the file's."""
    comparison: Comparison
    order: Order
    vote: int
    token_ids: tuple[int, ...]
    prompt_hash: str
    """SHA-256 of the prompt's token ids; for an endpoint, of its messages."""
    place: Side | None = None
    """Of a list: where the better response is shown."""

    @property
    def key(self) -> Key:
        """Its place in the log."""
        return self.name, self.comparison.pair.id, self.order, self.vote

    @property
    def label(self) -> Side:
        """The side on which the better response is shown; of a rating A for a right one, otherwise B."""
        if self.place is not None:
            return self.place
        return "A" if self.order == "chosen_first" else "B"

    def prompt(self) -> Prompt:
        """As the rollout workers take it. Votes of one prompt differ in nothing but their uid."""
        uid = "/".join(map(str, self.key))
        pair = self.comparison.pair
        subset, mode = self.comparison.subset, self.comparison.mode
        return Prompt(uid, pair.id, self.order, self.label, subset, self.token_ids, mode, self.responses)

    @property
    def responses(self) -> int:
        """How many it shows."""
        return {"pairwise": 2, "pointwise": 1, "listwise": len(listed(self.comparison))}[self.comparison.mode]

    def messages(self, templates: Mapping[JudgeMode, PromptTemplate]) -> list[dict[str, str]]:
        """What the judge reads."""
        pair, template = self.comparison.pair, templates[self.comparison.mode]
        if self.comparison.mode == "pointwise":
            return render_rating(pair.prompt, pair.chosen, template)
        if self.comparison.mode == "listwise":
            return render_list(pair.prompt, listed(self.comparison, self.place or "A"), template)
        return render(pair, self.order, template)

    def row(self, facts: Mapping[str, Any], **judged: Any) -> dict[str, Any]:
        """A row of the log; ``facts`` are those of the whole evaluation."""
        comparison, pair = self.comparison, self.comparison.pair
        shorter = len(pair.chosen) < len(pair.rejected) if len(pair.chosen) != len(pair.rejected) else None
        return {
            "benchmark": self.name,
            "subset": comparison.subset,
            "category": comparison.category,
            "item": comparison.item,
            "comparison": pair.id,
            "group": comparison.group,
            "chosen_style": comparison.chosen_style,
            "rejected_style": comparison.rejected_style,
            "order": self.order,
            "vote": self.vote,
            "label": self.label,
            "prompt_hash": self.prompt_hash,
            "prompt_tokens": len(self.token_ids),
            **({} if comparison.mode == "pairwise" else {"mode": comparison.mode}),
            **judged,
            "better_shorter": shorter,
            **facts,
        }


def listed(comparison: Comparison, place: Side = "A") -> list[str]:
    """The responses of a list, the better one at ``place`` in exchange for the one that stood there."""
    pair = comparison.pair
    responses = [pair.chosen, pair.rejected, *pair.metadata.get("others", [])]
    at = LETTERS.index(place)
    responses[0], responses[at] = responses[at], responses[0]
    return responses


def plan_modes(
    benchmark: Benchmark,
    name: str,
    comparisons: Sequence[Comparison],
    templates: Mapping[JudgeMode, PromptTemplate],
    tokenizer: Any | None,
    *,
    votes: int,
    seed: int,
) -> list[Judgment]:
    """Judgments of lists, the better response at a place drawn from ``seed``, and of ratings; each comparison once.

    Raises:
        DataError: a comparison is there twice.

    """
    asked = []
    for item in _by_id(name, comparisons).values():
        place: Side | None = None
        order: Order = "chosen_first"
        if item.mode == "listwise":
            place = random.Random(f"{seed}/{item.pair.id}/place").choice(LETTERS[: len(listed(item))])
        elif not item.pair.metadata["right"]:
            order = "chosen_second"
        asked.append(Judgment(benchmark, name, item, order, 0, (), "", place))
    prompts = encoded_messages((judgment.messages(templates) for judgment in asked), tokenizer)
    return [
        replace(judgment, vote=vote, token_ids=tokens, prompt_hash=digest)
        for judgment, (tokens, digest) in zip(asked, prompts, strict=True)
        for vote in range(votes)
    ]


def _by_id(name: str, comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """Comparisons by their ids.

    Raises:
        DataError: one is there twice.

    """
    by_id = {comparison.pair.id: comparison for comparison in comparisons}
    if len(by_id) != len(comparisons):
        seen: set[str] = set()
        twice = next(item.pair.id for item in comparisons if item.pair.id in seen or seen.add(item.pair.id))  # type: ignore[func-returns-value]
        raise DataError(f"{name}: comparison {twice!r} is there twice: give its rows different ids")
    return by_id


def plan(
    benchmark: Benchmark,
    name: str,
    comparisons: Sequence[Comparison],
    template: PromptTemplate,
    tokenizer: Any | None,
    *,
    orders: str,
    votes: int,
    seed: int,
) -> list[Judgment]:
    """Every judgment of a benchmark, in its order. Without a tokenizer, prompts are known as messages alone.

    Raises:
        DataError: a comparison is there twice.

    """
    by_id = _by_id(name, comparisons)
    judgments = []
    ordered = orders_of((item.pair for item in comparisons), orders, seed)
    for (pair, order), (tokens, digest) in zip(ordered, encoded(ordered, template, tokenizer), strict=True):
        judgments += [Judgment(benchmark, name, by_id[pair.id], order, vote, tokens, digest) for vote in range(votes)]
    return judgments


def read(judgment: Judgment, text: str, mode: VerdictMode, *, truncated: bool = False) -> dict[str, Any]:
    """What a trace decided: the fields ``text``, ``verdict``, ``cause`` and ``score`` of its row."""
    mine, shown = judgment.comparison.mode, judgment.responses
    verdict = read_verdict(text, mode, truncated=truncated, judged=mine, responses=shown)
    if mine == "pointwise":
        score = UNRATED if verdict.rating is None else float(verdict.rating)
        return {"text": text, "verdict": None, "cause": verdict.cause, "score": score, "rating": verdict.rating}
    right = float(verdict.side == judgment.label)
    score = judgment.benchmark.unread_score if verdict.side is None else right
    return {"text": text, "verdict": verdict.side, "cause": verdict.cause, "score": score}


def not_judged(judgment: Judgment, facts: Mapping[str, Any], cause: str = TOO_LONG) -> dict[str, Any]:
    """The row of a comparison that gets no judgment; it scores what an unreadable verdict scores."""
    return judgment.row(
        facts,
        text="",
        verdict=None,
        cause=cause,
        score=UNRATED if judgment.comparison.mode == "pointwise" else judgment.benchmark.unread_score,
        tokens=0,
        finish_reason=None,
        verdict_logprob=None,
    )


def pending(
    judgments: Sequence[Judgment], log: JudgmentLog, max_prompt_tokens: int, facts: Mapping[str, Any]
) -> list[Judgment]:
    """What is still to be judged; comparisons whose prompts are too long are logged as that.

    Raises:
        DataError: a logged judgment was made on another prompt or with other weights.

    """
    waiting: list[Judgment] = []
    too_long: list[Judgment] = []
    for judgment in judgments:
        logged = log.rows.get(judgment.key)
        if logged is None:
            (too_long if len(judgment.token_ids) > max_prompt_tokens else waiting).append(judgment)
            continue
        for field, now in (("prompt_hash", judgment.prompt_hash), ("weights", facts["weights"])):
            if logged[field] != now:
                raise DataError(
                    f"{log.path}: {'/'.join(map(str, judgment.key))} was judged with another {field} "
                    f"({logged[field]}, now {now}): choose another evaluate.label, or start over with overwrite=true"
                )
    log.append([not_judged(judgment, facts) for judgment in too_long])
    return waiting


async def judge(
    fleet: RolloutFleet,
    waiting: Sequence[Judgment],
    sampling: Sampling,
    mode: VerdictMode,
    tokenizer: Any | None,
    facts: Mapping[str, Any],
    log: JudgmentLog,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Judge what is waiting and log each judgment as it arrives.

    ``progress`` is told how many are in the log, and the share of right ones among those.

    Raises:
        EvaluationFailed: generations failed; the others are in the log, and the same command tries again.

    """
    asked = [(judgment, judgment.prompt()) for judgment in waiting]
    by_uid = {prompt.uid: judgment for judgment, prompt in asked}
    rated = sum("rating" in row for row in log.rows.values())
    done, right = len(log.rows), sum(row["verdict"] == row["label"] for row in log.rows.values())
    async for traces in traces_of(fleet, [prompt for _, prompt in asked], sampling):
        rows = [_row(by_uid[trace.prompt_uid], trace, mode, tokenizer, facts) for trace in traces]
        log.append(rows)
        done += len(rows)
        rated += sum("rating" in row for row in rows)
        right += sum(row["verdict"] == row["label"] for row in rows)
        if progress is not None:
            progress(done, {"accuracy": right / max(1, done - rated)})


def _row(
    judgment: Judgment, trace: Trace, mode: VerdictMode, tokenizer: Any, facts: Mapping[str, Any]
) -> dict[str, Any]:
    what = read(judgment, trace.text, mode, truncated=trace.finish_reason == "length")
    logprob = logprob_of(trace, what["verdict"], mode, tokenizer)
    return judgment.row(
        facts, **what, tokens=len(trace.token_ids), finish_reason=trace.finish_reason, verdict_logprob=logprob
    )
