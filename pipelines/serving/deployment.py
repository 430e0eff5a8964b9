"""The judge as a Ray Serve application: replicas that take requests, and engines of a session that they share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.exceptions import RayServeException

from actors.deadlines import NamedActor
from actors.logs import redirect_output
from actors.rollout.fleet import RolloutFleet
from pipelines.config.serving import Serving
from pipelines.data.prompts import load_template
from pipelines.judgment.judging import JudgingRule, PairwiseJudge
from pipelines.judgment.modes import mode_templates, modes_of
from pipelines.serving.app import build_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service
from pipelines.stages.inputs import load_tokenizer

_NAME = "judge"


@dataclass(frozen=True, slots=True)
class Served:
    """What a replica needs to answer."""

    workers: Sequence[NamedActor]
    timeout: float
    """Seconds without a trace after which an engine counts as lost."""
    model: str
    weights: str
    template: str
    chat_template_kwargs: Mapping[str, Any]
    rule: JudgingRule
    limits: Limits
    keys: tuple[str, ...]
    log: str


class Replica:
    """One process that takes requests."""

    def __init__(self, served: Served) -> None:
        redirect_output(served.log)
        self._served = served

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve asks for when the replica has been made."""
        served = self._served
        fleet = RolloutFleet(served.workers, served.timeout)
        tokenizer = load_tokenizer(served.model, variables=served.chat_template_kwargs)
        template = load_template(served.template)
        judge = PairwiseJudge(
            *(fleet, template, tokenizer, served.model, served.weights, served.rule),
            modes=modes_of(served.model),
            templates=mode_templates(served.template),
        )
        return build_app(Service(judge, served.limits), served.keys)


def deploy(served: Served, section: Serving, grace: float) -> None:
    """Start Serve and the application on the cluster that is connected, and wait until it takes requests.

    ``grace``: seconds that running requests have when it ends.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="HeadOnly", http_options={"host": section.host, "port": section.port})
    deployment = serve.deployment(serve.ingress()(Replica)).options(
        name=_NAME,
        num_replicas=section.replicas,
        # More than are answered: a refusal must not wait for an answer.
        max_ongoing_requests=2 * section.max_in_flight + 8,
        graceful_shutdown_timeout_s=grace,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0},
    )
    serve.run(deployment.bind(served), name=_NAME, route_prefix="/")


def withdraw() -> None:
    """Take no more requests, let running ones end within their grace, and stop Serve, if it was started."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    # Stopping Serve alone would give replicas no more than half a minute.
    with contextlib.suppress(RayServeException):
        while _NAME in serve.status().applications:
            with contextlib.suppress(TimeoutError):
                serve.delete(_NAME)
    serve.shutdown()
