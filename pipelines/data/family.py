"""The built-in family in the wording that the settings name: items, their teacher, and checks beyond the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from actors.messages import Side
from pipelines.data.natural_tasks import WORDING, in_sentences, natural_chain, natural_true_first, read_natural_solution
from pipelines.data.schema import PreferencePair
from pipelines.data.tiny_modes import with_others
from pipelines.data.tiny_tasks import SOURCE, generate_items, read_solution, teacher_chain, true_first

if TYPE_CHECKING:
    from pipelines.config.data import Data


def family_items(seed: int, counts: Mapping[str, int], data: Data) -> dict[str, list[PreferencePair]]:
    """Sets of pairs by name and size; see :func:`pipelines.data.tiny_tasks.generate_items`."""
    items = generate_items(seed, counts, criteria=data.criteria, reasoning_share=data.reasoning_share)
    if data.modes.listwise:
        items = {name: [with_others(pair) for pair in pairs] for name, pairs in items.items()}
    if data.wording != WORDING:
        return items
    return {name: [in_sentences(pair) for pair in pairs] for name, pairs in items.items()}


def family_chain(pair: PreferencePair, label: Side, seed: str) -> str:
    """What the imperfect teacher writes of a pair when the better response is shown on side ``label``."""
    return (natural_chain if _is_natural(pair) else teacher_chain)(pair, label, seed)


def family_checks(pair: PreferencePair, text: str) -> dict[str, bool | None]:
    """What of a trace can be checked beyond its verdict; empty for pairs that are not the family's."""
    if pair.source != SOURCE or "kind" not in pair.metadata:
        return {}
    natural = _is_natural(pair)
    return {
        "solution_correct": (read_natural_solution if natural else read_solution)(text, pair),
        "true_first_rubric": (natural_true_first if natural else true_first)(text, pair),
    }


def _is_natural(pair: PreferencePair) -> bool:
    return pair.metadata.get("wording") == WORDING
