"""Settings of the server of rewards for others' training."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.constraints import FILE, PATH, location, number, one_of


@dataclass
class Rewarding:
    """Groups of responses, gathered from clients that send them one by one, and judged by a server of `make serve`."""

    judge: str = "http://127.0.0.1:8000"
    """Address of the judge."""
    key_variable: str = "JUDGE_API_KEY"
    """Environment variable with one of the judge's keys; not set: none is sent."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs `keys`."""
    port: int = number(8001, at_least=1, at_most=65535)
    keys: str | None = location(None, FILE)
    """As `serve.keys`, a file of keys, one a line; clients that send no header state one as the address's password."""
    group_size: int | None = number(None, at_least=2)
    """Responses of a group, for clients that do not state it: OpenRLHF, NeMo Gym."""
    wait: float = number(60.0, above=0)
    """Seconds from a group's first response until it is judged, whether it is complete or not."""
    short: str = one_of("judge", "refuse")
    """What becomes of an incomplete group then: two or more are judged among themselves, or all are refused."""
    budget: int = number(0, at_least=0)
    """Comparisons of a group; 0: two a response."""
    deadline: float = number(120.0, above=0)
    """Seconds for judging one group, repeated requests included."""
    max_body_mib: float = number(8.0, above=0)
    policy: str | None = location(None, PATH)
    """Folder or hub name of the policy, for OpenRLHF: its chat template and end tokens are taken off what is judged."""
    question: str = one_of("prompt", "label")
    """Where OpenRLHF's clients state the question: in `prompts`, or plain in `labels` (its `--data.label_key`)."""
