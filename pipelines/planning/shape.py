"""The sizes of a model, from the keys of its ``config.json``, and what follows from them: parameters, heads per device.

Dense decoders with gated MLPs and rotary positions: Qwen2, Qwen3, Llama, Mistral, Gemma. Counts are those of the
checkpoint's tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError

# Families by `model_type`, where config.json does not say it.
_BIASED = ("qwen2",)
_NORMED_HEADS = ("qwen3", "gemma3", "gemma3_text")
_TIED = ("gemma", "gemma2", "gemma3", "gemma3_text")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# Keys of models whose layers are not all the same dense one.
_ATTENTION = ("full_attention", "sliding_attention")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class ShapeError(UserError, ValueError):
    """A model's sizes cannot be read, or do not fit a setting; says which and what to change."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder. Counts are of parameters, not bytes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    """The output embedding is the input's."""
    qkv_bias: bool = False
    normed_heads: bool = False
    """Queries and keys pass a norm of their own."""
    norms: int = 2
    """Of a layer, each as wide as its input."""

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """[outputs, inputs] of a layer's matrices: query, key, value, output, gate, up, down."""
        hidden, wide = self.hidden, self.intermediate
        attention = ((self.queries, hidden), (self.keys, hidden), (self.keys, hidden), (hidden, self.queries))
        return (*attention, (wide, hidden), (wide, hidden), (hidden, wide))

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        biases = (self.queries + 2 * self.keys) if self.qkv_bias else 0
        norms = self.norms * self.hidden + (2 * self.head_dim if self.normed_heads else 0)
        return sum(rows * columns for rows, columns in self.linear) + biases + norms

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, or of the output's."""
        return self.vocabulary * self.hidden

    @property
    def root(self) -> int:
        """Parameters outside the layers: embeddings and the last norm."""
        return self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + self.root


def shape_of(stated: Mapping[str, Any], origin: str) -> ModelShape:
    """The shape that a ``config.json`` states.

    Args:
        stated: its keys; those of a multimodal model's text part under ``text_config``.
        origin: what to call it in messages.

    Raises:
        ShapeError: a size is missing, no number, or the model is of another kind: a mixture of experts, layers of
            linear attention.

    """
    inner = stated.get("text_config")
    keys = {**stated, **inner} if isinstance(inner, Mapping) else stated
    if expert := next((name for name in _EXPERTS if keys.get(name)), None):
        raise ShapeError(f"{origin} has {expert}={keys[expert]}: only dense models can be planned")

    if other := next((kind for kind in keys.get("layer_types") or () if kind not in _ATTENTION), None):
        raise ShapeError(f"{origin} has layers of {other}: only models of attention layers can be planned")

    def size(name: str, default: Any = None) -> int:
        value = keys.get(name) if keys.get(name) is not None else default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ShapeError(f"{origin}: {name} must be a whole number above 0, not {value!r}")
        return value

    hidden, wide, layers, heads, vocabulary = map(size, _SIZES)
    kind = keys.get("model_type", "")
    return ModelShape(
        hidden=hidden,
        intermediate=wide,
        layers=layers,
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", max(1, hidden // heads)),
        vocabulary=vocabulary,
        tied=bool(keys.get("tie_word_embeddings", kind in _TIED)),
        qkv_bias=bool(keys.get("attention_bias", kind in _BIASED)),
        normed_heads=kind in _NORMED_HEADS,
        norms=4 if kind in _FOUR_NORMS else 2,
    )


def find_shape(path: str, kept: Mapping[str, Any]) -> ModelShape | None:
    """The shape of the checkpoint at ``path``; None where nothing on this machine says it.

    From the ``config.json`` of a local folder, else that of the hub's cache, else from ``kept`` where that is of the
    same name (its key ``_name_or_path``). No network is used.

    Raises:
        ShapeError: see :func:`shape_of`; or a ``config.json`` that cannot be read.

    """
    file = Path(path) / "config.json" if Path(path).is_dir() else _cached(path)
    if file is not None and file.is_file():
        try:
            stated = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ShapeError(f"{file} cannot be read: {error}") from error
        if not isinstance(stated, dict):
            raise ShapeError(f"{file} does not hold a JSON object")
        return shape_of(stated, str(file))
    return shape_of(kept, f"model.shape of {path}") if kept.get("_name_or_path") == path else None


def shape_if_known(path: str, kept: Mapping[str, Any]) -> ModelShape | None:
    """:func:`find_shape`, but None also for a model of another kind than those that can be planned."""
    try:
        return find_shape(path, kept)
    except ShapeError:
        return None


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # A path that is no name either.
        return None
    return Path(found) if isinstance(found, str) else None


def refuse_unsplittable(shape: ModelShape, devices: int, model: str) -> None:
    """Refuse a number of devices over which vLLM cannot split the model's layers.

    Each device gets the same number of attention heads and of the MLP's columns. Heads of keys are split too, or, where
    there are fewer of them than devices, each is held by the same number of devices.

    Raises:
        ShapeError: naming what does not divide, and the numbers that work.

    """
    fits = [count for count in range(1, shape.heads + 1) if _splits(shape, count)]
    if devices not in fits:
        raise ShapeError(
            f"rollout.tensor_parallel={devices} does not fit {model}: its {shape.heads} attention heads, "
            f"{shape.kv_heads} heads of keys and {shape.intermediate} columns of the MLP cannot be split over so many "
            f"devices; choose {', '.join(map(str, fits[:-1]))}{' or ' if len(fits) > 1 else ''}{fits[-1]}"
        )


def _splits(shape: ModelShape, devices: int) -> bool:
    keys, few = shape.kv_heads, min(shape.kv_heads, devices)
    return not shape.heads % devices and not max(keys, devices) % few and not shape.intermediate % devices
