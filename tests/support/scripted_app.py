"""The server's application over scripted engines that read the tokens of a real family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from families import FAMILIES
from fastapi import FastAPI
from fastapi.testclient import TestClient
from scripted_engines import RULE, TEMPLATE, ScriptedEngines, longer

from pipelines.judgment.judging import EngineJudge
from pipelines.serving.app import build_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service

PAIR = {"question": "q", "response_a": "a long answer", "response_b": "short"}
QWEN = FAMILIES["qwen2_5"]()
LIMITS = Limits(in_flight=8, body_bytes=20_000, votes=4, responses=5, deadline=60.0)


def scripted_app(engines: Any = None, keys: Sequence[str] = (), limits: Limits = LIMITS, rule: Any = RULE) -> FastAPI:
    """Without engines of its own: the longer response wins."""
    judge = EngineJudge(engines or ScriptedEngines(QWEN, longer), TEMPLATE, QWEN, "judge", "w", rule)
    return build_app(Service(judge, limits), keys)


def client(engines: Any = None, keys: Sequence[str] = (), limits: Limits = LIMITS, rule: Any = RULE) -> TestClient:
    return TestClient(scripted_app(engines, keys, limits, rule), raise_server_exceptions=False)


def refused(response: Any, status: int, code: str) -> str:
    """Message of a refusal, in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error["message"]
