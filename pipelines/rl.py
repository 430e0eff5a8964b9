"""Stage 2: reinforcement learning with a verifiable reward. The whole RL step is in :func:`reinforce`.

    generate -> verify -> learn -> publish -> log -> evaluate -> save

Learners begin on the groups of a batch that are complete while the engines still write the others. Batches come through
a bounded buffer. With ``algorithm.max_staleness=0`` one begins when the weights of the step before are published:
strictly on-policy. With ``k`` there are ``k`` more under way, so a batch is trained on at most ``k`` versions after it
was begun; nothing else changes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

from actors.deadlines import NamedActor
from actors.learner.group import LearnerGroup
from actors.messages import Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.rewards import compares_traces
from pipelines.config import Config
from pipelines.data.order import batch_of, refill_of, rounds_of, steps_for
from pipelines.evaluation.heldout import judge
from pipelines.job.session import Session
from pipelines.job.settings import optimizer_settings
from pipelines.loop.batches import is_useful
from pipelines.loop.buffer import RolloutBuffer, RolloutUnderWay
from pipelines.loop.learning import BatchLearning, next_coefficient
from pipelines.loop.records import shown_texts, trace_rows
from pipelines.loop.rollouts import Arrived, RolloutBatch, collect, refilled, together
from pipelines.runs.command_line import main
from pipelines.stages.inputs import JudgingTask, heldout_task, training_task
from pipelines.stages.stage import Stage, open_stage, standalone


def rl(config: Config, session: Session) -> None:
    """Run the stage: start the parts, continue where a checkpoint left off, reinforce, export, evaluate."""
    with open_stage(config, session.run, "rl") as stage:
        if stage.is_finished:
            return
        policy = session.run.starting_policy(config)
        task, heldout = training_task(config, session.run, policy), heldout_task(config, session.run, policy)
        stage.console.note(f"{task.describe()}; held out: {heldout.describe()}")
        session.launch_rollouts(policy)
        learners = session.learners()
        mini_batches = config.rl.prompts_per_step // config.rl.mini_batch_prompts
        learners.load(
            policy,
            reference_path=policy if config.algorithm.kl_coefficient else None,
            optimizer=optimizer_settings(config.rl.optimizer, total_steps(config, task) * mini_batches),
            seconds=config.cluster.start_timeout,
        )
        asyncio.run(reinforce(config, session, stage, learners, task, heldout))


def total_steps(config: Config, task: JudgingTask) -> int:
    """Rollout batches of the stage: what the epochs give, cut at ``rl.steps`` where that is set."""
    steps = steps_for(len(task.items), config.rl.epochs, items_per_step(config, task))
    return min(steps, config.rl.steps) if config.rl.steps else steps


def items_per_step(config: Config, task: JudgingTask) -> int:
    """Items (pairs, in one order or in both) of a rollout batch."""
    return config.rl.prompts_per_step // task.prompts_per_item


async def reinforce(
    config: Config,
    session: Session,
    stage: Stage,
    learners: LearnerGroup,
    task: JudgingTask,
    heldout: JudgingTask,
) -> None:
    """The RL loop."""
    algorithm = replace(config.algorithm)
    total = total_steps(config, task)
    first = stage.restore(learners)
    algorithm.kl_coefficient = stage.carried.get("kl_coefficient", algorithm.kl_coefficient)
    fleet, verifier = session.rollouts(), session.verifier()
    # The engines get the learners' weights even before the first step: both sides start from the same checksum.
    weights = session.weight_sync()
    weights.publish(first)

    def begin(step: int) -> RolloutUnderWay:
        return RolloutUnderWay(lambda arrived: rollout_batch(config, fleet, verifier, task, step, arrived))

    buffer = RolloutBuffer(begin, first, total, algorithm.max_staleness)
    try:
        with stage.progress(total, first) as progress:
            started = time.monotonic()
            buffer.published(first)
            for step in range(first, total):
                under_way, learning = buffer.take(), BatchLearning(learners, config, algorithm, step)
                early = 0.0
                if learning.early_work != "nothing":
                    async for groups in under_way.portions(learners.full_round):
                        begun = time.monotonic()
                        await asyncio.to_thread(learning.early, groups)
                        early += time.monotonic() - begun
                rollout = await under_way.whole()
                ready = time.monotonic()

                batch, learned = await asyncio.to_thread(learning.finish, rollout)
                taught = time.monotonic()

                pause = await asyncio.to_thread(weights.publish, step + 1)
                published = time.monotonic()

                # The engines write the next batch while this step is logged, evaluated and saved.
                buffer.published(step + 1)
                metrics = batch.metrics | learned | {"weight_version": step + 1, "publish_pause_seconds": pause}
                metrics |= {"kl_coefficient": algorithm.kl_coefficient, "refill_rounds": float(rollout.refills)}
                metrics |= _times(rollout, started, ready, taught, published, early, batch.tokens)
                stage.carried["kl_coefficient"] = algorithm.kl_coefficient = next_coefficient(algorithm, metrics)
                started, done = published, step + 1
                await asyncio.to_thread(stage.log_traces, done, trace_rows("rl", done, rollout.groups, task.pairs))
                if config.rl.evaluate_every and done % config.rl.evaluate_every == 0 and done < total:
                    part = heldout.first(config.rl.evaluate_pairs)
                    metrics |= stage.evaluation_metrics(await judge(fleet, part, config))
                    metrics["time/evaluate"] = time.monotonic() - published
                stage.log(done, metrics)
                progress.update(done, metrics)
                if done % config.rl.checkpoints.every == 0 or done == total:
                    await asyncio.to_thread(stage.save, learners, done, metrics.get("eval/accuracy"))
    finally:
        for batch_ahead in buffer:
            batch_ahead.cancel()

    learners.export(str(session.run.export_directory("rl")))
    shares = time_shares(session.run.metrics_file)
    session.run.update_summary({"time_share": shares})
    stage.console.note("time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    stage.finish("rl", await judge(fleet, heldout, config), heldout)


async def rollout_batch(
    config: Config,
    fleet: RolloutFleet,
    verifier: NamedActor,
    task: JudgingTask,
    step: int,
    arrived: Arrived | None = None,
) -> RolloutBatch:
    """The prompts of a step as scored groups; with `refill`, further ones in the place of groups of equal rewards.

    ``arrived`` is told of the step's own prompts as they are complete, not of those generated in the place of others,
    of which some may be too many.
    """
    algorithm, per_step = config.algorithm, items_per_step(config, task)
    sampling = Sampling(algorithm.samples, algorithm.temperature, algorithm.top_p, config.model.max_response_tokens)
    items = batch_of(len(task.items), config.seed, per_step, step, config.rl.epochs)
    functions = config.verifier.functions.values()
    comparing = compares_traces(algorithm.reward) or any(function.sees == "group" for function in functions)

    async def generate(number: int, missing: int) -> RolloutBatch:
        drawn = items
        if number:
            count = -(-missing // task.prompts_per_item)
            drawn = refill_of(len(task.items), config.seed, count, step, number, exclude=items)
        timeout, told = config.cluster.step_timeout, None if number else arrived
        collections = []
        for distinct in rounds_of(drawn):
            prompts = task.prompts(distinct)
            texts = shown_texts(prompts, task.pairs) if functions else None
            collections.append(collect(fleet, verifier, prompts, sampling, timeout, texts, comparing, told))
        return await together(collections)

    if algorithm.equal_reward_groups != "refill":
        return await generate(0, 0)
    return await refilled(generate, is_useful, len(items) * task.prompts_per_item, algorithm.refill_rounds)


def _times(
    rollout: RolloutBatch, started: float, ready: float, taught: float, published: float, early: float, tokens: int
) -> dict[str, float]:
    """Where the loop's time went, in seconds; ``time/wait`` is what no part accounts for."""
    blocked = ready - started - early
    generate = min(rollout.generate_seconds, blocked)
    verify = min(rollout.verify_seconds, blocked - generate)
    return {
        "time/generate": generate,
        "time/verify": verify,
        "time/wait": blocked - generate - verify,
        "time/learn": early + taught - ready,
        "time/learn_early": early,
        "time/publish": published - taught,
        "time/step": published - started,
        "time/engine_busy": rollout.generate_seconds,
        "tokens_per_second": tokens / (published - started),
    }


def time_shares(metrics_file: Path) -> dict[str, float]:
    """Share of the loop's time in each of its parts over the whole stage, earlier interrupted runs included."""
    parts = ("generate", "verify", "learn", "publish", "wait")
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    totals = {part: sum(line["metrics"][f"time/{part}"] for line in lines if line["stage"] == "rl") for part in parts}
    return {part: seconds / sum(totals.values()) for part, seconds in totals.items()}


if __name__ == "__main__":
    main(standalone(rl))
