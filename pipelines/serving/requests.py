"""Bodies of requests: exact types, and no key but these."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.data.text import role_of, text_of_parts


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(BaseModel):
    """A part of a message; other kinds than text are not read."""

    type: Literal["text"]
    text: str


class Turn(_Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = self.content if isinstance(self.content, str) else [part.model_dump() for part in self.content]
        return {"role": role_of(self.role), "content": text_of_parts(parts)}


class _Asked(_Body):
    """A question, and how its responses are judged; null: as the server's settings say."""

    question: str | None = Field(None, description="What was asked; or `messages`.")
    messages: list[Turn] | None = Field(None, description="A conversation that ends with the user.")
    orders: Literal["both", "a_first", "b_first"] | None = None
    votes: int | None = Field(None, ge=1, description="Judgments of each order; more than one needs a temperature.")
    temperature: float | None = Field(None, ge=0, le=2)
    too_long: Literal["refuse", "report"] = Field(
        "refuse", description="What leaves no room for a judgment: status 422, or an answer with it among `failures`."
    )

    @model_validator(mode="after")
    def _is_asked_once(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError("give either `question` or `messages`")
        return self

    def conversation(self) -> Any:
        """The question as the judging core takes it."""
        return self.question if self.messages is None else [turn.plain() for turn in self.messages]


class CompareRequest(_Asked):
    """Which of two responses is better?"""

    response_a: str
    response_b: str
    rubric: str | None = Field(None, description="Criteria to judge them by, beside the judge's own.")
    stream: bool = Field(False, description="Send the judgments while they are written, as server-sent events.")
    marks: bool = Field(False, description="Name the passages of both responses that the judgments quote.")


class ScoreRequest(_Asked):
    """How good is one response?"""

    response: str
    rubric: str | None = Field(None, description="Criteria to rate it by, beside the judge's own.")


class RankRequest(_Asked):
    """The order of some responses."""

    responses: list[str] = Field(min_length=2)
    method: Literal["all_pairs", "circular", "knockout", "swiss", "listwise"] = "all_pairs"
    rounds: int = Field(0, ge=0)


class RewardRequest(_Body):
    """A reward for each response of a group."""

    prompt: str | list[Turn]
    responses: list[str] = Field(min_length=1)
    budget: int = Field(0, ge=0, description="Comparisons at most; 0: two a response.")

    def conversation(self) -> Any:
        """The prompt as the judging core takes it."""
        return self.prompt if isinstance(self.prompt, str) else [turn.plain() for turn in self.prompt]


class ChatTurn(Turn):
    """A message as OpenAI's clients write it, whatever else it says."""

    model_config = ConfigDict(extra="ignore", strict=False)


class StreamOptions(BaseModel):
    """What a stream has besides text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's chat completion. Fields that are not here are ignored, as clients send many."""

    model: str
    messages: list[ChatTurn] = Field(min_length=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=16)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, stated: Any) -> Any:
        """OpenAI's API takes null for what is not set."""
        return (
            {name: value for name, value in stated.items() if value is not None} if isinstance(stated, dict) else stated
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage
