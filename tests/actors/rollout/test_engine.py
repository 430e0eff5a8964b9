"""A real engine: what a trace says, and that published weights are the ones it samples from, or an error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_settings import small_engine
from transformers import AutoModelForCausalLM, AutoTokenizer

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
from actors.rendezvous import open_store
from actors.rollout.engine import Engine
from actors.rollout.errors import EngineError, UpdateFailed, UpdateFailedAgain
from actors.weights.channel import WeightChannel
from actors.weights.send import gathered, write_update
from pipelines.data.tiny_model import build_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.slow]


END = 2
"""The tiny tokenizer's end of sequence."""


class Host:
    """An engine with the event loop it belongs to."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.runner = asyncio.Runner()
        self.engine = self.run(self._start())

    async def _start(self) -> Engine:
        engine = Engine(small_engine(str(self.model)))
        await engine.start(0)
        return engine

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def collect(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Trace | GenerationFailure]:
        return [item async for ready in self.engine.generate(prompts, sampling) for item in ready]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Any]:
        return self.run(self.collect(prompts, sampling))

    def publish(self, weights: dict[str, torch.Tensor], version: int, folder: Path) -> WeightUpdate:
        return write_update(weights.items(), version, str(folder))

    def close(self) -> None:
        self.engine.shutdown()
        self.runner.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    model = tmp_path_factory.mktemp("engine") / "model"
    build_tiny_model(model, ["write mail : mention cat", "<answer>[[A]]</answer>"] * 20, seed=0)
    # Smaller embeddings: a model whose input and output embedding are one would otherwise repeat its last token.
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 0.3
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "3"
    ours = ("VLLM_RPC_BASE_PATH", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS")
    before = [os.environ.get(name) for name in (*ours, "TORCH_COMPILE_DISABLE")]
    host = Host(model)
    after = [os.environ.get(name) for name in (*ours, "TORCH_COMPILE_DISABLE")]
    assert after == before, "what this process starts later must not inherit these"
    del os.environ["VLLM_CPU_KVCACHE_SPACE"]
    yield host
    sockets = Path(host.engine._sockets.name)
    assert any(sockets.iterdir())
    host.close()
    assert not sockets.exists(), "an engine leaves nothing behind"


def test_the_cache_has_the_size_that_was_set(host: Host) -> None:
    """Parts of a GiB, too, and whatever vLLM's own variable says."""
    cache, config = host.engine._llm.vllm_config.cache_config, host.engine._llm.model_config.hf_config
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * 4
    taken = cache.num_gpu_blocks * cache.block_size * token
    assert host.engine.settings.memory_gib == 0.1
    assert taken == pytest.approx(0.1 * 2**30, rel=0.01)


def prompt(index: int, length: int = 12) -> Prompt:
    tokens = tuple(int(token) for token in np.random.default_rng(index).integers(10, 250, length))
    return Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "test", tokens)


def changed(host: Host, seed: int) -> dict[str, torch.Tensor]:
    """All weights moved a little, in the names of the checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(host.model / "model.safetensors")
    return {name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}


def differences(
    host: Host,
    weights: dict[str, torch.Tensor],
    prompts: Sequence[Prompt],
    traces: Sequence[Trace],
    temperature: float = 1.0,
) -> Any:
    """|engine - Transformers| log-probability of every sampled token under ``weights``."""
    lm = AutoModelForCausalLM.from_pretrained(host.model, dtype=torch.float32)
    lm.load_state_dict(weights, strict=False)
    by_uid = {item.uid: item.token_ids for item in prompts}
    found = []
    for trace in traces:
        start = len(by_uid[trace.prompt_uid])
        tokens = torch.tensor([[*by_uid[trace.prompt_uid], *trace.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = (lm(input_ids=tokens).logits[0] / temperature).log_softmax(-1)
        exact = logprobs[torch.arange(start - 1, tokens.shape[1] - 1), tokens[0, start:]]
        found.append(np.abs(exact.numpy() - trace.logprobs))
    return np.concatenate(found)


def test_a_trace_that_goes_on_is_the_one_that_never_stopped(host: Host) -> None:
    [whole] = host.generate([prompt(5)], Sampling(1, 0.0, max_tokens=12))
    [first] = host.generate([prompt(5)], Sampling(1, 0.0, max_tokens=5))
    longer = replace(prompt(5), written=tuple(first.token_ids.tolist()))
    [rest] = host.generate([longer], Sampling(1, 0.0, max_tokens=7))
    assert [*first.token_ids, *rest.token_ids] == whole.token_ids.tolist()
    assert np.concatenate([first.logprobs, rest.logprobs]) == pytest.approx(whole.logprobs, abs=1e-5)
    assert (rest.text, rest.finish_reason) == (whole.text, whole.finish_reason)


def test_judging_can_do_without_log_probabilities(host: Host) -> None:
    prompts = [prompt(index) for index in range(3)]
    with_logprobs, without = (
        {item.prompt_uid: item for item in host.generate(prompts, Sampling(1, 0.0, 1.0, 8, logprobs=wanted))}
        for wanted in (True, False)
    )
    for uid, trace in with_logprobs.items():
        assert trace.logprobs.shape == trace.token_ids.shape
        assert without[uid].logprobs.shape == (0,)
        assert without[uid].token_ids.tolist() == trace.token_ids.tolist()


def test_what_is_written_is_told_as_it_grows(host: Host) -> None:
    # As text is: it does not end within a character, whose other half would be the first that is written.
    end = AutoTokenizer.from_pretrained(host.model).encode(":")
    prompts = [replace(prompt(index), token_ids=(*prompt(index).token_ids, *end)) for index in range(3)]
    sampling = Sampling(2, max_tokens=60, seed=1)
    unwatched = {(trace.prompt_uid, trace.sample): trace for trace in host.generate(prompts, sampling)}

    async def watch() -> list[Any]:
        return [item async for news in host.engine.watch(prompts, sampling) for item in news]

    written: dict[tuple[str, int], list[str]] = {trace: [] for trace in unwatched}
    for item in host.run(watch()):
        key = item.prompt_uid, item.sample
        if isinstance(item, Added):
            written[key].append(item.text)
            continue
        assert item.token_ids.tolist() == unwatched[key].token_ids.tolist()
        assert item.logprobs.tolist() == pytest.approx(unwatched[key].logprobs.tolist(), abs=1e-5)
        # All of it came before the trace, in pieces; but for bytes that were still to become a character.
        pieces = written.pop(key)
        text = "".join(pieces)
        assert item.text.startswith(text)
        assert item.text[len(text) :][:1] in ("", "\ufffd")
        assert len(pieces) > 1 or len(item.token_ids) < 5
    assert not written


@pytest.mark.parametrize("way", ["generate", "watch"])
def test_what_is_not_waited_for_is_not_written_to_its_end(host: Host, way: str) -> None:
    """Its end would be the model's limit, hundreds of tokens on."""

    async def leave() -> int:
        prompts = [replace(prompt(index), uid=f"endless {index}") for index in range(4)]
        stream = getattr(host.engine, way)(prompts, Sampling(8, max_tokens=400))
        first = await anext(stream)
        assert len(first) < 32
        assert await host.engine.unfinished() > 0
        # vLLM's scheduler itself says whether anybody holds a part of the cache.
        assert not await host.engine._llm.reset_prefix_cache()
        await stream.aclose()
        # One turn of the loop for the tasks, and one step of the engine.
        await asyncio.wait_for(_until_idle(host.engine), 30)
        assert await host.engine._llm.reset_prefix_cache(), "the scheduler was told as well"
        return await host.engine.unfinished()

    assert host.run(leave()) == 0


async def _until_idle(engine: Engine) -> None:
    while await engine.unfinished():
        await asyncio.sleep(0.01)


def test_vllm_has_as_many_requests_as_keep_it_busy_and_the_others_wait_outside(host: Host) -> None:
    """Thousands at once would be a time in which the engine's process answers nobody, and is taken for stuck."""
    room = 4 * host.engine.settings.max_sequences

    async def ask() -> list[Trace | GenerationFailure]:
        prompts = [replace(prompt(index), uid=f"one of many {index}") for index in range(room)]
        stream = host.engine.generate(prompts, Sampling(2, max_tokens=4))
        arrived = await anext(stream)
        assert len(arrived) < room
        assert await host.engine.unfinished() >= 2 * room - len(arrived)
        while True:
            assert host.engine._llm.get_num_unfinished_requests() <= room
            try:
                arrived += await anext(stream)
            except StopAsyncIteration:
                return arrived

    arrived = host.run(asyncio.wait_for(ask(), 120))
    assert len({(item.prompt_uid, item.sample) for item in arrived if isinstance(item, Trace)}) == 2 * room
    assert len(arrived) == 2 * room
    assert host.run(host.engine.unfinished()) == 0


def test_every_sample_arrives_once_with_what_training_needs(host: Host) -> None:
    prompts = [prompt(index) for index in range(3)]
    traces = host.generate(prompts, Sampling(samples=4, max_tokens=20))
    assert sorted((trace.prompt_uid, trace.sample) for trace in traces) == [
        (item.uid, sample) for item in prompts for sample in range(4)
    ]
    for trace in traces:
        assert len(trace.token_ids) == len(trace.logprobs) == len(trace.versions) <= 20
        assert (trace.finish_reason == "length") == (len(trace.token_ids) == 20 and trace.token_ids[-1] != END)
        assert (trace.min_version, trace.max_version) == (0, 0)
    # Samples of one prompt differ, or there would be nothing to compare in a group.
    assert len({tuple(trace.token_ids) for trace in traces}) > 6


def test_prompt_that_does_not_fit_is_a_failure_with_a_cause(host: Host) -> None:
    [failure] = host.generate([prompt(0, length=300)], Sampling(max_tokens=5))
    assert isinstance(failure, GenerationFailure)
    assert failure.cause == "prompt_too_long"
    assert "256" in failure.detail


async def update_and_look(host: Host, update: WeightUpdate) -> tuple[LoadedWeights, Beat]:
    """What was loaded, and what the engine said of itself meanwhile."""
    updating = asyncio.create_task(host.engine.update(update))
    await asyncio.sleep(0)
    beat = host.engine.beat()
    return await updating, beat


def test_published_weights_are_the_ones_that_are_sampled_from(host: Host, tmp_path: Path) -> None:
    prompts = [prompt(index) for index in range(8)]
    for version in (1, 2):
        weights = changed(host, seed=version)
        update = host.publish(weights, version, tmp_path)
        loaded, beat = host.run(update_and_look(host, update))
        assert beat.at == "update"
        # From the second on it is known how long one may stand still at it.
        assert beat.longest is None if version == 1 else 0 < (beat.longest or 0) < 60
        assert (loaded.version, loaded.checksum) == (version, update.checksum)
        traces = host.generate(prompts, Sampling(samples=2, max_tokens=24))
        assert {trace.min_version for trace in traces} == {version}
        assert differences(host, weights, prompts, traces).max() < 1e-5
        # The check would notice weights of another version.
        assert differences(host, changed(host, seed=9), prompts, traces).max() > 1e-2


def test_weights_over_the_network_are_the_ones_that_are_sampled_from(host: Host) -> None:
    store, address, port = open_store(60.0)
    terms = ChannelTerms(address, port, 2, 2**16, 60.0, 60.0)

    async def over_the_network(weights: Iterable[tuple[str, torch.Tensor]], version: int) -> tuple[Any, ...]:
        """Gathered and sent while the engine, which knows nothing but the version, receives."""
        sending = asyncio.to_thread(gathered, weights, version, channel.send)
        updating = host.engine.update(WeightUpdate(version, None, (), 0))
        return tuple(await asyncio.gather(updating, sending, return_exceptions=True))

    async def meet() -> WeightChannel:
        joining = host.engine.join_channel(terms, 1)
        return (await asyncio.gather(asyncio.to_thread(WeightChannel, store, 0, "cpu", terms), joining))[0]

    channel = host.run(meet())
    weights = changed(host, seed=2)

    def ending_early() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(changed(host, seed=4).items())[:-1]
        raise ConnectionError("a rank is gone")

    refused, failed = host.run(over_the_network(ending_early(), 2))
    assert "could not gather them" in str(refused), "at once, not after the channel's minute"
    assert str(failed) == "a rank is gone"
    # Half of other weights were loaded: the next are whole again.
    loaded, (held, failure) = host.run(over_the_network(weights.items(), 2))
    assert failure is None
    assert not isinstance(loaded, Exception), loaded
    assert (loaded.version, loaded.checksum) == (2, held.update.checksum)
    prompts = [prompt(index) for index in range(4)]
    traces = host.generate(prompts, Sampling(samples=2, max_tokens=24))
    assert {int(version) for trace in traces for version in trace.versions} == {2}
    assert differences(host, weights, prompts, traces).max() < 1e-5


def test_temperature_is_in_the_logprobs(host: Host) -> None:
    prompts = [prompt(index) for index in range(4)]
    traces = host.generate(prompts, Sampling(samples=2, temperature=0.5, max_tokens=10))
    weights = changed(host, seed=2)
    # Rounding of the logits counts 1 / temperature times as much.
    assert differences(host, weights, prompts, traces, temperature=0.5).max() < 1e-5 / 0.5
    assert differences(host, weights, prompts, traces).max() > 1e-2


def test_update_in_flight_is_marked_token_by_token(host: Host, tmp_path: Path) -> None:
    async def update_meanwhile() -> list[Any]:
        flying = asyncio.create_task(host.collect([prompt(index) for index in range(8)], Sampling(2, max_tokens=200)))
        # Waits for what it must, the first step of the engine, not for a length of time.
        while not host.engine._llm.output_processor.has_unfinished_requests():
            await asyncio.sleep(0)
        await host.engine.update(host.publish(changed(host, seed=3), 3, tmp_path))
        return await flying

    traces = host.run(update_meanwhile())
    for trace in traces:
        assert (np.diff(trace.versions) >= 0).all()
        assert set(trace.versions) <= {2, 3}
    assert any(trace.max_version == 3 for trace in traces)


def test_an_engine_that_sleeps_writes_when_all_of_it_is_awake_and_by_the_weights_that_came_meanwhile(
    host: Host, tmp_path: Path
) -> None:
    """On CPU nothing is freed, and vLLM keeps the order."""
    weights, sampling = changed(host, seed=8), Sampling(4, 0.7, 1.0, 20)
    prompts = [prompt(index) for index in range(4)]
    asleep = host.engine.sleeping

    async def sleep_and_wake() -> list[Trace | GenerationFailure]:
        # One request, of which a step is done: vLLM holds back what it gets to know after the call.
        steps = host.engine.beat().progress
        before = asyncio.create_task(host.collect(prompts[:1], replace(sampling, samples=1)))
        while host.engine.beat().progress == steps:
            await asyncio.sleep(0)
        used = await asleep.fall(at_once=False)
        assert {item.finish_reason for item in await before} <= {"stop", "length"}, "it slept when all had ended"
        assert used.left > 0
        writing = asyncio.create_task(host.collect(prompts, sampling))
        while await host.engine.unfinished() < len(prompts) * sampling.samples:
            await asyncio.sleep(0)
        for part in ("weights", "kv_cache"):
            assert asleep.now
            assert await host.engine._llm.is_sleeping()
            assert not writing.done()
            await asleep.wake(part)
            if part == "weights":
                await host.engine.update(host.publish(weights, 8, tmp_path))
        assert not asleep.now
        return await writing

    traces = host.run(asyncio.wait_for(sleep_and_wake(), 120))
    assert {int(version) for trace in traces for version in trace.versions} == {8}
    assert differences(host, weights, prompts, traces, sampling.temperature).max() < 1e-4


def test_an_engine_that_must_sleep_at_once_gives_up_what_it_writes(host: Host) -> None:
    async def give_up() -> list[Trace | GenerationFailure]:
        writing = asyncio.create_task(host.collect([prompt(1)], Sampling(2, 1.0, 1.0, 200)))
        # What vLLM has not been given yet it cannot give up: that is written when it is awake again.
        while host.engine._llm.get_num_unfinished_requests() < 2:
            await asyncio.sleep(0)
        await host.engine.sleeping.fall(at_once=True)
        ended = await writing
        for part in ("weights", "kv_cache"):
            await host.engine.sleeping.wake(part)
        return ended

    ended = host.run(asyncio.wait_for(give_up(), 120))
    assert [type(item) for item in ended] == [GenerationFailure] * 2


VICTIM = "model.layers.1.mlp.up_proj.weight"


def damaged(host: Host, version: int, folder: Path) -> WeightUpdate:
    update = host.publish(changed(host, seed=version), version, folder)
    tensors = load_file(update.path)
    tensors[VICTIM][3, 5] += 1e-6
    save_file(tensors, update.path)
    return update


def test_a_tensor_that_was_damaged_on_the_way_stops_the_update_until_it_is_published_whole(
    host: Host, tmp_path: Path
) -> None:
    host.run(host.engine.update(host.publish(changed(host, seed=3), 3, tmp_path)))
    with pytest.raises(UpdateFailed, match=rf"weight update to version 4 failed.*{VICTIM}.*checksum"):
        host.run(host.engine.update(damaged(host, 4, tmp_path)))
    assert host.run(host.engine.update(host.publish(changed(host, seed=4), 4, tmp_path))).version == 4
    [trace] = host.generate([prompt(0)], Sampling(max_tokens=8, seed=1))
    assert isinstance(trace, Trace)
    assert set(trace.versions.tolist()) == {4}
    with pytest.raises(UpdateFailed):
        host.run(host.engine.update(damaged(host, 5, tmp_path)))
    with pytest.raises(UpdateFailedAgain, match=VICTIM):
        host.run(host.engine.update(damaged(host, 5, tmp_path)))


# Last: an engine whose update failed writes nothing more, because its weights may be of two versions.


def test_weights_for_another_vocabulary_stop_the_update_and_say_so(host: Host, tmp_path: Path) -> None:
    weights = changed(host, seed=5)
    embedding = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([embedding, embedding[:1]])
    with pytest.raises(
        EngineError, match=rf"embed_tokens.*vocabulary of {len(embedding) + 1}.*one of {len(embedding)}"
    ):
        host.run(host.engine.update(host.publish(weights, 5, tmp_path)))
