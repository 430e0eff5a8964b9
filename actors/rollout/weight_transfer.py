"""The receiving side of a weight update, inside vLLM's own process.

vLLM calls :func:`register` in every engine process through the entry point group ``vllm.general_plugins`` (setup.cfg).
The engine here serves CPU and runs on one node: the weights arrive as a safetensors file in shared memory, and every
tensor's checksum is compared with what the learner said it sent before any of it is loaded.
"""

from __future__ import annotations

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

from actors.messages import WeightUpdate
from actors.weights import tensor_checksum

BACKEND = "shared_file"

# Tensors with a row for each entry of the vocabulary; vLLM would pad or cut them in places, or fail without a name.
_BY_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


class WeightMismatch(RuntimeError):
    """What arrived is not what was sent; names the first tensor that differs."""


@dataclass
class SharedFileInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand: every update names its file."""


@dataclass
class SharedFileUpdate(WeightTransferUpdateInfo):
    """One update: the file and, per tensor, ``(name, dtype, shape, checksum)`` as sent."""

    path: str
    tensors: list[dict[str, Any]]

    @classmethod
    def of(cls, update: WeightUpdate) -> dict[str, Any]:
        """The plain form that crosses vLLM's process boundary."""
        return {"path": update.path, "tensors": [asdict(entry) for entry in update.tensors]}


class SharedFileEngine(WeightTransferEngine[SharedFileInit, SharedFileUpdate]):
    """Load checkpoint-format weights from a file every engine process of the node can open."""

    init_info_cls = SharedFileInit
    update_info_cls = SharedFileUpdate

    def init_transfer_engine(self, init_info: SharedFileInit) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """Restore loadable parameters: on CPU vLLM prepacks linear weights and leaves the plain ones empty."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class always synchronises an accelerator afterwards, and fails on CPU where there is none.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: SharedFileUpdate) -> None:
        received = load_file(update_info.path)
        expected = {entry["name"]: entry for entry in update_info.tensors}
        if set(received) != set(expected):
            missing, extra = sorted(set(expected) - set(received)), sorted(set(received) - set(expected))
            raise WeightMismatch(f"weight file {update_info.path}: missing tensors {missing}, unexpected {extra}")
        for name, entry in expected.items():
            got = tensor_checksum(received[name])
            if got != entry["checksum"]:
                raise WeightMismatch(
                    f"weight file {update_info.path}: tensor {name!r} has checksum {got:#010x}, "
                    f"the learner sent {entry['checksum']:#010x}"
                )
        rows = self.model_config.hf_text_config.vocab_size
        for name, tensor in received.items():
            if name.endswith(_BY_VOCABULARY) and len(tensor) != rows:
                raise WeightMismatch(
                    f"tensor {name!r} is for a vocabulary of {len(tensor):,}, the engine was started with one of "
                    f"{rows:,}: start engines and learners from the same model"
                )
        cast(Any, self.model).load_weights(received.items())

    def finish_weight_update(self) -> None:
        """Prepack again and move the new weights to where the kernels read them."""
        finalize_layerwise_reload(self.model, self.model_config)
        # A head tied to the embedding has no weights of its own to load, so the reload leaves its prepacked copy on
        # CPU as it was: pack it again from the embedding that has just changed.
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead) and self.model_config.hf_config.tie_word_embeddings:
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class WeightReplacement:
    """What vLLM adds to its workers: a whole update in one call, since every call keeps generation waiting."""

    def replace_weights(self: Any, update_info: dict[str, Any]) -> None:
        """Load the weights that ``update_info`` names (see :meth:`SharedFileUpdate.of`).

        Raises:
            WeightMismatch: they are not what was sent.

        """
        self.start_weight_update()
        self.update_weights(update_info)
        self.finish_weight_update()


def register() -> None:
    """Make the backend known to vLLM; called once in every engine process, harmless when called again."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, SharedFileEngine)
