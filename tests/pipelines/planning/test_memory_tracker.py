"""Planned memory of a learner rank agrees with torch's own tracker, for every recipe and for what recipes vary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from configs import configured

from pipelines.config.compose import CONF
from pipelines.planning.learner import GIB, LearnerLoad, learner_memory
from pipelines.planning.recipe import learner_load, model_shape
from pipelines.planning.shape import ModelShape

ROOT = CONF.parent
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
MIDDLE = ModelShape(4096, 12288, 4, 32, 8, 128, 64_000, qkv_bias=True)
SHARDED = LearnerLoad(8, "bfloat16", 16384, True, True, "none", False, "adamw")
VARIANTS = {
    "plain": (MIDDLE, SHARDED),
    "half the tokens": (MIDDLE, replace(SHARDED, tokens=8192)),
    "wide": (replace(MIDDLE, intermediate=24576), SHARDED),
    "tied": (replace(MIDDLE, tied=True), SHARDED),
    "large vocabulary": (replace(MIDDLE, vocabulary=256_000), replace(SHARDED, tokens=4096)),
    "one rank": (MIDDLE, replace(SHARDED, ranks=1)),
    "float32": (MIDDLE, replace(SHARDED, dtype="float32")),
    "all activations": (MIDDLE, replace(SHARDED, checkpointing=False)),
    "whole between forward and backward": (MIDDLE, replace(SHARDED, reshard=False)),
    "on a CPU": (MIDDLE, replace(SHARDED, device="cpu")),
    "norms of heads": (replace(MIDDLE, qkv_bias=False, normed_heads=True), SHARDED),
}


def case(shape: ModelShape, load: LearnerLoad) -> dict[str, Any]:
    kind = (
        "gemma3_text" if shape.norms == 4 else "qwen3" if shape.normed_heads else "qwen2" if shape.qkv_bias else "llama"
    )
    return {
        "ranks": load.ranks,
        "dtype": load.dtype,
        "tokens": load.tokens,
        "checkpointing": load.checkpointing,
        "reshard": load.reshard,
        "device": load.device,
        "shape": {
            "model_type": kind,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocabulary,
            "tie_word_embeddings": shape.tied,
        },
    }


def of_recipe(recipe: str) -> tuple[ModelShape, LearnerLoad]:
    config = configured(f"recipe={recipe}")
    shape = model_shape(config)
    assert shape is not None
    # As if all of it were trained: adapters cannot be added to fake tensors.
    return shape, replace(learner_load(config, "rl"), lora_rank=0)


DEPTHS = (3, 4)
"""Layers at which recipes are tracked: what a rank holds is linear in them, and torch takes half a minute for 64."""
WHOLE = "rm_r1_qwen2_5_7b"
"""The recipe that is tracked with all its layers, too."""


@pytest.fixture(scope="module")
def at_peak() -> Callable[[ModelShape, LearnerLoad], dict[str, float]]:
    """GiB by torch's kinds of what was tracked; recipes that differ in nothing a rank's memory depends on share it."""
    recipes = [of_recipe(recipe) for recipe in RECIPES]
    cut = [(replace(shape, layers=layers), load) for shape, load in recipes for layers in DEPTHS]
    cases = [json.dumps(case(*one)) for one in [*cut, of_recipe(WHOLE), *VARIANTS.values()]]
    distinct = list(dict.fromkeys(cases))
    script = str(ROOT / "tests" / "support" / "tracked_memory.py")
    done = subprocess.run(
        [sys.executable, script, f"[{', '.join(distinct)}]"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(zip(distinct, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return lambda shape, load: found[json.dumps(case(shape, load))]


def on_the_line(at_peak: Callable[..., dict[str, float]], shape: ModelShape, load: LearnerLoad) -> dict[str, float]:
    """What a rank holds with all layers, from what it holds at two depths."""
    few, more = (at_peak(replace(shape, layers=layers), load) for layers in DEPTHS)
    times = (shape.layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    return {kind: few[kind] + times * (more[kind] - few[kind]) for kind in few}


def planned(shape: ModelShape, load: LearnerLoad) -> tuple[float, float]:
    """GiB without optimiser and reference, which the tracker was not given; and with them."""
    parts = {name: size / GIB for name, size in learner_memory(shape, load).parts.items()}
    return sum(size for name, size in parts.items() if name not in ("optimizer", "reference")), sum(parts.values())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_agrees(recipe: str, at_peak: Callable[..., dict[str, float]]) -> None:
    shape, load = of_recipe(recipe)
    found = on_the_line(at_peak, shape, load)
    assert planned(shape, load)[0] == pytest.approx(found["total"], rel=0.1), found
    # Shards are no estimates.
    parts = learner_memory(shape, load).parts
    assert parts["parameters"] / GIB == pytest.approx(found["sharded_param"], rel=0.01)
    if load.reshard:
        assert parts["gradients"] / GIB == pytest.approx(found["sharded_grad"], rel=0.01)


@pytest.mark.slow
def test_memory_is_linear_in_layers(at_peak: Callable[..., dict[str, float]]) -> None:
    shape, load = of_recipe(WHOLE)
    assert on_the_line(at_peak, shape, load)["total"] == pytest.approx(at_peak(shape, load)["total"], rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_agrees(variant: str, at_peak: Callable[..., dict[str, float]]) -> None:
    shape, load = VARIANTS[variant]
    found = at_peak(shape, load)
    assert planned(shape, load)[0] == pytest.approx(found["total"], rel=0.1), found


# With optimiser and reference, as they were found another way before there was a plan.
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "gib"), [("7b", 43), ("14b", 50), ("32b", 61)])
def test_the_whole_rank(recipe: str, gib: float) -> None:
    assert planned(*of_recipe(f"rm_r1_qwen2_5_{recipe}"))[1] == pytest.approx(gib, rel=0.1)
