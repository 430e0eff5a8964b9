"""What a teacher is to the dispatcher: something that makes one attempt at a request. And how one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self

from pipelines.config import Config, ConfigError, Teacher
from pipelines.endpoints.answers import Completion
from pipelines.endpoints.requests import Request


class TeacherClient(Protocol):
    """An open teacher. ``attempt`` raises what :func:`pipelines.endpoints.failures.classify` knows."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def attempt(self, request: Request) -> Completion:
        """Ask once, within the teacher's deadline."""


@dataclass(frozen=True, slots=True)
class NamedTeacher:
    """A teacher's complete settings and its section in the configuration, for messages."""

    name: str
    settings: Teacher
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Names of those of its settings that stand outside its section."""

    def setting(self, field: str) -> str:
        """A setting by the name that a user gives it by."""
        return self.elsewhere.get(field, f"{self.name}.{field}")


def teachers_of(config: Config) -> tuple[NamedTeacher, NamedTeacher]:
    """The teachers of the first and the second pass; the same one where no second is named.

    Raises:
        ConfigError: no first teacher is named.

    """
    first, second = config.chains.first, config.chains.second
    if first.model is None:
        raise ConfigError(
            "no teacher is named: set chains.first.model, and chains.first.base_url where it is not OpenAI's own "
            "(or chains.first.kind=local and a checkpoint, for rollout workers)"
        )
    limit = config.model.max_response_tokens
    judge = NamedTeacher("chains.first", replace(first, max_tokens=first.max_tokens or limit))
    if second.model is None:
        return judge, judge
    return judge, NamedTeacher("chains.second", replace(second, max_tokens=second.max_tokens or limit))
