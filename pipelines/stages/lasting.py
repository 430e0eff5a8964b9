"""Training that outlives its learners: where a rank dies, all come back from copies of their state or a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from actors.deadlines import ActorFailed, settled
from actors.learner.group import LearnerGroup
from actors.learner.lasting import rank_died
from actors.restarts import Fault
from pipelines.job.session import Session
from pipelines.stages.stage import Stage

Work = Callable[[LearnerGroup], None]


def with_learners(session: Session, stage: Stage, load: Work, train: Work) -> None:
    """Load a model into the learners and train it to the end, with others in their place where they die.

    Where there are copies of the ranks' state, ``train`` notices nothing of it (:mod:`actors.learner.lasting`). Else it
    begins again at the stage's last checkpoint, as it does when a stage is continued: the steps since then are made
    again, and their numbers replaced. Engines and verifier go on as they are.

    Raises:
        RestartsExhausted: learners died too often, or three times in one step, which is named.
        ActorFailed: something else failed.

    """
    deaths: Counter[int] = Counter()

    def notice(failed: ActorFailed, then: str) -> Fault:
        assert failed.actor is not None
        session.learner_lost(failed.actor, failed)
        step = session.run.last_step(stage.name) + 1
        deaths[step] += 1
        where = f"step {step} of {stage.name}"
        return session.faults.noticed("learner", failed.actor.name, failed.why, then, deaths[step], where, failed.node)

    fault: Fault | None = None
    learners: LearnerGroup | None = None
    while True:
        try:
            learners = session.learners()
            learners.ranks.notice = notice
            load(learners)
            if fault is not None:
                session.faults.back(fault, ", with the model loaded")
                fault = None
            train(learners)
            return
        except ActorFailed as failed:
            if not rank_died(failed):
                raise
            lacking = f", {learners.ranks.lacking}" if learners is not None and learners.ranks.lacking else ""
            fault = notice(settled(failed), f"all ranks are restarted and go on from the last checkpoint{lacking}")
            session.end_dead_learners()
