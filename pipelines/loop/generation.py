"""Generate and verify: the rollout batch of any step, from the stage's configuration, engines, verifier and prompts."""

from __future__ import annotations

from actors.deadlines import NamedActor
from actors.messages import Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.rewards import compares_traces
from pipelines.config import Config
from pipelines.data.order import batch_of, refill_of, rounds_of
from pipelines.loop.batches import is_useful
from pipelines.loop.buffer import RolloutUnderWay
from pipelines.loop.records import shown_texts
from pipelines.loop.rollouts import Arrived, RolloutBatch, collect, refilled, together
from pipelines.stages.inputs import JudgingTask


def items_per_step(config: Config, task: JudgingTask) -> int:
    """Items (pairs, in one order or in both) of a rollout batch."""
    return config.rl.prompts_per_step // task.prompts_per_item


class Generation:
    """Begins rollout batches. What they have in common is given once; a batch is a function of its step."""

    def __init__(self, config: Config, fleet: RolloutFleet, verifier: NamedActor, task: JudgingTask) -> None:
        algorithm = config.algorithm
        self._config = config
        self._fleet = fleet
        self._verifier = verifier
        self._task = task
        self._sampling = Sampling(
            algorithm.samples, algorithm.temperature, algorithm.top_p, config.model.max_response_tokens
        )
        functions = config.verifier.functions.values()
        self._shows_texts = bool(functions)
        self._compares = compares_traces(algorithm.reward) or any(function.sees == "group" for function in functions)

    def begin(self, step: int) -> RolloutUnderWay:
        """Begin the batch of a step and return at once."""
        return RolloutUnderWay(lambda arrived: self.batch(step, arrived))

    async def batch(self, step: int, arrived: Arrived | None = None) -> RolloutBatch:
        """The step's prompts as scored groups; with `refill`, more in the place of groups of equal rewards.

        ``arrived`` is called for the step's own groups, not for refills, which may exceed what is wanted.
        """
        config, count = self._config, len(self._task.items)
        items = batch_of(count, config.seed, items_per_step(config, self._task), step, config.rl.epochs)
        if config.algorithm.equal_reward_groups != "refill":
            return await self._of(items, arrived)

        async def round_of(number: int, missing: int) -> RolloutBatch:
            if number == 0:
                return await self._of(items, arrived)
            wanted = -(-missing // self._task.prompts_per_item)
            return await self._of(refill_of(count, config.seed, wanted, step, number, exclude=items))

        prompts = len(items) * self._task.prompts_per_item
        return await refilled(round_of, is_useful, prompts, config.algorithm.refill_rounds)

    async def _of(self, items: list[int], arrived: Arrived | None = None) -> RolloutBatch:
        """Scored groups of these items, which may have repeats."""
        timeout, task = self._config.cluster.step_timeout, self._task
        collections = []
        for distinct in rounds_of(items):
            prompts = task.prompts(distinct)
            texts = shown_texts(prompts, task.pairs) if self._shows_texts else None
            collections.append(
                collect(self._fleet, self._verifier, prompts, self._sampling, timeout, texts, self._compares, arrived)
            )
        return await together(collections)
