"""The card of a set of chains: how right the teachers were, what was kept and refused, how well it is reasoned, what
it took. Plain data for the two templates beside this file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.files import sha256_file
from pipelines.chain_generation.collection import Collection
from pipelines.chain_generation.quality import TraceQuality
from pipelines.chain_generation.selection import Candidate
from pipelines.config import Config
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.requests import FIRST_PASS
from pipelines.reporting.cards import histogram

_MEASURES: tuple[tuple[str, Callable[[TraceQuality], float | bool | None]], ...] = (
    ("well formed", lambda quality: quality.well_formed),
    ("has quotes", lambda quality: quality.quotes > 0),
    ("quotes found in the response", lambda quality: quality.quotes_found),
    ("rubric weights make 100%", lambda quality: quality.weights_add_up),
    ("criteria mentioned in the evaluation", lambda quality: quality.criteria_mentioned),
    ("verdict agrees with the totals", lambda quality: quality.tally_agrees),
)


def card_data(config: Config, collection: Collection, journal: Journal, folder: Path) -> dict[str, Any]:
    """Everything the card shows."""
    chains = collection.chains()
    candidates = [(item, one) for item in collection.questions.items for one in collection.examined(item)]
    first = [(item, one) for item, one in candidates if one.answer.round == FIRST_PASS]
    refused = [one for _, one in candidates if not one.kept]
    revised = {item.uid for item, one in candidates if one.answer.round != FIRST_PASS}
    kept = [chosen for _, chosen in chains]
    lengths = {
        "Tokens of a chain": [one.answer.completion_tokens for one in kept],
        "Words of a chain": [one.quality.words for one in kept],
        "Words of its evaluation": [one.quality.evaluation_words for one in kept],
    }
    summary = {
        "pairs": collection.questions.pairs,
        "questions": len(collection.questions.items),
        "unanswered": len(collection.unanswered),
        "kept": len(chains),
        "first_pass_accuracy": _mean(collection.right(item, one) for item, one in first),
        "first_pass_kept": sum(one.answer.round == FIRST_PASS for one in kept),
        "revised": len(revised),
        "recovered": sum(one.answer.round != FIRST_PASS for one in kept),
        "refused": dict(Counter(one.cause for one in refused).most_common()),
        "tokens": journal.tokens,
        "cost": journal.cost,
    }
    return {
        "name": config.run,
        "seed": config.seed,
        "orders": config.chains.orders,
        "samples": config.chains.samples,
        "held_out": collection.questions.held_out,
        "pairs_from": config.chains.pairs or config.data.train or "the built-in family",
        "summary": summary,
        "rounds": [_round_row(round_, candidates, collection) for round_ in collection.rounds],
        "by": {
            name: _groups(first, {item.uid for item, _ in chains}, key, collection)
            for name, key in (
                ("domain", lambda item: item.pair.domain),
                ("source", lambda item: item.pair.source),
                ("mode", lambda item: item.mode),
            )
            if name != "mode" or len({key(item) for item in collection.questions.items}) > 1
        },
        "refused": _refused_rows(refused),
        "quality": [
            {
                "name": name,
                "kept": _mean(measure(one.quality) for one in kept),
                "kept_n": _applicable(measure(one.quality) for one in kept),
                "refused": _mean(measure(one.quality) for one in refused),
                "refused_n": _applicable(measure(one.quality) for one in refused),
            }
            for name, measure in _MEASURES
        ],
        "positions": _mean(item.label == "A" for item, _ in chains),
        "histograms": [histogram(title, values) for title, values in lengths.items() if values],
        "filters": asdict(config.chains.filters),
        "files": {
            path.name: sha256_file(path)
            for path in (folder / "chains.parquet", folder / "refused.parquet", folder / "journal.jsonl")
            if path.is_file()
        },
    }


def _round_row(round_: Any, candidates: Sequence[tuple[Any, Candidate]], collection: Collection) -> dict[str, Any]:
    answers = list(round_.asked.answers.values())
    examined = [(item, one) for item, one in candidates if one.answer.round == round_.number]
    settings = round_.teacher.settings
    return {
        "name": round_.name,
        "teacher": settings.model,
        "answers_as": ", ".join(sorted({answer.model for answer in answers} - {settings.model})),
        "kind": settings.kind,
        "temperature": settings.temperature,
        "requests": round_.requests,
        "answers": len(answers),
        "right": _mean(collection.right(item, one) for item, one in examined),
        "kept": _mean(one.kept for _, one in examined),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.completion_tokens for answer in answers),
        "estimated": sum(answer.estimated for answer in answers),
        "cost": sum(answer.cost for answer in answers),
        "seconds": _mean(answer.seconds for answer in answers),
        "repeated": sum(answer.attempts - 1 for answer in answers),
        "failures": dict(Counter(failure.cause for failure in round_.asked.failures.values()).most_common()),
    }


def _groups(
    first: Sequence[tuple[Any, Candidate]], kept_uids: set[str], key: Callable[[Any], str], collection: Collection
) -> list[dict[str, Any]]:
    rows = []
    for name in sorted({key(item) for item, _ in first}):
        asked = {item.uid for item, _ in first if key(item) == name}
        right = _mean(collection.right(item, one) for item, one in first if key(item) == name)
        rows.append(
            {"name": name, "questions": len(asked), "right": right, "kept": len(asked & kept_uids) / len(asked)}
        )
    return rows


def _refused_rows(refused: Iterable[Candidate]) -> list[dict[str, Any]]:
    counts = Counter((one.cause, one.answer.round == FIRST_PASS) for one in refused)
    causes = sorted({cause for cause, _ in counts}, key=lambda cause: -(counts[cause, True] + counts[cause, False]))
    return [{"cause": cause, "first": counts[cause, True], "second": counts[cause, False]} for cause in causes]


def _mean(values: Iterable[float | bool | None]) -> float | None:
    """Mean of the values that apply; None when none does."""
    stated = [float(value) for value in values if value is not None]
    return sum(stated) / len(stated) if stated else None


def _applicable(values: Iterable[float | bool | None]) -> int:
    return sum(value is not None for value in values)
