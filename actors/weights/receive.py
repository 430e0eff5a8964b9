"""The receiving side of a weight update, inside vLLM's own processes.

vLLM calls :func:`register` in every engine process through the entry point group ``vllm.general_plugins`` (setup.cfg).
Weights arrive in a file or over a :class:`~actors.weights.channel.WeightChannel`. Before a tensor is loaded, its
checksum is compared with what the learner said it sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors import memory
from actors.collector import collect_as_usual
from actors.logs import answer_with_stacks
from actors.messages import ChannelTerms, TensorEntry, WeightUpdate
from actors.processes import end_with_parent
from actors.rendezvous import join_store
from actors.weights.channel import WeightChannel
from actors.weights.checksums import combined_checksum, tensor_checksum

BACKEND = "verified"

# Tensors with a row for each entry of the vocabulary; vLLM would pad or cut them in places, or fail without a name.
_BY_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


class WeightMismatch(RuntimeError):
    """What arrived is not what was sent; names the first tensor that differs."""


@dataclass
class ChannelInit(WeightTransferInitInfo):
    """A weight channel, and which of its members this engine's processes are."""

    first_rank: int
    terms: dict[str, Any]
    """Fields of :class:`~actors.messages.ChannelTerms`."""


@dataclass
class VerifiedUpdate(WeightTransferUpdateInfo):
    """One update: where it is, and per tensor ``(name, dtype, shape, checksum)`` as sent."""

    path: str | None
    tensors: list[dict[str, Any]]
    """Of a file. Over the network each tensor comes with what it is."""

    @classmethod
    def of(cls, update: WeightUpdate) -> dict[str, Any]:
        """The plain form that crosses vLLM's process boundary."""
        return {"path": update.path, "tensors": [asdict(entry) for entry in update.tensors if update.path]}


class VerifiedWeightEngine(WeightTransferEngine[ChannelInit, VerifiedUpdate]):
    """Load checkpoint-format weights from a file, or as they are broadcast, once their checksums are right."""

    init_info_cls = ChannelInit
    update_info_cls = VerifiedUpdate
    received: int | None = None
    """Checksum of all tensors of the last update together, as they arrived."""
    _channel: WeightChannel | None = None

    def init_transfer_engine(self, init_info: ChannelInit) -> None:
        """Join the channel; files need no such thing."""
        terms, rank = ChannelTerms(**init_info.terms), init_info.first_rank + self.parallel_config.rank
        store = join_store(terms.address, terms.port, terms.rendezvous_timeout, f"weight channel member {rank}")
        self._channel = WeightChannel(store, rank, str(self.device), terms)

    def start_weight_update(self) -> None:
        """Restore loadable parameters: on CPU vLLM prepacks linear weights and leaves the plain ones empty."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class always synchronises an accelerator afterwards, and fails on CPU where there is none.
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            # What came in part is left as it is, to be overwritten: vLLM cannot begin to load within another loading.
            self.finish_weight_update()
            raise
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: VerifiedUpdate) -> None:
        entries = [TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in update_info.tensors]
        arrived: list[TensorEntry] = []
        failure: Exception | None = None
        for tensors in self._arriving(update_info.path, entries):
            # What a broadcast brings is received to its end: others would wait for the one who does not.
            if failure is None:
                try:
                    arrived += [self._checked(tensor, sent) for sent, tensor in tensors]
                    cast(Any, self.model).load_weights((sent.name, tensor) for sent, tensor in tensors)
                except Exception as error:
                    failure = error
        if failure is not None:
            raise failure
        self.received = combined_checksum(arrived)

    def _arriving(
        self, path: str | None, entries: Sequence[TensorEntry]
    ) -> Iterator[list[tuple[TensorEntry, torch.Tensor]]]:
        """A file's tensors at once, or the channel's bucket by bucket; each with what the learner says it is."""
        if path is None:
            if self._channel is None:
                raise WeightMismatch("an update over the network was announced before the engine joined the channel")
            yield from self._channel.receive()
            return
        received, expected = load_file(path), {entry.name for entry in entries}
        if set(received) != expected:
            missing, extra = sorted(expected - set(received)), sorted(set(received) - expected)
            raise WeightMismatch(f"weight file {path}: missing tensors {missing}, unexpected {extra}")
        yield [(entry, received[entry.name]) for entry in entries]

    def _checked(self, tensor: torch.Tensor, sent: TensorEntry) -> TensorEntry:
        """What arrived, described as the learner described what it sent."""
        dtype, checksum = str(tensor.dtype).removeprefix("torch."), tensor_checksum(tensor)
        if checksum != sent.checksum:
            raise WeightMismatch(
                f"tensor {sent.name!r} has checksum {checksum:#018x}, the learner sent {sent.checksum:#018x}"
            )
        rows = self.model_config.hf_text_config.vocab_size
        if sent.name.endswith(_BY_VOCABULARY) and len(tensor) != rows:
            raise WeightMismatch(
                f"tensor {sent.name!r} is for a vocabulary of {len(tensor):,}, the engine was started with one of "
                f"{rows:,}: start engines and learners from the same model"
            )
        return TensorEntry(sent.name, dtype, tuple(tensor.shape), checksum)

    def finish_weight_update(self) -> None:
        """Prepack again and move the new weights to where the kernels read them."""
        finalize_layerwise_reload(self.model, self.model_config)
        # A head tied to the embedding has no weights of its own to load, so the reload leaves its prepacked copy on
        # CPU as it was: pack it again from the embedding that has just changed.
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead) and self.model_config.hf_config.tie_word_embeddings:
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Leave the channel."""
        self._channel = None


class WeightReplacement:
    """What vLLM adds to its workers: a whole update in one call, since every call keeps generation waiting."""

    def join_weight_channel(self: Any, meeting: dict[str, Any]) -> None:
        """Meet the other members of a weight channel; ``meeting`` has the fields of :class:`ChannelInit`."""
        self.init_weight_transfer_engine(meeting)

    def memory_in_use(self: Any) -> int:
        """Bytes in use on this process's device, by whomever; on CPU the process's own."""
        return memory.in_use(self.device.type)

    def replace_weights(self: Any, update_info: dict[str, Any]) -> int:
        """Load the weights that ``update_info`` names (see :meth:`VerifiedUpdate.of`); returns their checksum.

        Raises:
            WeightMismatch: they are not what was sent.

        """
        self.start_weight_update()
        self.update_weights(update_info)
        self.finish_weight_update()
        return self.weight_transfer_engine.received


def register() -> None:
    """Make the backend known to vLLM, and the process end with its actor; called in every process of vLLM's, in some
    more than once."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, VerifiedWeightEngine)
    # vLLM is imported.
    collect_as_usual()
    answer_with_stacks()
    end_with_parent()
