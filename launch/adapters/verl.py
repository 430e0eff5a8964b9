"""veRL: a custom reward function and a reward manager. veRL scores a response the moment it is written, in whichever of
its reward workers is free; so each asks the server of `pipelines.reward`, where the group is gathered.

    python -m verl.trainer.main_ppo ... \\
        reward.reward_manager.source=importlib reward.reward_manager.name=PairwiseRewardManager \\
        reward.reward_manager.module.path=launch/adapters/verl.py \\
        +reward.reward_kwargs.gather=http://127.0.0.1:8001

The manager knows each prompt's ``uid`` and ``rollout.n``, and is the one to prefer. With the function, groups are
told by their question, which a column of ``extra_info`` holds:

        reward.custom_reward_function.path=launch/adapters/verl.py reward.custom_reward_function.name=compute_score \\
        +reward.custom_reward_function.reward_kwargs.size=8

Validation has one response a prompt, which has no rival: switch it off (``trainer.test_freq=-1``,
``trainer.val_before_train=False``).
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any
from weakref import WeakKeyDictionary

from actors.errors import UserError
from actors.redaction import read_key
from pipelines.judgment.connection import Connection, Patience
from pipelines.judgment.votes import hash_of

try:
    from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase as _Base
except ImportError:  # To be read, and tested, where veRL is not.
    _Base = object

GATHER = "http://127.0.0.1:8001"
_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Connection]] = WeakKeyDictionary()
"""Of this process, by event loop and address."""


class NotJudged(UserError, RuntimeError):
    """Nothing about a response could be read. veRL has no word for a reward that is missing, so training stops."""


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    size: int,
    gather: str = GATHER,
    question: str = "question",
    key_variable: str = "JUDGE_API_KEY",
    deadline: float = 600.0,
    **unread: Any,
) -> dict[str, Any]:
    """veRL's custom reward function: the response's reward among the ``size`` responses to its question.

    Raises:
        UserError: ``extra_info`` holds no question, the server cannot be reached or refuses, or nothing could be read.

    """
    asked = (extra_info or {}).get(question)
    if not asked:
        raise UserError(
            f"extra_info of data source {data_source!r} has no {question!r}: name the column in reward_kwargs"
        )
    prompt = asked if isinstance(asked, str) else _messages(asked)
    found = await _member(gather, key_variable, deadline, hash_of("verl", prompt), size, prompt, solution_str)
    return {"score": found["reward"], "group_members": found["members"]}


class PairwiseRewardManager(_Base):
    """veRL's reward manager, one in each of its reward workers."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **unread: Any) -> None:
        """As veRL makes it; ``reward.reward_kwargs`` may hold ``gather``, ``key_variable`` and ``deadline``."""
        if _Base is not object:
            super().__init__(config, tokenizer, compute_score)
        self.tokenizer = tokenizer
        self._size = int(config.actor_rollout_ref.rollout.n)
        given = config.reward.get("reward_kwargs") or {}
        self._gather = given.get("gather", GATHER)
        self._key_variable = given.get("key_variable", "JUDGE_API_KEY")
        self._deadline = float(given.get("deadline", 600.0))

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one response, whose siblings have the same ``uid``.

        Raises:
            UserError: as :func:`compute_score`.

        """
        item = data[-1:][0]
        uid, messages = item.non_tensor_batch.get("uid"), item.non_tensor_batch.get("raw_prompt")
        if uid is None or messages is None:
            raise UserError("this batch has no `uid` or no `raw_prompt`: set data.return_raw_chat=True")
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        decode = asyncio.get_running_loop().run_in_executor
        text = await decode(None, lambda: self.tokenizer.decode(ids[:length], skip_special_tokens=True))
        prompt = _messages(messages)
        found = await _member(self._gather, self._key_variable, self._deadline, f"verl/{uid}", self._size, prompt, text)
        return {"reward_score": found["reward"], "reward_extra_info": {"group_members": found["members"]}}


async def _member(
    gather: str, key_variable: str, deadline: float, group: str, size: int, prompt: Any, response: str
) -> dict[str, Any]:
    known = _connections.setdefault(asyncio.get_running_loop(), {})
    if gather not in known:
        # As many as wait: the members of a step's groups, all at the same time.
        known[gather] = Connection(gather, read_key(key_variable), Patience(deadline, in_flight=100_000))
    # Named, so that a request that is repeated is the same member.
    body = {"group": group, "size": size, "member": uuid.uuid4().hex, "prompt": prompt, "response": response}
    found = await known[gather].post("/v1/reward/member", body)
    if found["reward"] is None:
        raise NotJudged(f"group {group}: nothing about a response could be read: {found['failures']}")
    return found


def _messages(messages: Any) -> list[dict[str, str]]:
    return [{"role": str(message["role"]), "content": str(message["content"])} for message in messages]
