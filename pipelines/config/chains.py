"""Settings of writing reasoning chains with teachers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.config.constraints import FILE, location, number, one_of


@dataclass
class Teacher:
    """A model that writes reasoning chains."""

    kind: str = one_of("endpoint", "local")
    """`endpoint`: an OpenAI-compatible server; `local`: rollout workers on the Ray cluster."""
    model: str | None = location()
    """Name at the endpoint, or a checkpoint for local workers; null: the first teacher writes this pass too."""
    base_url: str | None = None
    """For example http://127.0.0.1:8000/v1; null: OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is written nowhere."""
    answers_as: str | None = None
    """Model name its answers carry, where that is not `model` or a dated form of it."""
    ends_as: str | None = None
    """`finish_reason` of its whole answers, where that is no known word for it such as `stop` or `eos`."""
    temperature: float | None = number(0.7, at_least=0, at_most=2)
    """Null: not sent, for models that refuse it; like the next."""
    top_p: float | None = number(1.0, above=0, at_most=1)
    max_tokens: int = number(0, at_least=0)
    """Limit of an answer; 0: `model.max_response_tokens`."""
    limit_field: str = one_of("max_tokens", "max_completion_tokens")
    """What the endpoint calls that limit: `max_tokens` or `max_completion_tokens`."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request body."""
    send_seed: bool = True
    """Send each request's own seed; switch off for endpoints that refuse it."""
    stream: bool = True
    """Receive answers piece by piece, which keeps long ones from running into a proxy's limit."""
    concurrency: int = number(32, at_least=1)
    """Requests in flight."""
    requests_per_minute: int = number(0, at_least=0)
    """0: no limit; like the next."""
    tokens_per_minute: int = number(0, at_least=0)
    """Tokens of prompts and answers together."""
    timeout: float = number(600.0, at_least=0.001)
    """Seconds for one attempt at a request, until its answer is whole."""
    attempts: int = number(6, at_least=1)
    """Attempts at one request before it counts as failed."""
    backoff: float = number(1.0, at_least=0)
    """Seconds before the second attempt; they double with every further one, up to a minute."""
    longest_wait: float = number(600.0, at_least=0)
    """Longest Retry-After, in seconds, that is waited for."""
    give_up_after: int = number(8, at_least=1)
    """Failed requests in a row after which the run stops."""
    input_price: float = number(0.0, at_least=0)
    """Price of a million prompt tokens."""
    output_price: float = number(0.0, at_least=0)
    """Price of a million answer tokens."""


@dataclass
class ChainFilters:
    """What a chain must have besides the right verdict. A measure that does not apply to a chain does not reject it."""

    well_formed: bool = True
    """Every section is there, closed and in order, the answer last; false for models that think without sections."""
    quotes: int = number(0, at_least=0)
    """Quotes of the responses, at least."""
    quotes_found: float = number(0.0, at_least=0, at_most=1)
    """Share of the quotes that occur in the response they quote, at least."""
    weights_add_up: bool = False
    """Refuse rubrics whose weights do not make 100 percent."""
    criteria_mentioned: float = number(0.0, at_least=0, at_most=1)
    """Share of the rubric's criteria that the evaluation mentions, at least."""
    tally_agrees: bool = True
    """Refuse chains whose verdict is against the evaluation's own totals."""
    min_words: int = number(0, at_least=0)
    max_words: int = number(0, at_least=0)
    """0: no limit."""


@dataclass
class Chains:
    """Writing reasoning chains with teachers, in two passes."""

    pairs: str | None = location()
    """Pairs to judge (.jsonl, .parquet, a hub name); null: `data.train`, or the built-in family's `distill` pairs."""
    limit: int = number(0, at_least=0)
    """Pairs drawn from them by seed; 0: all. A larger limit keeps those drawn by a smaller one."""
    orders: str = one_of("alternate", "random", "both")
    """Label position: `alternate`, `random`, or `both` orders of every pair."""
    prompt: str | None = location(None, FILE)
    """Prompt template of the first pass; null: `model.prompt`. Chains are learned under `model.prompt` either way."""
    hint: str = location("revise", FILE)
    """Template of the second pass: `revise`, `retry`, or the path of a .txt file."""
    samples: int = number(1, at_least=1)
    """Answers per pair and pass; of those that may be kept, the best is."""
    rounds: int = number(1, at_least=0)
    """Times the second pass is tried; 0: never."""
    hint_words: int = number(6, at_least=3)
    """A chain that repeats so many words of the hint in a row betrays that its writer was told the verdict."""
    betrayals: list[str] = field(default_factory=list)
    """Further phrases (regular expressions) that betray it."""
    budget_tokens: int = number(0, at_least=0)
    """Tokens that all requests of the set may take, those of interrupted runs included; 0: no limit."""
    budget_cost: float = number(0.0, at_least=0)
    """What they may cost, in the currency of the teachers' prices; 0: no limit."""
    filters: ChainFilters = field(default_factory=ChainFilters)
    first: Teacher = field(default_factory=Teacher)
    second: Teacher = field(default_factory=Teacher)
