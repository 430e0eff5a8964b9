"""Stage 1: supervised fine-tuning on reasoning chains, so that the judge can write rubrics, solve and decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from actors.learner.group import LearnerGroup
from pipelines.config import Config
from pipelines.data.order import batch_of, steps_for
from pipelines.evaluation.heldout import judge
from pipelines.job.session import Session
from pipelines.job.settings import optimizer_settings
from pipelines.runs.command_line import main
from pipelines.stages.inputs import ChainSet, JudgingTask, distillation_set, heldout_task
from pipelines.stages.stage import Stage, open_stage, standalone


def distill(config: Config, session: Session) -> None:
    """Run the stage: judge with the base model, train on the chains, export, judge again."""
    with open_stage(config, session.run, "distill") as stage:
        if stage.is_finished:
            return
        base = session.run.base_model(config)
        chains, heldout = distillation_set(config, session.run, base), heldout_task(config, session.run, base)
        stage.console.note(f"{chains.describe()}; held out: {heldout.describe()}")
        session.launch_rollouts(base)
        learners = session.learners()
        total = steps_for(len(chains.sequences), config.distill.epochs, config.distill.batch_size)
        learners.load(base, None, optimizer_settings(config.distill.optimizer, total), config.cluster.start_timeout)
        first = stage.restore(learners)
        fleet = session.rollouts(base)
        if "before" not in session.run.summary():
            stage.record("before", asyncio.run(judge(fleet, heldout, config)), heldout)
        train(config, session, stage, learners, chains, heldout, first, total)
        learners.export(str(session.run.export_directory("distill")))
        session.weight_sync().publish(total)
        stage.finish("distill", asyncio.run(judge(fleet, heldout, config)), heldout)


def train(
    config: Config,
    session: Session,
    stage: Stage,
    learners: LearnerGroup,
    chains: ChainSet,
    heldout: JudgingTask,
    first: int,
    total: int,
) -> None:
    """One optimiser step a batch of chains, from step ``first`` to ``total``.

    The ranks are given a step while they compute the one before, so that they never wait for the driver; but none
    before an evaluation or a checkpoint is through.
    """
    settings, count = config.distill, len(chains.sequences)

    def start(step: int) -> Callable[[], dict[str, float]]:
        items = batch_of(count, config.seed, settings.batch_size, step, settings.epochs)
        return learners.start_supervised_step([chains.sequences[item] for item in items])

    def evaluates(done: int) -> bool:
        return bool(settings.evaluate_every) and done % settings.evaluate_every == 0 and done < total

    def saves(done: int) -> bool:
        return done % settings.checkpoints.every == 0 or done == total

    following: Callable[[], dict[str, float]] | None = None
    with stage.progress(total, first) as progress:
        for step in range(first, total):
            done = step + 1
            if following is None:
                started, following = time.monotonic(), start(step)
            current, following = following, None if evaluates(done) or saves(done) else start(done)
            metrics = current()
            finished = time.monotonic()
            metrics |= {"tokens_per_second": metrics["tokens"] / (finished - started), "time/step": finished - started}
            metrics["epoch"] = done * settings.batch_size / count
            started = finished
            if evaluates(done):
                session.weight_sync().publish(done)
                metrics |= stage.evaluation_metrics(asyncio.run(judge(session.rollouts(), heldout, config)))
            stage.log(done, metrics)
            progress.update(done, metrics)
            if saves(done):
                stage.save(learners, done, metrics.get("eval/accuracy"))


if __name__ == "__main__":
    main(standalone(distill))
