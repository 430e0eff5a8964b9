"""vLLM as this project uses it: tokens in, tokens with log-probabilities and weight versions out."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from actors.liveness import Beat
from actors.messages import (
    Added,
    ChannelTerms,
    GenerationFailure,
    LoadedWeights,
    Prompt,
    Sampling,
    Trace,
    WeightUpdate,
)
from actors.rollout.errors import EngineDied, EngineError, UpdateFailed, UpdateFailedAgain, died
from actors.rollout.launching import beginning, environment, executor
from actors.rollout.settings import EngineSettings
from actors.rollout.sleeping import Sleeping
from actors.rollout.steps import Steps

# Between lists of what was written, in seconds: the way of a list to its reader costs more than a token.
_PAUSE = 0.05
# Requests that vLLM has at once, in those that it writes at a time: enough that it never waits for one. All of a large
# batch at once would be half a minute in which this process answers nobody, and counts as stuck.
_AHEAD = 4


class Engine:
    """An ``AsyncLLM`` and the few calls training needs. All methods belong to one event loop."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        # vLLM leaves its sockets behind where its processes are ended: in a folder of their own they can be removed.
        self._sockets = tempfile.TemporaryDirectory(prefix="vllm-")
        with environment(settings, self._sockets.name), beginning():
            self._llm = self._launch()
        self._requests = 0
        self._room = asyncio.Semaphore(_AHEAD * settings.max_sequences)
        self._queued: set[asyncio.Task[None]] = set()
        """Samples that vLLM has not been asked for yet."""
        self._steps = Steps()
        self._steps.count_those_of(self._llm.engine_core)
        self._version = 0
        self._has_loaded = self._failed_last = False
        """Whether weights were ever loaded, and whether the last could not be."""
        self.sleeping = Sleeping(self._llm)
        self._tokenizer: Any = None

    def _launch(self) -> Any:
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from actors.weights.receive import BACKEND, WeightReplacement

        settings = self.settings
        arguments = AsyncEngineArgs(
            model=settings.model,
            dtype=cast(Any, settings.dtype),
            tensor_parallel_size=settings.tensor_parallel,
            distributed_executor_backend=executor(settings),
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_sequences,
            max_num_batched_tokens=max(settings.max_batched_tokens, settings.max_model_len),
            enforce_eager=settings.enforce_eager,
            enable_prefix_caching=settings.prefix_caching,
            gpu_memory_utilization=settings.memory_fraction,
            kv_cache_memory_bytes=round(settings.memory_gib * 2**30) if settings.device == "cpu" else None,
            # On CPU vLLM refuses to be prepared for it, and sleeps all the same: see `Sleeping`.
            enable_sleep_mode=settings.takes_turns and settings.device == "cuda",
            seed=settings.seed,
            disable_log_stats=True,
            # Of the distribution that was sampled, temperature included: what a policy ratio needs.
            logprobs_mode="processed_logprobs",
            weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            worker_extension_cls=f"{WeightReplacement.__module__}.{WeightReplacement.__qualname__}",
        )
        return AsyncLLM.from_engine_args(arguments)

    async def start(self, version: int) -> None:
        """Name the loaded weights and generate once: the first call pays for lazy initialisation."""
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self.settings.model)
        self._version = version
        await self._llm.update_weight_version(str(version))
        warm_up = Prompt("warm-up/chosen_first", "warm-up", "chosen_first", "A", "none", (1, 2, 3))
        async for _ in self.generate([warm_up], Sampling(max_tokens=2)):
            pass

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling, samples: Sequence[Sequence[int]] | None = None
    ) -> AsyncGenerator[list[Trace | GenerationFailure], None]:
        """Yield traces as they finish, all that are ready at once. A trace that fails arrives as a failure.

        Each sample is a request of its own, so a finished trace never waits for the rest of its group; the group's
        prompt is computed once through the prefix cache. ``samples`` are the numbers of those wanted of each prompt;
        None: all.

        Raises:
            EngineDied: in whichever of its processes.

        """
        return cast(Any, self._stream(prompts, sampling, samples, watched=False))

    def watch(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> AsyncGenerator[list[Added | Trace | GenerationFailure], None]:
        """As :meth:`generate`, and what is written of each trace until it is finished, as it grows."""
        return self._stream(prompts, sampling, None, watched=True)

    async def _stream(
        self, prompts: Iterable[Prompt], sampling: Sampling, samples: Sequence[Sequence[int]] | None, watched: bool
    ) -> AsyncGenerator[list[Added | Trace | GenerationFailure], None]:
        finished: asyncio.Queue[Added | Trace | GenerationFailure | EngineDied] = asyncio.Queue()
        asked = list(prompts)
        tasks = [
            asyncio.create_task(self._one(prompt, sample, sampling, finished, watched))
            for prompt, numbers in zip(asked, samples or [range(sampling.samples)] * len(asked), strict=True)
            for sample in numbers
        ]
        for task in tasks:
            self._queued.add(task)
            task.add_done_callback(self._queued.discard)
        waiting = len(tasks)
        try:
            while waiting:
                ready = [await finished.get()]
                while not finished.empty():
                    ready.append(finished.get_nowait())
                waiting -= sum(not isinstance(answer, Added) for answer in ready)
                if arrived := [answer for answer in ready if not isinstance(answer, EngineDied)]:
                    yield arrived
                if deaths := [answer for answer in ready if isinstance(answer, EngineDied)]:
                    raise deaths[0]
                if watched:
                    await asyncio.sleep(_PAUSE)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(
        self, prompt: Prompt, sample: int, sampling: Sampling, finished: asyncio.Queue, watched: bool
    ) -> None:
        try:
            async with self._room:
                self._queued.discard(cast(Any, asyncio.current_task()))
                finished.put_nowait(await self._trace(prompt, sample, sampling, finished if watched else None))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if self._llm.errored:
                # Not a failure of this trace: there is no other to come.
                death = died()
                death.__cause__ = error
                finished.put_nowait(death)
                return
            is_too_long = len(prompt.token_ids) + len(prompt.written) >= self.settings.max_model_len
            cause, kind = ("prompt_too_long", "data") if is_too_long else ("engine_error", "request")
            detail = f"{type(error).__name__}: {error}"
            finished.put_nowait(GenerationFailure(prompt.uid, sample, cause, detail, cast(Any, kind)))

    async def _trace(self, prompt: Prompt, sample: int, sampling: Sampling, watching: asyncio.Queue | None) -> Trace:
        """The trace, whose text ``watching`` gets as it grows."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=_request_seed(sampling, prompt.uid, sample),
            # Of the sampled token alone, in one list per trace instead of a dictionary per token.
            logprobs=0 if sampling.logprobs else None,
            flat_logprobs=True,
            detokenize=watching is not None,
            output_kind=RequestOutputKind.FINAL_ONLY if watching is None else RequestOutputKind.CUMULATIVE,
        )
        self._requests += 1
        self._steps.asked = time.monotonic()
        output, told = None, 0
        # The salt keeps prefixes cached under old weights from serving prompts that arrive under new ones.
        asked = [*np.asarray(prompt.token_ids).tolist(), *prompt.written]
        request: Any = {"prompt_token_ids": asked, "cache_salt": f"version {self._version}"}
        async for latest in self._llm.generate(request, parameters, request_id=str(self._requests)):
            output = latest
            if watching is not None and len(text := latest.outputs[0].text) > told:
                watching.put_nowait(Added(prompt.uid, sample, text[told:]))
                told = len(text)
        if output is None or not output.finished:
            raise EngineError("the engine ended the request without an answer")
        completion: Any = output.outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"the engine ended the request with {completion.finish_reason!r}")
        tokens = np.asarray(completion.token_ids, dtype=np.int32)
        logprobs = np.asarray(completion.logprobs.logprobs if sampling.logprobs else (), dtype=np.float32)
        if sampling.logprobs and len(logprobs) != len(tokens):
            raise EngineError(f"the engine gave {len(logprobs)} log-probabilities for {len(tokens)} tokens")
        return Trace(
            prompt_uid=prompt.uid,
            sample=sample,
            token_ids=tokens,
            logprobs=logprobs,
            text=self._tokenizer.decode([*prompt.written, *tokens], skip_special_tokens=True),
            finish_reason=completion.finish_reason,
            versions=_versions(completion.weight_versions, len(tokens)),
        )

    async def join_channel(self, terms: ChannelTerms, first_rank: int) -> None:
        """Let the engine's processes join a weight channel, as its members from ``first_rank`` on."""
        joining = {"first_rank": first_rank, "terms": asdict(terms)}
        await self._llm.collective_rpc("join_weight_channel", args=(joining,))

    async def update(self, update: WeightUpdate) -> LoadedWeights:
        """Load new weights while requests are in flight; they are frozen meanwhile and go on afterwards.

        Generation stands still from the end of the step that was under way to the next.

        Raises:
            UpdateFailed: the weights could not be loaded, or the engine's processes received different ones. Then it
                writes nothing until others are, because what it holds may be of two versions.
            UpdateFailedAgain: nor could those before, though it has loaded some once.
            EngineDied: in whichever of its processes.

        """
        with self._steps.updating():
            try:
                loaded = await self._update(update)
            except UpdateFailed as error:
                if self._failed_last and self._has_loaded:
                    raise UpdateFailedAgain(str(error)) from error
                self._failed_last = True
                raise
            self._has_loaded, self._failed_last = True, False
            return loaded

    async def _update(self, update: WeightUpdate) -> LoadedWeights:
        from actors.weights.receive import VerifiedUpdate

        loop = asyncio.get_running_loop()
        try:
            if not self.sleeping.now:
                await self._llm.pause_generation(mode="keep", clear_cache=False)
            started = loop.time()
            received = await self._llm.collective_rpc("replace_weights", args=(VerifiedUpdate.of(update),))
            await self._llm.update_weight_version(str(update.version))
        except Exception as error:
            if self._llm.errored:
                raise died() from error
            raise UpdateFailed(f"weight update to version {update.version} failed: {error}") from error
        if len(set(received)) != 1:
            raise UpdateFailed(f"the engine's processes received different weights for version {update.version}")
        self._version = update.version
        if not self.sleeping.now:
            await self._llm.resume_generation()
        stood_still = loop.time() - started
        return LoadedWeights(await self.version(), received[0], stood_still)

    async def version(self) -> int:
        """The version of the weights that are loaded, read back from the engine's process."""
        return int(await self._llm.get_weight_version())

    async def unfinished(self) -> int:
        """Traces that are being written or wait to be; raises vLLM's error of an engine that has died."""
        await self._llm.check_health()
        return self._llm.get_num_unfinished_requests() + len(self._queued)

    def beat(self) -> Beat:
        """How many steps the engine has answered, and what it is at.

        Raises:
            EngineDied: in whichever of its processes.

        """
        if self._llm.errored:
            raise died()
        if self._steps.updates:
            return Beat(self._steps.count, "update", self._steps.longest_update)
        at = "generate" if self._llm.output_processor.has_unfinished_requests() else ""
        return Beat(self._steps.count, at, self._steps.longest)

    def shutdown(self) -> None:
        """End the engine's process. No call is possible afterwards."""
        self._llm.shutdown()
        # Its own clean-up when it is collected fails if that is at the interpreter's end.
        del self._llm, self.sleeping
        self._sockets.cleanup()


def _request_seed(sampling: Sampling, uid: str, sample: int) -> int | None:
    if sampling.seed is None or sampling.temperature == 0:
        return None
    digest = hashlib.sha256(f"{sampling.seed}/{uid}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _versions(spans: Sequence[Any] | None, length: int) -> np.ndarray:
    """Weight version of every token ([L] int32) from vLLM's spans."""
    if spans is None or sum(span.end - span.start for span in spans) != length:
        raise EngineError(f"the engine did not say which weights wrote the {length} tokens of a trace: {spans}")
    return np.concatenate([np.full(span.end - span.start, int(span.version), dtype=np.int32) for span in spans])
