"""Generation through Ray actor and fleet against vLLM's own ``LLM.generate`` on the same prompts, in turn."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from pipelines.speed.bare_engine import bare_engine
from pipelines.speed.models import random_prompt, write_random_model
from pipelines.speed.timing import medians_in_turn

VOCABULARY, PROMPTS, PROMPT_TOKENS, SAMPLES, MAX_TOKENS = 512, 32, 64, 8, 128


def rollout() -> dict[str, Any]:
    """32 prompts of 64 tokens, 8 traces each, exactly 128 new tokens; one engine of one thread."""
    from actors.messages import Prompt, Sampling, Trace
    from pipelines.config.compose import load_config
    from pipelines.job.session import Session
    from pipelines.runs.folder import RunDirectory

    texts = [random_prompt(index, VOCABULARY) for index in range(PROMPTS)]
    prompts = [
        Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "bench", tuple(text))
        for index, text in enumerate(texts)
    ]
    expected = PROMPTS * SAMPLES * MAX_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        write_random_model(Path(model), VOCABULARY, ends=False)
        limits = (f"model.max_prompt_tokens={PROMPT_TOKENS}", f"model.max_response_tokens={MAX_TOKENS}")
        config = load_config([f"output_root={folder}", "run=bench", "tracking=off", *limits])
        with (
            RunDirectory(folder, "bench") as run,
            Session(config, run) as session,
            bare_engine(model, PROMPT_TOKENS + MAX_TOKENS) as engine,
        ):
            from vllm import SamplingParams
            from vllm.inputs import TokensPrompt

            fleet = session.rollouts(model)

            async def stream() -> None:
                tokens = 0
                async for finished in fleet.generate(prompts, Sampling(SAMPLES, max_tokens=MAX_TOKENS)):
                    tokens += sum(len(item.token_ids) for item in finished if isinstance(item, Trace))
                assert tokens == expected, f"{tokens} tokens, not {expected}"

            sampling = SamplingParams(n=SAMPLES, temperature=1.0, max_tokens=MAX_TOKENS, logprobs=0, detokenize=False)
            inputs = [TokensPrompt(prompt_token_ids=text) for text in texts]
            ours, bare = medians_in_turn(
                lambda: asyncio.run(stream()), lambda: engine.generate(inputs, sampling, use_tqdm=False)
            )
    return {
        "rollout_efficiency": bare / ours,
        "rollout_tokens_per_second": expected / ours,
        "vllm_tokens_per_second": expected / bare,
    }
