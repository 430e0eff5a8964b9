"""Stage 1: supervised fine-tuning on reasoning chains, so that the judge can write rubrics, solve and decide."""

from __future__ import annotations

import asyncio
import time

from actors.learner.group import LearnerGroup
from pipelines.cli import main
from pipelines.config import Config
from pipelines.data.order import batch_of, steps_for
from pipelines.data.sets import ChainSet, JudgingTask, distillation_set, heldout_task
from pipelines.evaluate import judge
from pipelines.session import Session
from pipelines.stage import Stage, open_stage, standalone


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
        learners.load(
            base, None, stage.optimizer_settings(config.distill.optimizer, total), config.cluster.start_timeout
        )
        first = stage.restore(learners)
        fleet, as_loaded = session.rollouts(base)
        if "before" not in session.run.summary():
            if not as_loaded:
                raise RuntimeError("the engines no longer hold the base model, so `before` cannot be judged")
            stage.record("before", asyncio.run(judge(fleet, heldout, config)), heldout)
        train(config, session, stage, learners, chains, heldout, first, total)
        learners.export(str(session.run.export_directory("distill")))
        fleet.update_weights(learners.publish(total, str(session.weights_directory)))
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
    """One optimiser step a batch of chains, from step ``first`` to ``total``."""
    settings, count = config.distill, len(chains.sequences)
    with stage.progress(total, first) as progress:
        for step in range(first, total):
            started = time.monotonic()
            items = batch_of(count, config.seed, settings.batch_size, step, settings.epochs)
            metrics = learners.supervised_step([chains.sequences[item] for item in items])
            seconds = time.monotonic() - started
            metrics |= {"tokens_per_second": metrics["tokens"] / seconds, "time/step": seconds}
            done = step + 1
            metrics["epoch"] = done * settings.batch_size / count
            if settings.evaluate_every and done % settings.evaluate_every == 0 and done < total:
                fleet, _ = session.rollouts(session.run.base_model(config))
                fleet.update_weights(learners.publish(done, str(session.weights_directory)))
                metrics |= stage.evaluation_metrics(asyncio.run(judge(fleet, heldout, config)))
            stage.log(done, metrics)
            progress.update(done, metrics)
            if done % settings.checkpoints.every == 0 or done == total:
                stage.save(learners, done, metrics.get("eval/accuracy"))


if __name__ == "__main__":
    main(standalone(distill))
