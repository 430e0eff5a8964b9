"""Comparisons through HTTP against the same prompts by vLLM's own ``generate``, in turn: many at a time, and one."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import psutil

from actors.processes import is_engine
from pipelines.speed.bare_engine import bare_engine
from pipelines.speed.demo_judge import DemoJudge, body_of, client, demo_judge, in_flight, served
from pipelines.speed.timing import medians_in_turn

PAIRS, IN_FLIGHT, ALONE = 256, 64, 101


def serve_efficiency(run: Path) -> dict[str, float]:
    """256 held-out pairs, 64 requests at a time, over the 512 prompts they come to, all handed to ``generate`` at once;
    both with the log-probabilities that a decision's confidence is made of, and the latter without.

    ``serve_overhead_ms``: the median of single requests to an idle server, less that of ``generate`` on the two prompts
    of each, asked in turn. ``serve_engine_cpu_ms`` and ``serve_other_cpu_ms``: processor time of a comparison in the
    engine's process, and in all others of the server.
    """
    demo = demo_judge(run)
    pairs = list(demo.pairs[:PAIRS])
    with served(demo.model) as (address, server), bare_engine(demo.model, demo.max_model_len) as engine:
        generate = _generate(demo, engine)
        prompts, bodies = demo.prompts(pairs), [body_of(pair) for pair in pairs]

        def ask_all() -> list[Any]:
            async def ask() -> list[Any]:
                async with client(address, IN_FLIGHT) as compare:
                    return await in_flight(compare, bodies, IN_FLIGHT)

            return asyncio.run(ask())

        _hold_equal(ask_all(), generate(prompts, 0))
        through, bare, plain = medians_in_turn(ask_all, lambda: generate(prompts, 0), lambda: generate(prompts, None))
        before = _processor_ms(server)
        ask_all()
        engine_ms, other_ms = (after - then for after, then in zip(_processor_ms(server), before, strict=True))
        overhead = asyncio.run(_alone(address, bodies, prompts, generate))
    return {
        "serve_judgments_per_second": len(prompts) / through,
        "serve_generate_per_second": len(prompts) / bare,
        "serve_efficiency": bare / through,
        "serve_efficiency_without_logprobs": plain / through,
        "serve_engine_cpu_ms": engine_ms / len(pairs),
        "serve_other_cpu_ms": other_ms / len(pairs),
        **overhead,
    }


def _processor_ms(server: int) -> tuple[float, float]:
    """Processor time so far of the server's engines, and of its other processes."""
    sums = {True: 0.0, False: 0.0}
    for process in [psutil.Process(server), *psutil.Process(server).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            sums[is_engine(process)] += 1000 * (times.user + times.system)
    return sums[True], sums[False]


def _generate(demo: DemoJudge, engine: Any) -> Any:
    from vllm import SamplingParams

    def generate(prompts: list[tuple[int, ...]], logprobs: int | None) -> list[Any]:
        asked: Any = [{"prompt_token_ids": list(token_ids)} for token_ids in prompts]
        parameters = SamplingParams(temperature=0.0, max_tokens=demo.max_tokens, logprobs=logprobs)
        return engine.generate(asked, parameters, use_tqdm=False)

    return generate


def _hold_equal(answers: list[Any], outputs: list[Any]) -> None:
    """Both sides must have written the same: two thirds of a percent of tokens may differ by rounding at ties."""
    ours = sum(answer["usage"]["completion_tokens"] for answer in answers)
    bare = sum(len(output.outputs[0].token_ids) for output in outputs)
    if abs(ours - bare) > 0.0067 * bare:
        raise RuntimeError(f"the server wrote {ours} tokens and generate {bare} on the same prompts")


async def _alone(address: str, bodies: list[Any], prompts: list[tuple[int, ...]], generate: Any) -> dict[str, float]:
    through: list[float] = []
    bare: list[float] = []
    async with client(address, 1) as compare:
        for number in range(ALONE):
            place = number % len(bodies)
            for seconds, action in ((through, compare(bodies[place])), (bare, None)):
                started = time.perf_counter()
                if action is not None:
                    await action
                else:
                    generate(prompts[2 * place : 2 * place + 2], 0)
                seconds.append(time.perf_counter() - started)
    alone, written = statistics.median(through[1:]), statistics.median(bare[1:])
    return {
        "serve_alone_ms": 1000 * alone,
        "serve_alone_generate_ms": 1000 * written,
        "serve_overhead_ms": 1000 * (alone - written),
    }
