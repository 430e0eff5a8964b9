"""How fast an RL step could be on two cores: what its tokens cost vLLM alone, and a packed learner alone."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from pipelines.speed.bare_engine import bare_engine
from pipelines.speed.models import random_prompt
from pipelines.speed.timing import median_seconds

PROMPT_TOKENS, GROUP, TRACES = 64, 8, 64


def two_core_seconds(model: Path, vocabulary: int, max_tokens: int, tokens: float) -> dict[str, float]:
    """Seconds of a step that writes and learns ``tokens`` tokens, if two cores share its work without a gap.

    Each side is measured alone on one thread: vLLM's ``generate`` with log-probabilities of sampled tokens, and policy
    steps of one learner rank on packed groups of 8 traces, with lengths as ``model`` writes them.
    """
    engine, lengths = _engine_tokens_per_second(model, vocabulary, max_tokens)
    learner = _learner_tokens_per_second(model, vocabulary, lengths)
    return {
        "engine_tokens_per_second": engine,
        "learner_tokens_per_second": learner,
        "two_core_bound_seconds": (tokens / engine + tokens / learner) / 2,
    }


def _engine_tokens_per_second(model: Path, vocabulary: int, max_tokens: int) -> tuple[float, list[int]]:
    """And lengths of the traces that it wrote."""
    with bare_engine(str(model), PROMPT_TOKENS + max_tokens) as engine:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        sampling = SamplingParams(n=GROUP, max_tokens=max_tokens, logprobs=0, detokenize=False)
        inputs = [TokensPrompt(prompt_token_ids=random_prompt(index, vocabulary)) for index in range(4 * GROUP)]
        written: list[list[int]] = []

        def generate() -> None:
            done = engine.generate(inputs, sampling, use_tqdm=False)
            written.append([len(trace.token_ids) for output in done for trace in output.outputs])

        seconds = median_seconds(generate, rounds=3)
    counts = sorted(sum(lengths) for lengths in written[1:])
    return counts[len(counts) // 2] / seconds, written[-1]


def _learner_tokens_per_second(model: Path, vocabulary: int, lengths: list[int]) -> float:
    """Generated tokens per second of a step on 64 traces, the prompts' tokens being worked on as well."""
    import numpy as np

    from actors.messages import TrainingSequence
    from pipelines.config.compose import load_config
    from pipelines.job.session import Session
    from pipelines.job.settings import optimizer_settings, policy_settings
    from pipelines.runs.folder import RunDirectory

    chosen = random.Random(0).sample(lengths, TRACES)
    sequences = [
        TrainingSequence(
            np.array(random_prompt(index // GROUP, vocabulary), np.int32),
            np.array(random_prompt(-1 - index, vocabulary, length), np.int32),
            np.full(length, 1.0 if index % 2 else -1.0, np.float32),
            np.full(length, -np.log(vocabulary), np.float32),
        )
        for index, length in enumerate(chosen)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            [
                *("recipe=tiny", f"output_root={folder}", "run=bound", "tracking=off", "learner.ranks=1"),
                *("learner.packing=true", "learner.micro_batch_tokens=4096", "algorithm.kl_coefficient=0"),
                "rl.optimizer.learning_rate=0",
            ]
        )
        settings = policy_settings(config, config.algorithm)
        with RunDirectory(folder, "bound") as run, Session(config, run) as session:
            learners = session.learners()
            optimizer = optimizer_settings(config.rl.optimizer, 100)
            learners.load(str(model), None, optimizer, config.cluster.start_timeout)
            seconds = median_seconds(lambda: learners.policy_step(sequences, settings), rounds=5)
    return sum(chosen) / seconds
