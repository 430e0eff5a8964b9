"""TRL: a reward function for ``GRPOTrainer(reward_funcs=...)`` that compares the completions to each prompt.

    from launch.adapters.trl import PairwiseReward

    with Judge("http://127.0.0.1:8000") as judge:
        arguments = GRPOConfig(num_generations=8, ...)
        trainer = GRPOTrainer(model, reward_funcs=PairwiseReward(judge, size=8), args=arguments, ...)

Imports nothing of TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from actors.errors import UserError
from pipelines.judgment.judge import Judge

Prompt = str | list[dict[str, Any]]
Completion = str | list[dict[str, Any]]


class PairwiseReward:
    """Rewards in [0, 1] of a whole batch at once: each group's tournament, all groups together.

    A completion about which nothing could be read has None, which TRL leaves out; where the judge fails, the call
    raises, and training stops.
    """

    __name__ = "pairwise_judge"
    """What TRL calls it in its metrics."""

    def __init__(self, judge: Judge, size: int | None = None, budget: int = 0) -> None:
        """``size`` is TRL's ``num_generations``; without it, all completions to a prompt in a batch are one group,
        which two equal prompts in one batch would share. ``budget``: comparisons of a group, 0 for two a completion.
        """
        self._judge = judge
        self._size = size
        self._budget = budget

    async def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """As TRL calls it, with every column of the data set, of which none is read.

        Raises:
            UserError: a group is not whole in this process's batch, or the judge failed.

        """
        groups = groups_of(prompts, self._size)
        asked = [(_question(prompts[places[0]]), [_text(completions[place]) for place in places]) for places in groups]
        found = await self._judge.areward_all(asked, self._budget)
        if failed := next((group for group in found if group.failed), None):
            raise UserError(f"the judge's engine failed on a group, so it has no rewards: {dict(failed.failures)}")
        rewards: list[float | None] = [None] * len(prompts)
        for places, group in zip(groups, found, strict=True):
            for place, reward in zip(places, group.rewards, strict=True):
                rewards[place] = reward
        if log_metric is not None:
            log_metric("judge/unjudged", sum(reward is None for reward in rewards) / len(rewards))
            log_metric("judge/comparisons", float(sum(group.calls for group in found)))
        return rewards


def groups_of(prompts: Sequence[Prompt], size: int | None) -> list[list[int]]:
    """Positions of each group: equal prompts, in pieces of ``size``.

    Raises:
        UserError: a piece is short.

    """
    places: dict[Hashable, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(repr(prompt), []).append(place)
    if size is None:
        return list(places.values())
    groups = [found[start : start + size] for found in places.values() for start in range(0, len(found), size)]
    if short := next((group for group in groups if len(group) < size), None):
        raise UserError(
            f"{len(short)} of {size} completions to a prompt are in the batch of this process, and a pairwise judge "
            "needs the whole group: set per_device_train_batch_size to a multiple of num_generations, which size is"
        )
    return groups


def _question(prompt: Prompt) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": message["role"], "content": _content(message["content"])} for message in prompt]


def _text(completion: Completion) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(_content(message.get("content")) for message in completion)


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content or ""
