"""The judge as a Ray Serve application: replicas that take requests, and engines of a session that they share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.deadlines import NamedActor
from actors.logs import redirect_output
from actors.rollout.fleet import RolloutFleet
from pipelines.config import Config
from pipelines.data.prompts import load_template
from pipelines.judgment.judging import JudgingRule
from pipelines.serving.app import build_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service
from pipelines.stages.inputs import load_tokenizer


@dataclass(frozen=True, slots=True)
class Served:
    """What a replica needs to answer."""

    workers: Sequence[NamedActor]
    timeout: float
    """Seconds without a trace after which an engine counts as lost."""
    model: str
    weights: str
    template: str
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
        tokenizer = load_tokenizer(served.model)
        template = load_template(served.template)
        service = Service(fleet, template, tokenizer, served.model, served.weights, served.rule, served.limits)
        return build_app(service, served.keys)


def deploy(served: Served, config: Config) -> None:
    """Start Serve and the application on the cluster that is connected, and wait until it takes requests."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    section = config.serve
    serve.start(proxy_location="HeadOnly", http_options={"host": section.host, "port": section.port})
    deployment = serve.deployment(serve.ingress()(Replica)).options(
        name="judge",
        num_replicas=section.replicas,
        # More than are answered: a refusal must not wait for an answer.
        max_ongoing_requests=2 * section.max_in_flight + 8,
        ray_actor_options={"num_cpus": 0},
    )
    serve.run(deployment.bind(served), name="judge", route_prefix="/")


def withdraw() -> None:
    """Let running requests end, and stop Serve, if it was started."""
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
