"""Generate and verify items, given the stage's configuration, engines, verifier and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.deadlines import NamedActor
from actors.messages import Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.rewards import compares_traces
from pipelines.config import Config
from pipelines.data.order import refill_of
from pipelines.loop.batches import is_useful
from pipelines.loop.portions import PortionedFleet
from pipelines.loop.records import shown_texts
from pipelines.loop.rollouts import RolloutBatch, ScoredItem, collect, refilled
from pipelines.stages.inputs import JudgingTask


def items_per_step(config: Config, task: JudgingTask) -> int:
    """Items (pairs, in one order or in both) of a step."""
    return config.rl.prompts_per_step // task.prompts_per_item


class Generation:
    """Writes and scores items of the task. What they have in common is given once."""

    def __init__(self, config: Config, fleet: RolloutFleet, verifier: NamedActor, task: JudgingTask) -> None:
        algorithm = config.algorithm
        self._config = config
        budget = config.rollout.budget_tokens
        self._fleet = fleet
        self._portioned = PortionedFleet(fleet, budget, lambda traces: self.released(traces)) if budget else None
        self.released: Callable[[int], None] = lambda traces: None
        """Called with how many traces of :meth:`write` have left engines for now; negative, when they go on."""
        self._verifier = verifier
        self._task = task
        self._sampling = Sampling(
            algorithm.samples, algorithm.temperature, algorithm.top_p, config.model.max_response_tokens
        )
        functions = config.verifier.functions.values()
        self._shows_texts = bool(functions)
        self._compares = (
            compares_traces(algorithm.reward)
            or any(function.sees == "group" for function in functions)
            or config.data.modes.pointwise > 0
        )

    def go_on(self, traces: int | None = None) -> None:
        """Let so many of the traces that have left engines go on; None: all of them."""
        if self._portioned is not None:
            self._portioned.go_on(traces)

    async def write(
        self,
        items: Sequence[int],
        arrived: Callable[[int, ScoredItem], None],
        written: Callable[[int], None] = lambda traces: None,
        *,
        at_once: bool = False,
    ) -> None:
        """Write and score these items of the task, each of them once; see :func:`pipelines.loop.rollouts.collect`.

        ``at_once`` writes traces to their ends, also where ``rollout.budget_tokens`` has them make room for others.
        """
        fleet = self._fleet if self._portioned is None or at_once else self._portioned
        await collect(
            fleet.generate,
            self._verifier,
            [self._task.items[item] for item in items],
            self._sampling,
            arrived=arrived,
            written=written,
            timeout=self._config.cluster.step_timeout,
            shown=shown_texts(self._task.prompts(items), self._task.pairs) if self._shows_texts else None,
            comparing=self._compares,
        )

    async def refill(self, batch: RolloutBatch, step: int, items: Sequence[int]) -> RolloutBatch:
        """The batch of a step, made of ``items``; with `refill`, more in the place of groups of equal rewards."""
        if self._config.algorithm.equal_reward_groups != "refill":
            return batch

        async def round_of(number: int, missing: int) -> RolloutBatch:
            found: dict[int, ScoredItem] = {}
            wanted = -(-missing // self._task.prompts_per_item)
            others = refill_of(len(self._task.items), self._config.seed, wanted, step, number, exclude=items)
            # A step waits for its refills.
            await self.write(others, found.__setitem__, at_once=True)
            return RolloutBatch.of([found[index] for index in range(len(others))])

        wanted = len(items) * self._task.prompts_per_item
        return await refilled(batch, round_of, is_useful, wanted, self._config.algorithm.refill_rounds)
