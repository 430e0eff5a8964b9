"""A judge with engines on this machine, started by this process: one of the two that :class:`Judge` asks."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryDirectory

from pipelines.config.compose import load_config
from pipelines.data.schema import PreferencePair
from pipelines.judgment.decision import PAIRWISE, Decision
from pipelines.judgment.judging import in_order
from pipelines.judgment.listing import LISTWISE, rank_listwise
from pipelines.judgment.modes import run_of
from pipelines.judgment.opening import judge_parts, open_judge
from pipelines.judgment.ranking import Group, Ranking, RankMethod, rank_groups
from pipelines.judgment.rating import POINTWISE, RatingDecision, ToRate
from pipelines.judgment.rewards import Rewards, reward_groups
from pipelines.runs.folder import RunDirectory

_OF_THE_RUN = {
    "model": ("prompt", "max_prompt_tokens", "max_response_tokens"),
    "algorithm": ("verdict_mode",),
}


def settings_of(model: str) -> list[str]:
    """How a model was prompted and read in the run that trained it, as overrides; none for a model of no run.

    A run's model is ``<run>/<stage>/hf``, and its settings are in ``<run>/config.yaml``.
    """
    config = run_of(model)
    if config is None:
        return []
    found = [f"{section}.{name}={config[section][name]}" for section, names in _OF_THE_RUN.items() for name in names]
    variables = config["model"].get("chat_template_kwargs", {})
    found += [f"model.chat_template_kwargs.{name}={json.dumps(value)}" for name, value in variables.items()]
    return [f"recipe={config['recipe_name']}", *found]


@contextmanager
def _callers_signals() -> Iterator[None]:
    """What signals do is the caller's business: handlers that a session installs are taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class InProcessJudge:
    """Engines that start when this is made and end with :meth:`close`, both in the main thread."""

    def __init__(self, model: str, settings: Sequence[str]) -> None:
        """Start engines on ``model``, asked as in its run and by ``settings``.

        Raises:
            ConfigError: a setting is unknown or cannot work.
            ModelError, DataError: the model, its tokenizer or the template cannot be used.

        """
        config = load_config([*settings_of(model), *settings, f"judge.model={model}"])
        parts = judge_parts(config, config.judge)
        with ExitStack() as stack, _callers_signals():
            folder = stack.enter_context(TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True))
            run = stack.enter_context(RunDirectory(folder, "run"))
            self._judge = stack.enter_context(open_judge(config, config.judge, parts, run, eager=True))
            self._stack = stack.pop_all()

    @property
    def model(self) -> str:
        """Folder or hub name."""
        return self._judge.model

    async def compare(self, pairs: Sequence[PreferencePair]) -> list[Decision]:
        """The decision of every pair, in order; response a is its ``chosen`` one."""
        return await in_order(self._judge.answers(PAIRWISE, pairs))

    async def score(self, answers: Sequence[ToRate]) -> list[RatingDecision]:
        """The rating of every response, in order."""
        return await in_order(self._judge.answers(POINTWISE, answers))

    async def rank(self, groups: Sequence[Group], method: RankMethod, rounds: int) -> list[Ranking]:
        """The ranking of every group, in order."""
        if method == "listwise":
            return await rank_listwise(partial(self._judge.answers, LISTWISE), groups)
        return await rank_groups(partial(self._judge.answers, PAIRWISE), groups, method, rounds)

    async def reward(self, groups: Sequence[Group], budget: int) -> list[Rewards]:
        """The rewards of every group, in order."""
        return await reward_groups(partial(self._judge.answers, PAIRWISE), groups, budget)

    async def aclose(self) -> None:
        """Nothing of this belongs to an event loop."""

    def close(self) -> None:
        """End the engines."""
        self._stack.close()
