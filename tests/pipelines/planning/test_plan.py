"""What a plan says of the recipes, which limit it names, and that what does not fit is refused before a start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from configs import configured

from actors.placement import Role
from pipelines.config import Config, ConfigError
from pipelines.config.compose import CONF, load_config
from pipelines.plan import plan
from pipelines.planning.budget import budget, limits
from pipelines.planning.check import DoesNotFit, refuse_what_does_not_fit
from pipelines.planning.engine import EngineLoad, cache_bytes_per_token, engine_memory
from pipelines.planning.learner import GIB, LearnerLoad, learner_memory, trained_parameters
from pipelines.planning.nodes import place
from pipelines.planning.recipe import Machine, memory_here, model_shape
from pipelines.planning.report import plan_of
from pipelines.planning.shape import ModelShape
from pipelines.planning.work import cpu_engine_rate, engine_rate, learning_seconds
from pipelines.run import run

RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
KEYS = {
    *("learner_peak_gib", "learner_parts", "engine_gib", "kv_tokens", "sequences_at_full_length", "driver_gib"),
    *("publish_gib", "checkpoint_gib", "disk_gib", "steps", "gpu_hours", "placement", "first_limit"),
}
SHAPE = ModelShape(64, 160, 3, 4, 2, 16, 500, qkv_bias=True)
LOAD = LearnerLoad(4, "bfloat16", 1024, True, True, "none", True, "adamw")
PLENTY = Machine(1e15, 1e15, 1e15)


def planned(*overrides: str) -> dict[str, Any]:
    config = configured(*overrides)
    shape = model_shape(config)
    assert shape is not None
    return plan_of(config, shape)


def first_limit(*overrides: str, machine: Machine = PLENTY) -> str | None:
    config = configured(*overrides)
    shape = model_shape(config)
    assert shape is not None
    limit = next(limits(config, shape, budget(config, shape), machine), None)
    return None if limit is None else str(limit)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_plan_and_fits(recipe: str) -> None:
    found = planned(f"recipe={recipe}")
    assert found.keys() >= KEYS
    assert found["first_limit"] is None
    assert sum(found["learner_parts"].values()) == pytest.approx(found["learner_peak_gib"], abs=1e-3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_recipe_keeps_as_many_sequences_in_flight_as_its_cache_holds() -> None:
    for recipe in RECIPES:
        config = configured(f"recipe={recipe}")
        if config.cluster.device == "cuda":
            in_flight = config.rollout.max_sequences
            assert 0.65 < in_flight / planned(f"recipe={recipe}")["sequences_at_mean_length"] <= 1, recipe


def test_figures_of_the_largest_recipe() -> None:
    """By hand: 32,763,876,352 parameters; 12 bytes each in a checkpoint, four of them and an export on the disk."""
    found = planned("recipe=rm_r1_deepseek_32b")
    assert found["parameters"] == 32_763_876_352
    assert found["checkpoint_gib"] == pytest.approx(12 * 32_763_876_352 / GIB, abs=1e-3)
    assert found["publish_gib"] == pytest.approx(2 * 32_763_876_352 / GIB, abs=1e-3)
    assert found["disk_gib"] == pytest.approx((4 * 12 + 2) * 32_763_876_352 / GIB, abs=1e-3)
    assert found["steps"] == 71  # 73,000 pairs, 1% held out, in batches of 1,024
    assert [node["gpus"] for node in found["placement"]] == [8, 8, 8, 8]
    assert found["gpu_hours"] == pytest.approx(32 * found["hours"], rel=1e-3)


@pytest.mark.slow
def test_prompts_take_four_bytes_a_token_and_a_checkpoint_a_copy_of_its_state() -> None:
    """By hand: 72,270 prompts of 1,024 tokens; 12 bytes a parameter, of which a node of 8 ranks copies half."""
    recipe = "recipe=rm_r1_deepseek_32b"
    half = planned(recipe, "plan.prompt_share=0.125")
    assert planned(recipe)["driver_gib"] - half["driver_gib"] == pytest.approx(4 * 72_270 * 512 / GIB, abs=1e-3)
    waited = planned(recipe, "rl.checkpoints.in_background=false")
    copied = planned(recipe)["node_gib"] - waited["node_gib"]
    assert copied == pytest.approx(12 * 32_763_876_352 / 2 / GIB, rel=1e-3)


@pytest.mark.slow
def test_two_copies_of_the_learners_state_are_told_and_no_limit() -> None:
    """By hand: 12 bytes a parameter, of which a node of 8 of 16 ranks copies half, twice."""
    recipe = "recipe=rm_r1_deepseek_32b"
    found = planned(recipe)
    assert found["copies_gib"] == pytest.approx(12 * 32_763_876_352 / GIB, rel=1e-3)
    sent = planned(recipe, "learner.copies_on_other_nodes=true")
    assert sent["copies_gib"] == pytest.approx(2 * found["copies_gib"], abs=1e-3)
    without = planned(recipe, "learner.peer_copy=false")
    assert without["copies_gib"] == 0
    assert without["node_gib"] == found["node_gib"]
    assert planned("recipe=qwen2_5_1_5b")["copies_gib"] == 0


def test_the_tiny_recipe_counts_its_own_data() -> None:
    found = planned("recipe=tiny")
    assert (found["steps"], found["stages"]["distill"]["steps"]) == (100, 2188)
    assert found["gpu_hours"] == 0
    assert planned("recipe=tiny", "rl.steps=0")["steps"] == 500  # 8,000 pairs in both orders, 32 prompts per step


@pytest.mark.slow
def test_pairs_of_a_file_are_counted_and_others_are_not_guessed(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("{}\n\n{}\n" * 500)
    common = (
        "recipe=tiny",
        "rl.steps=0",
        "data.orders=alternate",
        "rl.distil_first=false",
        "data.heldout_fraction=0.2",
    )
    assert planned(*common, f"data.train={pairs}")["steps"] == 25
    unknown = planned(*common, "data.train=somebody/pairs")
    assert (unknown["steps"], unknown["hours"], unknown["gpu_hours"]) == (None, None, None)
    assert planned(*common, "data.train=somebody/pairs", "plan.pairs=400")["steps"] == 10


def test_what_settings_take_from_a_rank() -> None:
    whole = learner_memory(SHAPE, LOAD)
    shard = SHAPE.parameters / 4
    assert whole.parts["parameters"] == whole.parts["gradients"] == 4 * shard
    assert (whole.parts["optimizer"], whole.parts["reference"]) == (8 * shard, 2 * shard)
    assert learner_memory(SHAPE, replace(LOAD, reference=False)).parts["reference"] == 0
    offloaded = learner_memory(SHAPE, replace(LOAD, offload="reference"))
    assert (offloaded.parts["reference"], offloaded.host) == (0, 2 * shard)
    everything = learner_memory(SHAPE, replace(LOAD, offload="all"))
    assert everything.host == 18 * shard
    assert whole.peak - everything.peak == pytest.approx(18 * shard)
    assert learner_memory(SHAPE, replace(LOAD, optimizer="adamw8bit")).parts["optimizer"] == shard * 2.03125


def test_adapters_are_counted_by_target() -> None:
    rank = 8
    query = rank * (64 + 64)
    assert trained_parameters(SHAPE, rank, ["q_proj"]) == 3 * query
    assert trained_parameters(SHAPE, rank, ["self_attn.q_proj", "up_proj"]) == 3 * (query + rank * (64 + 160))
    memory = learner_memory(SHAPE, replace(LOAD, lora_rank=rank, lora_targets=("q_proj",)))
    assert memory.parts["parameters"] == (4 * 3 * query + 2 * SHAPE.parameters) / 4
    assert memory.parts["reference"] == 0


def test_an_engines_cache() -> None:
    """Qwen2.5-7B over four devices: 28 layers, one of four heads of keys each, 128 wide, 2 bytes."""
    shape = ModelShape(3584, 18944, 28, 28, 4, 128, 152_064, qkv_bias=True)
    assert cache_bytes_per_token(shape, "bfloat16", 4) == 2 * 28 * 128 * 2
    assert cache_bytes_per_token(shape, "bfloat16", 8) == cache_bytes_per_token(shape, "bfloat16", 4)
    load = EngineLoad("cuda", "bfloat16", 4, 12_288, 256, 16_384, 0, 80, 0.85, False)
    memory = engine_memory(shape, load)
    assert memory.total == pytest.approx(0.85 * 80 * GIB)
    assert memory.parts["weights"] == pytest.approx(2 * shape.parameters / 4, rel=1e-4)
    assert memory.kv_tokens == pytest.approx(memory.parts["cache"] / 14_336, rel=1e-4)
    assert memory.sequences_at_full_length == memory.kv_tokens // 12_288
    stated = engine_memory(SHAPE, EngineLoad("cpu", "float32", 1, 100, 8, 512, 1, 80, 0.85, True))
    assert stated.kv_tokens == GIB // (128 * 2 * 3 * 2 * 16 * 4) * 128


def test_one_gpu_holds_an_engine_and_a_rank_in_turn() -> None:
    """By hand: what has the device, and 3 GiB of a rank, and of an engine 1 GiB and as much of captured graphs."""
    found = planned("recipe=qwen2_5_1_5b")
    parameters = found["parameters"] / GIB
    assert [(node["gpus"], node["actors"]) for node in found["placement"]] == [
        (1.0, ["rollout 0", "learner 0", "verifier 0"])
    ]
    assert found["gpu_hours"] == found["hours"]
    kept = (4 + 8 + 2) * parameters
    assert found["turns_gib"] == pytest.approx(
        {
            "generate": 0.85 * 80 + 3,
            "learn": found["learner_peak_gib"] + 3 + 2,
            "publish": kept + 1 + found["engine_parts"]["weights"] + 3 + 2,
        },
        abs=1e-3,
    )
    apart = planned("recipe=qwen2_5_1_5b", "cluster.share_devices=false")
    assert apart["turns_gib"] is None
    assert apart["placement"][0]["gpus"] == 2
    moved = found["node_gib"] - apart["node_gib"]
    assert moved == pytest.approx(kept + found["engine_parts"]["weights"], abs=1e-3)
    assert all(found[name] == apart[name] for name in ("learner_peak_gib", "engine_gib", "kv_tokens"))
    # In each step of RL both leave the device and come back, at plan.host_link.
    assert found["turn_seconds"] == pytest.approx(2 * moved * GIB / 25e9, abs=0.006)
    assert apart["turn_seconds"] == 0
    seconds = 3600 * (found["hours"] - apart["hours"])
    assert seconds == pytest.approx(found["steps"] * 2 * moved * GIB / 25e9, abs=0.5)
    faster = planned("recipe=qwen2_5_1_5b", "plan.host_link=50")
    assert faster["turn_seconds"] == pytest.approx(found["turn_seconds"] / 2, abs=0.006)


# Adapters and short rows: less to learn with than to publish.
SHORT = (
    *("learner.lora.rank=8", "learner.micro_batch_tokens=2048", "distill.max_tokens=2048", "rollout.max_sequences=64"),
    *("model.max_prompt_tokens=1024", "model.max_response_tokens=1024", "rollout.max_batched_tokens=4096"),
    *("cluster.gpu_gib=11.5", "rollout.memory_fraction=0.7"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "limit", "remedy"),
    [
        (("cluster.gpu_gib=36",), "GPU memory of a learner rank", "cluster.share_devices=false"),
        (("rollout.memory_fraction=0.97",), "GPU memory while engines and learners generate", "memory_fraction"),
        (SHORT, "GPU memory while engines and learners publish", "learner.offload=all"),
    ],
)
def test_the_first_limit_of_a_device_in_turn(overrides: tuple[str, ...], limit: str, remedy: str) -> None:
    found = str(first_limit("recipe=qwen2_5_1_5b", *overrides))
    assert found.startswith(limit)
    assert remedy in found


def test_actors_lie_on_as_few_nodes_as_hold_them() -> None:
    roles = [Role("rollout", 2, 1, 4, ""), Role("learner", 6, 1, 1, ""), Role("verifier", 1, 1, 0, "")]
    nodes = place(roles, 8)
    assert [(node.gpus, node.count("rollout"), node.count("learner")) for node in nodes] == [(8, 2, 0), (6, 0, 6)]
    (together,) = place([replace(role, one_node=True) for role in roles[:2]], 8)
    assert together.gpus == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "limit", "remedy"),
    [
        (("learner.ranks=8", "cluster.gpu_gib=48", "rollout.workers=1"), "GPU memory of a learner rank", "ranks=16"),
        (("learner.activation_checkpointing=false",), "GPU memory of a learner rank", "activation_checkpointing=true"),
        (("rollout.tensor_parallel=1",), "KV cache of an engine", "raise rollout.tensor_parallel"),
        (("rollout.tensor_parallel=1", "cluster.gpu_gib=70"), "GPU memory of an engine", "rollout.tensor_parallel"),
        (("rollout.workers=8", "cluster.weight_transfer=file"), "devices of a node", "weight_transfer=network"),
    ],
)
def test_the_first_limit_of_gpus(overrides: tuple[str, ...], limit: str, remedy: str) -> None:
    recipe = "rm_r1_qwen2_5_14b" if overrides[0].startswith("learner.ranks") else "rm_r1_qwen2_5_32b"
    found = first_limit(f"recipe={recipe}", "learner.offload=none", *overrides)
    assert found is not None
    assert found.startswith(limit)
    assert remedy in found


@pytest.mark.slow
def test_the_first_limit_of_a_machine() -> None:
    common = "recipe=tiny"
    assert first_limit(common) is None
    small = Machine(2 * GIB, 1e15, 1e15)
    assert str(first_limit(common, machine=small)).startswith("host memory")
    assert str(first_limit(common, machine=replace(PLENTY, weights=1000))).startswith("shared memory")
    assert first_limit(common, "cluster.weight_transfer=network", machine=replace(PLENTY, weights=1000)) is None
    assert str(first_limit(common, machine=replace(PLENTY, disk=1000))).startswith("disk")
    longer = ("model.max_response_tokens=600000", "learner.micro_batch_tokens=700000")
    assert "rollout.memory_gib" in str(first_limit(common, *longer))


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_is_refused_here(recipe: str) -> None:
    refuse_what_does_not_fit(configured(f"recipe={recipe}"))


def too_large() -> tuple[str, ...]:
    return ("recipe=tiny", f"rollout.memory_gib={2 * memory_here() // GIB}")


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_refused_before_it_leaves_anything(tmp_path: Path) -> None:
    config = configured(*too_large(), output_root=str(tmp_path / "outputs"))
    with pytest.raises(DoesNotFit, match=r"this does not fit: host memory: [\d.,]+ GiB needed.*memory_check=false"):
        run(config)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_the_check_can_be_switched_off_and_passes_what_it_does_not_know(tmp_path: Path) -> None:
    refuse_what_does_not_fit(configured(*too_large(), "cluster.memory_check=false"))
    refuse_what_does_not_fit(configured(*too_large(), f"model.path={tmp_path}"))


@pytest.mark.slow
def test_a_plan_is_json_and_its_status_says_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    plan(configured("recipe=tiny"))
    shown = capsys.readouterr()
    assert json.loads(shown.out)["recipe"] == "tiny"
    assert "it fits" in shown.err
    with pytest.raises(SystemExit) as end:
        plan(configured("recipe=rm_r1_qwen2_5_32b", "learner.ranks=4"))
    shown = capsys.readouterr()
    assert end.value.code == 1
    assert "learner.ranks=16" in json.loads(shown.out)["first_limit"]["message"]
    assert "does not fit" in shown.err


def test_a_model_of_unknown_size_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    config: Config = configured("recipe=tiny", "model.path=somebody/judge")
    with pytest.raises(Exception, match="sizes of 'somebody/judge' are not known here") as error:
        plan(config)
    assert type(error.value).__name__ == "ShapeError"
    assert capsys.readouterr().out == ""


def test_devices_that_do_not_divide_the_heads_are_refused_with_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel=3 does not fit Qwen/Qwen2\.5-7B.*choose 1, 2 or 4"):
        load_config(["recipe=rm_r1_qwen2_5_7b", "rollout.tensor_parallel=3"])


def test_time_follows_from_throughputs() -> None:
    million = ModelShape(1000, 1, 1, 1, 1, 1, 1000)
    parameters = million.parameters
    assert learning_seconds(million, 1e6, 4, 10, 2, True) == pytest.approx(12 * parameters * 1e6 / 4e13)
    # Weights alone, then caches alone, decide.
    assert engine_rate(million, 2, 4, 1.0, 3, 0) == pytest.approx(3 * 4e12 / (2 * parameters))
    assert cpu_engine_rate(SHAPE) == pytest.approx(1 / (1 / 11_000 + 2 * SHAPE.parameters / 1.7e11))
