"""The judge as a Ray Serve application: replicas that take requests, each with an engine of its own.

What keeps it alive is Ray Serve's: a replica that ends, or whose engine does, is replaced; its engine ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.serve.exceptions import RayServeException

from actors.collector import collect_seldom
from actors.deadlines import ActorFailed, DeadlineExceeded, NamedActor, wait
from actors.errors import UserError
from actors.logs import redirect_output
from actors.placement import reserve
from actors.rollout.fleet import RolloutFleet
from actors.rollout.settings import EngineSettings
from actors.rollout.worker import RolloutWorker
from pipelines.config import Config
from pipelines.data.prompts import load_template
from pipelines.data.tokenizer import load_tokenizer
from pipelines.job.settings import actors_environment, engine_settings, replica_role
from pipelines.judgment.judging import EngineJudge, JudgingRule
from pipelines.judgment.modes import mode_templates, modes_of
from pipelines.serving import proxy
from pipelines.serving.app import build_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service

_NAME = "judge"
# Of a sick replica three checks fail before Ray Serve replaces it.
_CHECK_SECONDS = 2.0
# Of Ray Serve's part of a request, for applications that never block: a loop less to hand it to, in the proxy and in
# replicas; and a controller that looks after them twice a second instead of ten times.
_SERVE = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
# The proxy and replicas refuse what is too much, at once. Where Ray Serve keeps requests back, its router offers them
# to full replicas again and again, and long after a rush it still hands over no more than two at a time.
_NO_LIMIT = 1_000_000
_ANSWER_SECONDS = 30.0
"""What a healthy replica needs at most to answer a check, and an engine to end."""


class NotServed(UserError, RuntimeError):
    """Replicas could not be started; says why, and which log has more."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a replica needs to answer."""

    engine: EngineSettings
    takes: dict[str, float]
    """Ray's resources of one engine."""
    environment: dict[str, str]
    """Of the engine's process."""
    start_timeout: float
    """Seconds for an engine to start."""
    timeout: float
    """Seconds without a trace after which an engine counts as lost."""
    weights: str
    template: str
    chat_template_kwargs: Mapping[str, Any]
    rule: JudgingRule
    limits: Limits
    keys: tuple[str, ...]
    logs: str
    """Folder of their logs."""

    @property
    def counted(self) -> str:
        """Folder of the metrics of all of them, and of the proxy."""
        return f"{self.logs}/metrics"


class Replica:
    """One process that takes requests, and its engine."""

    def __init__(self, served: Served) -> None:
        import ray
        from ray import serve

        rank = serve.get_replica_context().rank.rank
        redirect_output(f"{served.logs}/serve-{rank}.log")
        collect_seldom()
        log = f"{served.logs}/rollout-{rank}.log"
        # Ends with this process, which owns it, and lies in its placement group.
        actor = ray.remote(RolloutWorker).options(
            num_cpus=served.takes.get("CPU", 0),
            num_gpus=served.takes.get("GPU", 0),
            max_restarts=0,
            max_concurrency=1000,
            runtime_env={"env_vars": served.environment},
        )
        self._served, self._rank = served, rank
        self._worker = NamedActor(actor.remote(served.engine, log), f"the engine of replica {rank}", log)
        self._fleet = RolloutFleet([self._worker], served.timeout)
        self._fleet.start(0, served.start_timeout)

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve asks for when the replica has been made."""
        served, model = self._served, self._served.engine.model
        tokenizer = load_tokenizer(model, variables=served.chat_template_kwargs)
        judge = EngineJudge(
            *(self._fleet, load_template(served.template), tokenizer, model, served.weights, served.rule),
            modes=modes_of(model),
            templates=mode_templates(served.template),
        )
        return build_app(Service(judge, served.limits), served.keys, self._rank, served.counted)

    async def check_health(self) -> None:
        """What Ray Serve asks now and then.

        Raises:
            DeadlineExceeded, ActorFailed: the engine does not live, and so the replica is of no use.

        """
        await self._fleet.unfinished()

    async def __del__(self) -> None:
        """What Ray Serve calls last: let the engine end its processes."""
        with contextlib.suppress(ActorFailed, DeadlineExceeded):
            await wait(self._worker.handle.stop.remote(), _ANSWER_SECONDS, "the engine to stop", self._worker)


def deploy(config: Config, served: Served, grace: float) -> None:
    """Start Serve and the application on the cluster that is connected, and wait until it takes requests.

    ``grace``: seconds that running requests have when it ends.

    Raises:
        ClusterTooSmall: the cluster has no room for all replicas.
        NotServed: they do not start.

    """
    from ray import serve

    section, role = config.serve, replica_role(config)
    shutil.rmtree(served.counted, ignore_errors=True)  # Of the server before this one.
    # Serve itself would wait for room without an end.
    reserve([role], config.cluster.ready_timeout).release()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        # What waits for a replica, which may just start anew, besides what is answered.
        http_options={
            "host": section.host,
            "port": section.port,
            "request_timeout_s": section.deadline + config.cluster.start_timeout,
        },
        # The proxy is a child of the controller and has its environment.
        controller_options={
            "runtime_env": {
                "env_vars": _SERVE | proxy.environment(section.replicas * section.max_in_flight, served.counted)
            }
        },
    )
    deployment = serve.deployment(serve.ingress()(Replica)).options(
        name=_NAME,
        num_replicas=section.replicas,
        max_ongoing_requests=_NO_LIMIT,
        graceful_shutdown_timeout_s=grace,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=_CHECK_SECONDS,
        health_check_timeout_s=_ANSWER_SECONDS,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": actors_environment() | _SERVE}},
        placement_group_bundles=[role.resources or {"CPU": 0.001}],
    )
    target = serve.RunTarget(deployment.bind(served), name=_NAME, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)


def await_replicas(seconds: float, logs: str) -> None:
    """Return when all replicas take requests.

    Raises:
        NotServed: one does not start, or not within ``seconds``.

    """
    from ray import serve

    deadline = time.monotonic() + seconds
    while True:
        found = serve.status().applications[_NAME]
        if found.status == "RUNNING":
            return
        if found.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            message = found.deployments[_NAME].message if found.deployments else found.message
            raise NotServed(f"a replica did not start: {_cause(message)}; its logs are in {logs}")
        # Their own words come first.
        if time.monotonic() > deadline + _ANSWER_SECONDS:
            raise NotServed(f"waited {seconds:g} s for {_NAME} to take requests; its logs are in {logs}")
        time.sleep(0.2)


def _cause(message: str) -> str:
    """The last line of what Serve says of a failure, which ends with a traceback."""
    return [line.strip() for line in message.splitlines() if line.strip()][-1]


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
    _end_serve()


def _end_serve() -> None:
    """As ``serve.shutdown``, which waits by a call that the controller never answers: it ends itself. With Serve's
    endless retries, Ray prints of that call that it failed and will be tried again; this one has none."""
    import ray
    from ray.exceptions import RayActorError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return
    # One that needs longer goes on with it; in a cluster of our own it ends with that.
    with contextlib.suppress(RayActorError, TimeoutError):
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_ANSWER_SECONDS)


def served_of(config: Config, model: str, weights: str, rule: JudgingRule, keys: tuple[str, ...], logs: str) -> Served:
    """What replicas are told."""
    section = config.serve
    return Served(
        engine=engine_settings(config, model, 0),
        takes=replica_role(config).resources,
        environment=actors_environment(config.rollout.threads),
        start_timeout=config.cluster.start_timeout,
        timeout=config.cluster.step_timeout,
        weights=weights,
        template=config.model.prompt,
        chat_template_kwargs=config.model.chat_template_kwargs,
        rule=rule,
        limits=Limits(
            section.max_in_flight,
            int(section.max_body_mib * 2**20),
            section.max_votes,
            section.max_responses,
            section.deadline,
        ),
        keys=keys,
        logs=logs,
    )
