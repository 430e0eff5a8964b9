"""Reward others' training with a served judge: gather the responses of a group from clients that send them one by one.

    python -m pipelines.reward [reward.judge=http://127.0.0.1:8000] [reward.port=8001] [reward.group_size=8]

A pairwise judge needs the group; trainers ask response by response, from many processes. Starts no engine: the judge is
a server of `make serve`. Runs until a signal ends it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, cast

import uvicorn

from actors.redaction import read_key
from pipelines.config import Config, ConfigError
from pipelines.data.tokenizer import load_tokenizer
from pipelines.judgment.judge import Judge
from pipelines.judgment.over_http import is_address
from pipelines.judgment.rewards import Rewards
from pipelines.reporting.console import Console
from pipelines.rewarding.app import Taken, build_app
from pipelines.rewarding.gathering import GatherRule, Short
from pipelines.rewarding.peers import PolicyText
from pipelines.runs import interruption
from pipelines.runs.command_line import main
from pipelines.serving.limits import check_port, read_keys


def command(config: Config) -> None:
    """Serve until a signal; status 128 and its number."""
    section, console = config.reward, Console()
    keys = read_keys(section.keys, section.host, "reward")
    check_port(section.host, section.port, "reward")
    if not is_address(section.judge):
        raise ConfigError(
            f"reward.judge={section.judge!r} is no address: start a judge by `make serve`, and name http://host:port"
        )
    policy = PolicyText() if section.policy is None else PolicyText.of(load_tokenizer(section.policy))
    rule = GatherRule(section.wait, cast(Short, section.short))
    taken = Taken(rule, section.group_size, policy, section.question, int(section.max_body_mib * 2**20), keys)
    with Judge(section.judge, key=read_key(section.key_variable), deadline=section.deadline) as judge:

        async def reward(question: Any, responses: Sequence[str]) -> Rewards:
            return await judge.areward(question, responses, section.budget)

        console.header("reward", f"{judge.model} at {section.judge}")
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(reward, judge.model, taken),
                host=section.host,
                port=section.port,
                log_level="warning",
                timeout_graceful_shutdown=int(config.cluster.grace),
            )
        )
        console.note(f"http://{section.host}:{section.port}/docs; Ctrl-C ends it")
        try:
            # Its handlers take the signal first, let running requests end, and hand it on to ours.
            asyncio.run(server.serve())
        except KeyboardInterrupt as error:
            name, _, status = interruption.described(error)
            console.note(f"{name}: ended")
            sys.exit(status)


if __name__ == "__main__":
    main(command)
