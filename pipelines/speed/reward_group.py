"""Rewards of groups through HTTP, as trainers' adapters ask for them, against vLLM's ``generate``, in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.speed.bare_engine import bare_engine
from pipelines.speed.demo_judge import demo_judge, served
from pipelines.speed.rank_calls import groups
from pipelines.speed.timing import medians_in_turn

GROUPS, SIZE = 32, 8


def reward_group(run: Path) -> dict[str, float]:
    """32 groups of 8 responses, each compared with the next two around a circle: 512 comparisons in both orders. All
    groups are handed to the judge at once, as by ``launch/adapters/trl.py``; ``generate`` gets all prompts of these
    comparisons at once. ``reward_group_rate``: the rate of the former over that of the latter.
    """
    from vllm import SamplingParams

    from pipelines.judgment.judge import Judge
    from pipelines.judgment.judging import asked
    from pipelines.judgment.rewards import Rewards, contestants, schedule
    from pipelines.judgment.tournaments import next_round

    demo = demo_judge(run)
    scored = groups(GROUPS, SIZE)
    pairs = []
    for one in scored:
        texts = contestants(one.responses)
        method, rounds = schedule(len(texts))
        pairs += [asked(one.question, texts[i], texts[j]) for i, j in next_round(method, len(texts), {}, rounds)]
    prompts: Any = [{"prompt_token_ids": list(token_ids)} for token_ids in demo.prompts(pairs)]
    with (
        served(demo.model) as (address, _),
        Judge(address) as judge,
        bare_engine(demo.model, demo.max_model_len) as engine,
    ):
        parameters = SamplingParams(temperature=0.0, max_tokens=demo.max_tokens, logprobs=0)

        def rewarded() -> list[Rewards]:
            return judge.reward_all([(one.question, one.responses) for one in scored])

        if any(None in one.rewards for one in rewarded()):
            raise RuntimeError("a response has no reward")
        through, bare = medians_in_turn(rewarded, lambda: engine.generate(prompts, parameters, use_tqdm=False))
    return {
        "reward_group_seconds": through,
        "reward_group_generate_seconds": bare,
        "reward_group_comparisons": float(len(pairs)),
        "reward_group_rate": bare / through,
    }
