"""When the next request may go: rate limits, pauses the server asks for, and the budget. Pure, with a clock passed in.

Rates are kept by even spacing (the generic cell rate algorithm without bursts): a request takes the next free moment
and moves it on by its share of a minute, so that no window of a minute holds more than the limit.
"""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """Requests and tokens per minute; 0 is no limit. Times are in seconds of the clock."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._request_spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._token_spacing = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_by_requests = self._next_by_tokens = self._paused_until = clock()

    def reserve(self, tokens: int) -> float:
        """Seconds until a request of about ``tokens`` may go; the one after it waits its share longer."""
        now = self._clock()
        moment = max(now, self._next_by_requests, self._next_by_tokens, self._paused_until)
        self._next_by_requests = moment + self._request_spacing
        self._next_by_tokens = moment + self._token_spacing * tokens
        return moment - now

    def settle(self, estimated: int, actual: int) -> None:
        """Put right what :meth:`reserve` took by an estimate."""
        self._next_by_tokens += self._token_spacing * (actual - estimated)

    def pause(self, seconds: float) -> None:
        """Hold all requests for so many seconds: what one of them was told holds for all."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    @property
    def paused(self) -> bool:
        """Whether a pause has come; a request whose moment it overtook reserves another one."""
        return self._clock() < self._paused_until


class Budget:
    """Tokens and money that may be spent; 0 is no limit.

    A request is admitted only if the worst it can take still fits beside the worst of those in flight, so the budget is
    not exceeded, apart from what the estimate of a prompt's tokens is off by until the first answers correct it.
    """

    def __init__(self, tokens: int, cost: float, spent_tokens: int = 0, spent_cost: float = 0.0) -> None:
        self.tokens = tokens
        self.cost = cost
        self.spent_tokens = spent_tokens
        self.spent_cost = spent_cost
        self._held_tokens = 0
        self._held_cost = 0.0
        self._holds = 0

    @property
    def busy(self) -> bool:
        """Whether a request in flight may give something back."""
        return self._holds > 0

    def admits(self, tokens: int, cost: float) -> bool:
        """Whether a request that takes at most this much may go."""
        within_tokens = not self.tokens or self.spent_tokens + self._held_tokens + tokens <= self.tokens
        # A margin for sums of decimal fractions, so that a budget of exactly n requests admits n.
        within_cost = not self.cost or self.spent_cost + self._held_cost + cost <= self.cost * (1 + 1e-9)
        return within_tokens and within_cost

    def hold(self, tokens: int, cost: float) -> None:
        """Set the worst case of a request aside."""
        self._holds += 1
        self._held_tokens += tokens
        self._held_cost += cost

    def release(self, tokens: int, cost: float) -> None:
        """Give back what :meth:`hold` set aside."""
        self._holds -= 1
        self._held_tokens -= tokens
        # Exactly nothing when nothing is held: sums and differences of fractions would leave a remainder.
        self._held_cost = self._held_cost - cost if self._holds else 0.0

    def spend(self, tokens: int, cost: float) -> None:
        """Count what an answer took."""
        self.spent_tokens += tokens
        self.spent_cost += cost

    def describe(self) -> str:
        """What was spent, and of how much."""
        tokens = f"{self.spent_tokens:,} of {self.tokens:,} tokens" if self.tokens else ""
        cost = f"{self.spent_cost:.2f} of {self.cost:.2f}" if self.cost else ""
        return " and ".join(part for part in (tokens, cost) if part)
