"""Stage 2: reinforcement learning with a verifiable reward. The whole RL step is in :func:`reinforce`.

    generate -> verify -> learn -> publish -> log -> evaluate -> save

Engines write groups of traces one after another; a step learns from the first complete ones, also while others are
written. With ``algorithm.max_staleness=0`` groups begin when the weights of the step before are published: strictly
on-policy. With ``k``, engines go on with further groups as long as each can be trained on at most ``k`` versions after
it was begun (:class:`pipelines.loop.buffer.GroupBuffer`); nothing else changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from actors.files import remove_whole
from actors.learner.group import LearnerGroup
from pipelines.config import Config
from pipelines.data.order import steps_for
from pipelines.evaluation.heldout import judge
from pipelines.evaluation.mode_figures import record_modes
from pipelines.job.session import Session
from pipelines.job.settings import optimizer_settings
from pipelines.loop.clock import StepClock, loop_metrics, step_metrics, time_shares
from pipelines.loop.generation import Generation, items_per_step
from pipelines.loop.journal import open_journal
from pipelines.loop.learning import BatchLearning, next_coefficient
from pipelines.loop.records import trace_rows
from pipelines.loop.supply import Supply
from pipelines.runs.command_line import main
from pipelines.stages.inputs import JudgingTask, heldout_task, training_task
from pipelines.stages.lasting import with_learners
from pipelines.stages.stage import Stage, open_stage, standalone
from pipelines.stages.training import open_training


def rl(config: Config, session: Session) -> None:
    """Run the stage: start the parts, continue where a checkpoint left off, reinforce, export, evaluate."""
    with open_stage(config, session.run, "rl") as stage:
        if stage.is_finished:
            return
        policy = session.run.starting_policy(config)
        task, heldout = training_task(config, session.run, policy), heldout_task(config, session.run, policy)
        stage.console.note(f"{task.describe()}; held out: {heldout.describe()}")
        session.launch_rollouts(policy)
        mini_batches = config.rl.prompts_per_step // config.rl.mini_batch_prompts

        def load(learners: LearnerGroup) -> None:
            learners.load(
                policy,
                reference_path=policy if config.algorithm.kl_coefficient else None,
                optimizer=optimizer_settings(config.rl.optimizer, total_steps(config, task) * mini_batches),
                seconds=config.cluster.start_timeout,
            )

        def to_the_end(learners: LearnerGroup) -> None:
            asyncio.run(reinforce(config, session, stage, learners, task, heldout))
            stage.export(learners)
            remove_whole(session.run.journal("rl"))

        with_learners(session, stage, load, to_the_end)
        shares = time_shares(session.run.metrics_file)
        session.run.update_summary({"time_share": shares})
        stage.console.note("time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
        record_modes(stage, "rl", session.rollouts(), policy)
        stage.finish("rl", asyncio.run(judge(session.rollouts(), heldout, config)), heldout)


def total_steps(config: Config, task: JudgingTask) -> int:
    """Rollout batches of the stage: what the epochs give, cut at ``rl.steps`` where that is set."""
    steps = steps_for(len(task.items), config.rl.epochs, items_per_step(config, task))
    return min(steps, config.rl.steps) if config.rl.steps else steps


async def reinforce(
    config: Config, session: Session, stage: Stage, learners: LearnerGroup, task: JudgingTask, heldout: JudgingTask
) -> None:
    """The RL loop, from the last checkpoint to the last step."""
    algorithm, total = replace(config.algorithm), total_steps(config, task)
    fleet = session.rollouts()
    generation, weights = Generation(config, fleet, session.verifier(), task), session.weight_sync()
    evaluate = partial(judge, fleet, heldout.first(config.rl.evaluate_pairs), config)
    with (
        open_training(stage, learners, total) as training,
        open_journal(
            session.run, "rl", training.first, training.carried.get("items"), algorithm.max_staleness
        ) as journal,
        Supply(config, generation, task, range(journal.first, total), journal.supply, journal) as supply,
    ):
        algorithm.kl_coefficient = training.carried.get("kl_coefficient", algorithm.kl_coefficient)
        # The engines get the learners' weights even before the first step: both sides start from the same checksum.
        weights.publish(training.first)
        supply.published(training.first)
        clock = StepClock()
        for step in training.steps:
            under_way = journal.steps.get(step) or supply.next_step()
            learning = BatchLearning(learners, config, algorithm, step)
            async for groups in under_way.portions(learning.early_tokens):
                await clock.thread("learn_early", learning.early, groups)
            rollout = await under_way.whole()

            batch, learned = await clock.thread("learn", learning.finish, rollout)

            pause = await clock.thread("publish", weights.publish, step + 1)

            # The engines write the next groups while this step is logged, evaluated and saved.
            supply.published(step + 1)
            times = clock.end_step()
            metrics = batch.metrics | learned | loop_metrics(times, rollout) | step_metrics(times, batch.tokens)
            metrics |= session.metrics()
            metrics |= {**supply.gauges(step), "weight_version": step + 1, "publish_pause_seconds": pause}
            algorithm.kl_coefficient = next_coefficient(algorithm, metrics)
            items = await journal.end_step(step, rollout, supply.state())
            training.carried |= {"kl_coefficient": algorithm.kl_coefficient, "items": items}
            await training.log_traces(step + 1, trace_rows("rl", step + 1, rollout.groups, task.pairs))
            await training.after_step(step + 1, metrics, evaluate)


if __name__ == "__main__":
    main(standalone(rl, "rl"))
