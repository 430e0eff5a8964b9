"""Sizes of a model from its configuration, where they are found, and over how many devices its layers can be split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from configs import configured

from pipelines.job.session import Session
from pipelines.planning.shape import ModelShape, ShapeError, find_shape, refuse_unsplittable, shape_if_known, shape_of
from pipelines.runs.folder import RunDirectory

KEYS: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tie_word_embeddings": True},
        {"model_type": "llama"},
        {"model_type": "llama", "num_key_value_heads": None},
        {"model_type": "qwen3", "head_dim": 32},
        {"model_type": "gemma3_text", "head_dim": 32, "tie_word_embeddings": True},
    ],
)
def test_parameters_are_those_of_the_model(extra: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = KEYS | extra
    stated = AutoConfig.for_model(**keys).to_dict()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys))
    assert shape_of(stated, "x").parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_text_part_is_read() -> None:
    assert shape_of({"model_type": "both", "text_config": KEYS}, "x") == shape_of(KEYS, "x")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": None}, "hidden_size must be a whole number above 0, not None"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number above 0, not 'many'"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "has layers of linear_attention: only models of"),
        ({"num_experts": 8}, "num_experts=8: only dense models can be planned"),
    ],
)
def test_what_cannot_be_planned_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(KEYS | keys, "config.json")


def test_a_folder_comes_before_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KEYS | {"num_hidden_layers": 9}))
    kept = KEYS | {"_name_or_path": str(tmp_path)}
    found = find_shape(str(tmp_path), kept)
    assert found is not None
    assert found.layers == 9


def test_a_kept_shape_is_of_the_model_it_names() -> None:
    kept = KEYS | {"_name_or_path": "somebody/judge"}
    assert find_shape("somebody/judge", kept) == shape_of(KEYS, "x")
    assert find_shape("somebody/else", kept) is None
    assert find_shape("/no/such/folder", kept) is None


def test_a_broken_file_is_an_error_to_a_plan_and_unknown_to_a_job(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ShapeError, match="cannot be read"):
        find_shape(str(tmp_path), {})
    assert shape_if_known(str(tmp_path), {}) is None


# Heads, heads of keys, and the numbers of devices that vLLM accepts of 1 to 8.
@pytest.mark.parametrize(
    ("heads", "keys", "accepted"),
    [(28, 4, {1, 2, 4}), (40, 8, {1, 2, 4, 8}), (32, 2, {1, 2, 4, 8}), (6, 3, {1, 3, 6}), (9, 3, {1, 3})],
)
def test_devices_split_heads(heads: int, keys: int, accepted: set[int]) -> None:
    shape = ModelShape(heads * 16, 5040 * 16, 2, heads, keys, 16, 100)

    for devices in accepted:
        refuse_unsplittable(shape, devices, "a model")
    for devices in set(range(1, 9)) - accepted:
        with pytest.raises(ShapeError, match=f"rollout.tensor_parallel={devices} does not fit a model"):
            refuse_unsplittable(shape, devices, "a model")


@pytest.mark.slow
def test_engines_refuse_such_a_model_before_they_start(tmp_path: Path) -> None:
    """Whichever model a stage gives them: here one that the settings do not name."""
    (tmp_path / "config.json").write_text(json.dumps(KEYS | {"num_attention_heads": 9, "num_key_value_heads": 3}))
    with RunDirectory(tmp_path / "outputs", "trial", "tiny") as run:
        session = Session(configured("recipe=tiny", "rollout.tensor_parallel=2"), run)
        with pytest.raises(ShapeError, match=f"tensor_parallel=2 does not fit {tmp_path}.*choose 1"):
            session.launch_rollouts(str(tmp_path))
