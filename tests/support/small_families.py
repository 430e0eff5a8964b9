"""Small random models of the families that recipes are for, with tokenizers of their shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import gemma3, llama3, qwen3

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    # So that a random model is sure of what it says, and a wrong mask or position shows.
    "initializer_range": 0.1,
}
FAMILIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    # Rotary positions scaled by wave length, from 8 times fewer than there are; a head of its own.
    "llama3_1": (
        llama3,
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
    ),
    # Tied heads, norms of queries and keys, four norms a layer; three layers of four see 16 tokens.
    "gemma3": (
        gemma3,
        "gemma3_text",
        {
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "tie_word_embeddings": True,
        },
    ),
    # Tied heads, norms of queries and keys; heads wider than the model.
    "qwen3": (qwen3, "qwen3", {"tie_word_embeddings": True}),
}


def build_family(name: str, folder: Path) -> Path:
    """Write a random model of a family to ``folder``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    build, kind, changes = FAMILIES[name]
    tokenizer = build()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
    config = AutoConfig.for_model(kind, **_SIZES | changes | ends)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
