"""Run a pipeline through Ray's job server: send the code, follow the log, exit with the job's status.

    python -m launch.submit --pipeline run --address http://127.0.0.1:8265 -- recipe=tiny run=tiny

Exit status: 0 when the job succeeded, 1 when it failed or was stopped or could not be submitted, 2 for a wrong command
line, 130 when Ctrl-C left it running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from actors.errors import UserError
from actors.redaction import redact
from launch.entrypoint import entrypoint
from pipelines.config.overrides import arguments_of
from pipelines.runs.catalogue import STAGES
from pipelines.runs.command_line import tell

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent
PIPELINES = (*(record.name for record in STAGES.values() if record.submitted), "run")

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE")
"""Variables of the submitting shell that the job gets. Whoever may see the cluster's dashboard can read them there."""

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_LOST_CONTACT_SECONDS = 180.0

Answer = Literal["stop", "detach", "follow"]


class SubmitError(UserError, RuntimeError):
    """The job could not be submitted or followed; says why and what to do."""


def dashboard_address(address: str) -> str:
    """The job server's URL; ``http://`` is assumed where no scheme is given.

    Raises:
        SubmitError: it is not the address of a job server.

    """
    url = address.strip().rstrip("/")
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    with contextlib.suppress(ValueError):
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port or parts.scheme == "https"):
            return url
    raise SubmitError(
        f"ADDRESS={address!r} is not a job server's: give the URL of the cluster's dashboard, "
        "for example ADDRESS=http://127.0.0.1:8265"
    )


def runtime_env(root: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """``launch/runtime_env.yaml`` with ``root`` as the working directory and the variables of :data:`PASSED_ON`."""
    file = root / "launch" / "runtime_env.yaml"
    settings = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))
    passed = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    return settings | {"working_dir": str(root), "env_vars": settings["env_vars"] | passed}


def token_source(environment: Mapping[str, str], home: Path) -> str | None:
    """Where Ray would find the cluster's token: the name of a variable or a file; None where there is none."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if environment.get(name):
            return name
    file = home / ".ray" / "auth_token"
    return str(file) if file.is_file() else None


def authentication_mode(environment: Mapping[str, str], home: Path) -> str:
    """``RAY_AUTH_MODE`` as set; otherwise ``token`` where a token is there: a cluster that wants none ignores it."""
    return environment.get("RAY_AUTH_MODE") or ("token" if token_source(environment, home) else "disabled")


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at ``address``, with this user's token.

    Raises:
        SubmitError: nobody answers there, it is not a Ray job server, or it refuses the token.

    """
    parts = urlsplit(address)
    port = parts.port or 443
    try:
        socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise SubmitError(
            f"no job server answers at {address} ({error}): start a cluster with `ray start --head`, "
            "or give the URL of its dashboard with ADDRESS=..."
        ) from error
    # Read by Ray when it is imported.
    os.environ["RAY_AUTH_MODE"] = authentication_mode(os.environ, Path.home())
    from ray.job_submission import JobSubmissionClient

    with explained(address):
        return JobSubmissionClient(address)


@contextlib.contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into a :class:`SubmitError` with the remedy."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        source = token_source(os.environ, Path.home())
        found = f"the token from {source} was refused" if source else "no token was found here"
        raise SubmitError(
            f"the cluster at {address} wants a token, and {found}. Put the cluster's token (`ray get-auth-token` on "
            "its head node) into ~/.ray/auth_token or RAY_AUTH_TOKEN, and do not set RAY_AUTH_MODE=disabled"
        ) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise SubmitError(f"the job server at {address} does not answer as one ({_first_line(error)})") from error
    except (RuntimeError, ValueError) as error:
        raise SubmitError(f"the job server at {address} refused: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:500] if text else ''}"


def watch(client: JobSubmissionClient, job: str, out: TextIO, ask: Callable[[], Answer]) -> JobStatus | None:
    """Write a job's log to ``out`` until it ends and return its status; None when the user leaves it running.

    ``ask`` is called on Ctrl-C; a second one while the job is being stopped leaves it to itself.

    Raises:
        SubmitError: the cluster has not answered for a while.

    """
    from aiohttp import ClientError

    shown, stopping, stop_sent = [0], False, False
    answered = time.monotonic()
    while True:
        try:
            try:
                if stopping and not stop_sent:
                    stop_sent = client.stop_job(job) or client.get_job_status(job).is_terminal()
                ended = asyncio.run(_follow(client, job, out, shown))
                status = client.get_job_status(job)
                answered = time.monotonic()
                if ended and status.is_terminal():
                    return status
            except (ClientError, RuntimeError, OSError) as error:
                if time.monotonic() - answered > _LOST_CONTACT_SECONDS:
                    raise SubmitError(
                        f"no contact with the cluster ({_first_line(error)}), so job {job} may still be running"
                    ) from error
            time.sleep(0.5)
        except KeyboardInterrupt:
            answer = "detach" if stopping else ask()
            if answer == "detach":
                return None
            stopping = answer == "stop"
            answered = time.monotonic()


async def _follow(client: JobSubmissionClient, job: str, out: TextIO, shown: list[int]) -> bool:
    """Write the log beyond the first ``shown[0]`` characters, counting on; whether the server came to its end.

    The server always begins at the log's start. A silent connection is given up: it may be a dead one.
    """
    seen = 0
    chunks = client.tail_job_logs(job)
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), _SILENCE_SECONDS)
        except StopAsyncIteration:
            return True
        except TimeoutError:
            return False
        seen += len(chunk)
        fresh = seen - shown[0]
        if fresh > 0:
            shown[0] = seen
            out.write(chunk[-fresh:])
            out.flush()


def ask_user() -> Answer:
    """What Ctrl-C means: stop the job, leave it running, or go on watching. Without a terminal: leave it running."""
    if not sys.stdin.isatty():
        return "detach"
    while True:
        try:
            reply = input("\nThe job is still running. [s]top it, [d]etach and leave it running, [w]atch on? ")
        except (KeyboardInterrupt, EOFError):
            return "detach"
        answers: dict[str, Answer] = {"s": "stop", "d": "detach", "w": "follow"}
        if reply.strip()[:1].lower() in answers:
            return answers[reply.strip()[:1].lower()]


def submit(pipeline: str, address: str, overrides: Sequence[str], python: str | None) -> int:
    """Submit, follow, and return the exit status."""
    address = dashboard_address(address)
    client = connect(address)
    command = entrypoint(pipeline, overrides, python, ROOT, Path.cwd())
    with explained(address):
        job = _submitted(client, command)
    by_hand = f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} ray job {{}} --address {address} {job}"
    _say(f"job {job} at {address}, on the head node: {command}")
    try:
        status = watch(client, job, sys.stdout, ask_user)
    except SubmitError as error:
        raise SubmitError(f"{error}. See `{by_hand.format('status')}`") from error
    if status is None:
        logs, stop = by_hand.format("logs --follow"), by_hand.format("stop")
        _say(f"job {job} is left running. To read on: `{logs}`; to stop it: `{stop}`")
        return 130
    if status == "SUCCEEDED":
        return 0
    with explained(address):
        message = client.get_job_info(job).message or ""
    # The end of the log, which Ray repeats in its message, is on the screen already.
    reason = message.partition(", last available logs")[0].strip()
    _say(f"job {job} {status.value.lower()}: {reason[-2000:]}")
    return 1


def _submitted(client: JobSubmissionClient, command: str, seconds: float = 60.0) -> str:
    """The job's id. A cluster that has just started answers before its nodes can take jobs: that is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return client.submit_job(entrypoint=command, runtime_env=runtime_env(ROOT, os.environ))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _say(text: str) -> None:
    sys.stderr.write(f"{redact(text)}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m launch.submit", description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", choices=PIPELINES, default="run")
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="URL of the cluster's dashboard")
    parser.add_argument("--python", help="interpreter on the cluster; default: this one on this machine, else `python`")
    parser.add_argument("overrides", nargs="*", help="settings as key=value, after `--`")
    options = parser.parse_args(arguments)
    try:
        return submit(options.pipeline, options.address, arguments_of(options.overrides), options.python)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return tell(error)


if __name__ == "__main__":
    # Ray's client reports every file it packs; what matters is the job's own log.
    logging.disable(logging.INFO)
    sys.exit(main())
