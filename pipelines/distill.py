"""Stage 1: supervised fine-tuning on reasoning chains, so that the judge can write rubrics, solve and decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from actors.learner.group import LearnerGroup
from pipelines.config import Config
from pipelines.data.order import batch_of, steps_for
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.heldout import judge
from pipelines.evaluation.mode_figures import record_modes
from pipelines.job.session import Session
from pipelines.job.settings import optimizer_settings
from pipelines.loop.clock import StepClock, step_metrics
from pipelines.runs.command_line import main
from pipelines.stages.inputs import ChainSet, JudgingTask, distillation_set, heldout_task
from pipelines.stages.lasting import with_learners
from pipelines.stages.stage import open_stage, standalone
from pipelines.stages.training import Training, open_training


def distill(config: Config, session: Session) -> None:
    """Run the stage: judge with the base model, train on the chains, export, judge again."""
    with open_stage(config, session.run, "distill") as stage:
        if stage.is_finished:
            return
        base = session.run.base_model(config)
        chains, heldout = distillation_set(config, session.run, base), heldout_task(config, session.run, base)
        stage.console.note(f"{chains.describe()}; held out: {heldout.describe()}")
        session.launch_rollouts(base)
        total = steps_for(len(chains.sequences), config.distill.epochs, config.distill.batch_size)
        optimizer = optimizer_settings(config.distill.optimizer, total)

        def load(learners: LearnerGroup) -> None:
            learners.load(base, None, optimizer, config.cluster.start_timeout)
            if "before" not in session.run.summary():
                stage.record("before", asyncio.run(judge(session.rollouts(base), heldout, config)), heldout)
            session.rollouts()

        def to_the_end(learners: LearnerGroup) -> None:
            with open_training(stage, learners, total) as training:
                train(config, session, training, learners, chains, heldout)
            stage.export(learners)
            session.weight_sync().publish(total)

        with_learners(session, stage, load, to_the_end)
        record_modes(stage, "distill", session.rollouts(), base)
        stage.finish("distill", asyncio.run(judge(session.rollouts(), heldout, config)), heldout)


def train(
    config: Config,
    session: Session,
    training: Training,
    learners: LearnerGroup,
    chains: ChainSet,
    heldout: JudgingTask,
) -> None:
    """One optimiser step per batch of chains, from the last checkpoint to the last step.

    The ranks are given a step while they compute the one before, so that they never wait for the driver; but where an
    evaluation or a checkpoint needs the weights after a step, the next is given only after that.
    """
    settings, count = config.distill, len(chains.sequences)

    def start(step: int) -> Callable[[], dict[str, float]]:
        items = batch_of(count, config.seed, settings.batch_size, step, settings.epochs)
        return learners.start_supervised_step([chains.sequences[item] for item in items])

    async def evaluate(done: int) -> list[JudgedComparison]:
        session.weight_sync().publish(done)
        return await judge(session.rollouts(), heldout, config)

    following: Callable[[], dict[str, float]] | None = None
    clock = StepClock()
    for step in training.steps:
        if following is None:
            clock.start()
            following = start(step)
        current, following = following, None if training.pauses_after(step + 1) else start(step + 1)
        with clock.part("learn"):
            metrics = current()
        metrics |= step_metrics(clock.end_step(), metrics["tokens"])
        metrics["epoch"] = (step + 1) * settings.batch_size / count
        asyncio.run(training.after_step(step + 1, metrics, partial(evaluate, step + 1), is_ahead=following is not None))


if __name__ == "__main__":
    main(standalone(distill, "distill"))
