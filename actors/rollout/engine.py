"""vLLM as this project uses it: tokens in, tokens with log-probabilities and weight versions out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

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

# Between lists of what was written, in seconds: the way of a list to its reader costs more than a token.
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One vLLM engine. Values come from the configuration, which has the only defaults."""

    model: str
    """Directory or hub name in Hugging Face format."""
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    tensor_parallel: int
    """Processes that share each layer, with a device each."""
    max_model_len: int
    """Tokens of a prompt and its answer together."""
    max_sequences: int
    """Sequences in flight at once."""
    max_batched_tokens: int
    memory_gib: float
    """CPU: size of the key-value cache."""
    memory_fraction: float
    """CUDA: share of the device's memory the engine may take."""
    threads: int
    """CPU: OpenMP threads of the engine."""
    enforce_eager: bool
    prefix_caching: bool
    seed: int


class EngineError(RuntimeError):
    """The engine could not start or stopped answering."""


class Engine:
    """An ``AsyncLLM`` and the few calls training needs. All methods belong to one event loop."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        # vLLM leaves its sockets behind where its processes are ended: in a folder of their own they can be removed.
        self._sockets = tempfile.TemporaryDirectory(prefix="vllm-")
        with _environment(settings, self._sockets.name):
            self._llm = self._launch()
        self._requests = 0
        self._version = 0
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
            distributed_executor_backend=_executor(settings),
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_sequences,
            max_num_batched_tokens=max(settings.max_batched_tokens, settings.max_model_len),
            enforce_eager=settings.enforce_eager,
            enable_prefix_caching=settings.prefix_caching,
            gpu_memory_utilization=settings.memory_fraction,
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

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Yield traces as they finish, all that are ready at once. A trace that fails arrives as a failure.

        Each sample is a request of its own, so a finished trace never waits for the rest of its group; the group's
        prompt is computed once through the prefix cache.

        Raises:
            EngineError: the engine has died, in whichever of its processes.

        """
        return cast(Any, self._stream(prompts, sampling, watched=False))

    def watch(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """As :meth:`generate`, and what is written of each trace until it is finished, as it grows."""
        return self._stream(prompts, sampling, watched=True)

    async def _stream(
        self, prompts: Iterable[Prompt], sampling: Sampling, watched: bool
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        finished: asyncio.Queue[Added | Trace | GenerationFailure | EngineError] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._one(prompt, sample, sampling, finished, watched))
            for prompt in prompts
            for sample in range(sampling.samples)
        ]
        waiting = len(tasks)
        try:
            while waiting:
                ready = [await finished.get()]
                while not finished.empty():
                    ready.append(finished.get_nowait())
                waiting -= sum(not isinstance(answer, Added) for answer in ready)
                if died := [answer for answer in ready if isinstance(answer, EngineError)]:
                    raise died[0]
                yield [answer for answer in ready if not isinstance(answer, EngineError)]
                if watched:
                    await asyncio.sleep(_PAUSE)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(
        self, prompt: Prompt, sample: int, sampling: Sampling, finished: asyncio.Queue, watched: bool
    ) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            finished.put_nowait(await self._trace(prompt, sample, sampling, finished if watched else None))
        except asyncio.CancelledError:
            raise
        except EngineDeadError as error:
            # Not a failure of this trace: there is no other to come.
            failure = EngineError("the engine has died, in one of its processes; its log says which and how")
            failure.__cause__ = error
            finished.put_nowait(failure)
        except Exception as error:
            length = len(prompt.token_ids) + len(prompt.written)
            cause = "prompt_too_long" if length >= self.settings.max_model_len else "engine_error"
            finished.put_nowait(GenerationFailure(prompt.uid, sample, cause, f"{type(error).__name__}: {error}"))

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
            EngineError: the weights could not be loaded, or the engine's processes received different ones.

        """
        from actors.weights.receive import VerifiedUpdate

        loop = asyncio.get_running_loop()
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        started = loop.time()
        try:
            received = await self._llm.collective_rpc("replace_weights", args=(VerifiedUpdate.of(update),))
            await self._llm.update_weight_version(str(update.version))
        except Exception as error:
            raise EngineError(f"weight update to version {update.version} failed: {error}") from error
        self._version = update.version
        await self._llm.resume_generation()
        stood_still = loop.time() - started
        if len(set(received)) != 1:
            raise EngineError(f"the engine's processes received different weights for version {update.version}")
        return LoadedWeights(await self.version(), received[0], stood_still)

    async def version(self) -> int:
        """The version of the weights that are loaded, read back from the engine's process."""
        return int(await self._llm.get_weight_version())

    async def unfinished(self) -> int:
        """Traces that are being written or wait to be; raises vLLM's error of an engine that has died."""
        await self._llm.check_health()
        return self._llm.get_num_unfinished_requests()

    def shutdown(self) -> None:
        """End the engine's process. No call is possible afterwards."""
        self._llm.shutdown()
        # Its own clean-up when it is collected fails if that is at the interpreter's end.
        del self._llm
        self._sockets.cleanup()


def _executor(settings: EngineSettings) -> Any:
    """vLLM's executor: processes of this machine where a layer is shared, and none of their own where it is not."""
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    if settings.tensor_parallel > 1:
        # Left to itself vLLM sees the actor's placement group and takes its Ray executor, which wants a bundle per
        # device. All devices of this engine are visible to this process.
        return "mp"
    # On CPU vLLM would put its only worker into another process, to set that one's OpenMP threads, which here are set
    # already. Scheduler and worker then wait for each other by spinning, and on few cores what spins takes the time of
    # what computes.
    return UniProcExecutor if settings.device == "cpu" else "uni"


@contextmanager
def _environment(settings: EngineSettings, sockets: str) -> Iterator[None]:
    """The variables vLLM is set by, for the processes an engine starts and for no other: what this process starts
    later (another vLLM, say) must find neither this engine's threads nor its folder of sockets, which goes with it.
    """
    ours = {"VLLM_RPC_BASE_PATH": sockets}
    unless_set = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if settings.device == "cpu":
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(settings.memory_gib)))
        ours["OMP_NUM_THREADS"] = str(settings.threads)
        # Binding threads to cores is right when an engine owns its cores; here learners share them.
        unless_set["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    before = dict(os.environ)
    os.environ |= unless_set | before | ours
    try:
        yield
    finally:
        for name in unless_set | ours:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


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
