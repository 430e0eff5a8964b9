"""What travels between actors and pipelines: frozen records, no behaviour.

Shapes stand beside the fields: ``P`` prompt tokens, ``L`` generated tokens. Token ids are the ones the engine read
and sampled; text is only ever decoded from them for reading and verifying, never encoded again for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Side = Literal["A", "B", "C", "D"]
"""The letter under which a response is shown; C and D in lists alone."""
Order = Literal["chosen_first", "chosen_second"]
JudgeMode = Literal["pairwise", "pointwise", "listwise"]
"""What a judge is asked for: the better of two responses, a rating of one, or an order of at most four."""
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One order of one preference pair, tokenised once."""

    uid: str
    """``<pair id>/<order>``; unique in a run's data."""
    pair_id: str
    order: Order
    """Of a rating: ``chosen_first`` where the chosen response is rated, ``chosen_second`` where the other one is."""
    label: Side
    """The side on which the better response is shown; of a rating A where that is the better one, otherwise B."""
    domain: str
    token_ids: np.ndarray | tuple[int, ...] = field(compare=False)
    """[P], chat template and generation prompt included; int32 where a run holds many. Not compared: the uid is."""
    judged: JudgeMode = "pairwise"
    responses: int = 2
    """How many it shows."""
    written: tuple[int, ...] = ()
    """What a trace has of tokens already, where it goes on: the engine writes what comes after them."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How traces are sampled."""

    samples: int = 1
    """Traces per prompt; more than one makes a group."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 8192
    seed: int | None = None
    """None: the engine's own stream. Otherwise a trace's randomness is a function of this, its prompt's uid and its
    sample, whatever else the engine does meanwhile."""
    logprobs: bool = True
    """Whether traces carry log-probabilities. Training needs them; judging can do without, and is faster then."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One generated judgment."""

    prompt_uid: str
    sample: int
    """Index within the prompt's group, from 0."""
    token_ids: np.ndarray
    """[L] int32, the end-of-sequence token included when it was sampled."""
    logprobs: np.ndarray
    """[L] float32, log-probability under the weights that sampled each token; [0] where sampled without."""
    text: str
    """Of all its tokens, those that its prompt had as ``written`` included."""
    finish_reason: FinishReason
    versions: np.ndarray
    """[L] int32, the weight version that sampled each token."""

    @property
    def min_version(self) -> int:
        """The oldest weights that wrote a token of this trace."""
        return int(self.versions.min())

    @property
    def max_version(self) -> int:
        """The newest weights that wrote a token of this trace."""
        return int(self.versions.max())


@dataclass(frozen=True, slots=True)
class GenerationFailure:
    """A trace that was asked for and could not be generated, and why."""

    prompt_uid: str
    sample: int
    cause: str
    """Short, countable: ``prompt_too_long``, ``engine_error``, ``kills_engines``, ..."""
    detail: str
    kind: Literal["data", "request"] = "request"
    """``data``: the same prompt would fail again."""


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to the text of a trace that is being written."""

    prompt_uid: str
    sample: int
    text: str


ParseFailure = Literal["empty", "none_found", "both_found", "truncated"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trace decided, or why nothing could be read from it."""

    side: Side | None
    """The better response; of an order, its first; None of a rating."""
    cause: ParseFailure | None
    """Set where nothing could be read, and only there."""
    rating: int | None = None
    ranking: tuple[Side, ...] | None = None
    """Of an order: all responses, best first."""


@dataclass(frozen=True, slots=True)
class ScoredTrace:
    """A trace with its verdict and reward."""

    trace: Trace
    verdict: Verdict
    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Each reward component before weighting, by name."""


@dataclass(frozen=True, slots=True)
class RewardFailure:
    """A trace whose reward could not be computed, and why. It is never a reward of 0."""

    prompt_uid: str
    sample: int
    component: str
    cause: str
    """Short, countable: ``error``, ``timeout``, ``memory``, ``died``, ``not_finite``, ``wrong_type``, ..."""
    detail: str


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """All traces of one prompt, scored; what failed is kept as a failure, never as a trace."""

    prompt: Prompt
    traces: tuple[ScoredTrace, ...]
    failures: tuple[GenerationFailure, ...] = ()
    unscored: tuple[RewardFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """What a prompt shows, as text: for reward functions that look beyond the verdict."""

    question: str
    response_a: str
    response_b: str


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """A trace to verify, with what is known of its prompt; not the prompt's tokens, which would travel for nothing."""

    trace: Trace
    label: Side
    pair_id: str
    order: Order
    domain: str
    shown: Shown | None = None
    """Sent only where a user's reward function reads it."""
    judged: JudgeMode = "pairwise"
    responses: int = 2


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """A prompt and a completion to learn from. Only completion tokens enter a loss."""

    prompt_ids: np.ndarray
    """[P] int32"""
    completion_ids: np.ndarray
    """[L] int32, L >= 1"""
    advantage: float | np.ndarray = 0.0
    """[L] float32, or one for every completion token; unused by supervised steps."""
    rollout_logprobs: np.ndarray | None = None
    """[L] float32, as the engine sampled; None for supervised steps."""
    old_logprobs: np.ndarray | None = None
    """[L] float32, denominator of the policy ratio; None: the step's own log-probabilities, detached, which is right
    where one optimiser step is made on traces of the current weights."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a weight update, in Hugging Face naming."""

    name: str
    dtype: str
    """For example ``float32``."""
    shape: tuple[int, ...]
    checksum: int


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """A published set of weights: what the learner says it sent."""

    version: int
    path: str | None
    """A safetensors file every engine can open; None: they receive the tensors over the network."""
    tensors: tuple[TensorEntry, ...]
    """Empty while they are being gathered: over the network each comes with what it is."""
    checksum: int
    """Of all tensors together, 0 while they are being gathered; engines answer with the one they computed."""


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """What all members of a weight channel are told: where they meet, and how they send."""

    address: str
    port: int
    size: int
    """Members: the learner rank that sends, and every process of every engine."""
    bucket_bytes: int
    """What is sent at a time, unless a single tensor has more."""
    rendezvous_timeout: float
    """Seconds for all members to meet."""
    timeout: float
    """Seconds for anything that is sent."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What an engine says after a weight update."""

    version: int
    """Read back from the engine's process."""
    checksum: int
    """Of all tensors together, as they arrived."""
    pause_seconds: float
    """For which generation stood still."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """A device's memory in bytes, or on CPU a process's, where engines and learners share devices."""

    peak: int
    """Of a turn: on CUDA a rank's tensors at their most, and all that is in use on an engine's device; on CPU what the
    process has at its end."""
    left: int
    """When the turn has been given up."""
