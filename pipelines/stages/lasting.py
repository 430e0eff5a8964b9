"""Training that outlives its learners: where a rank dies, all are started again and go on from the last checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from actors.deadlines import ActorFailed
from actors.learner.group import LearnerGroup
from actors.restarts import Fault
from pipelines.job.session import Session
from pipelines.stages.stage import Stage

Work = Callable[[LearnerGroup], None]


def with_learners(session: Session, stage: Stage, load: Work, train: Work) -> None:
    """Load a model into the learners and train it to the end, with others in their place where they die.

    ``train`` begins at the stage's last checkpoint, as it does when a stage is continued: the steps since then are made
    again, and their numbers replaced. Engines and verifier go on as they are.

    Raises:
        RestartsExhausted: learners died too often, or three times in one step, which is named.
        ActorFailed: something else failed.

    """
    deaths: Counter[int] = Counter()
    fault: Fault | None = None
    while True:
        try:
            learners = session.learners()
            load(learners)
            if fault is not None:
                session.faults.back(fault, ", with the model loaded")
                fault = None
            train(learners)
            return
        except ActorFailed as failed:
            if failed.kind != "learner" or failed.actor is None:
                raise
            step = session.run.last_step(stage.name) + 1
            deaths[step] += 1
            why = str(failed).partition(f"{failed.actor} ")[2]
            fault = session.faults.noticed(
                *("learner", failed.actor.name, why, "all ranks are restarted and go on from the last checkpoint"),
                times=deaths[step],
                where=f"step {step} of {stage.name}",
            )
            session.end_dead_learners()
