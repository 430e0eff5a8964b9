"""From the configuration to actors: every setting arrives where it belongs, and only the configuration has defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest
import yaml
from configs import configured

from actors.learner.settings import LearnerSettings, LoraSettings, OptimizerSettings, PolicySettings
from actors.placement import Role, lay_out
from actors.rollout.settings import EngineSettings
from pipelines.config import Config, Function, Optimizer
from pipelines.config.compose import CONF, load_config
from pipelines.job.settings import (
    allocator,
    engine_settings,
    learner_settings,
    optimizer_settings,
    passed_on,
    passes_weights_in_memory,
    policy_settings,
    reward_functions,
    roles,
)

RECORDS = (EngineSettings, LearnerSettings, LoraSettings, OptimizerSettings, PolicySettings)


@pytest.mark.parametrize("record", RECORDS)
def test_records_of_actors_have_no_defaults_of_their_own(record: type) -> None:
    assert [item.name for item in fields(record) if (item.default, item.default_factory) != (MISSING, MISSING)] == []


def of_functions(function: Function) -> Any:
    config = Config()
    config.verifier.functions["mine"] = function
    return reward_functions(config)["mine"]


# Section -> how it becomes a record, and its settings that do not arrive there under their own names.
ARRIVALS: dict[str, tuple[Any, Callable[[Any], Any], set[str]]] = {
    "rollout": (
        Config().rollout,
        lambda it: engine_settings(replace(Config(), rollout=it), "m", 0),
        {"workers", "budget_tokens"},
    ),
    "learner": (
        Config().learner,
        lambda it: learner_settings(replace(Config(), learner=it)),
        {"ranks", "micro_batch_tokens", "lora", "peer_copy", "copies_on_other_nodes"},
    ),
    "optimizer": (Optimizer(), lambda it: optimizer_settings(it, 10), {"warmup_fraction", "betas"}),
    "algorithm": (
        Config().algorithm,
        lambda it: policy_settings(Config(), it),
        {"name", "samples", "top_p", "advantage", "kl_in", "kl_target", "equal_reward_groups", "refill_rounds"}
        | {"max_staleness", "verdict_mode", "reward", "overlong_buffer"},
    ),
    "function": (Function(), of_functions, set()),
}


@pytest.mark.parametrize("section", ARRIVALS)
def test_every_setting_arrives_under_its_name(section: str) -> None:
    """One value at a time, so that two settings that were exchanged would be noticed."""
    settings, become, elsewhere = ARRIVALS[section]
    for item in fields(settings):
        if item.name not in elsewhere:
            mark = object()
            assert getattr(become(replace(settings, **{item.name: mark})), item.name) is mark, item.name


@pytest.mark.slow
def test_settings_that_are_computed() -> None:
    config = load_config(["learner.lora.rank=4", "learner.lora.alpha=8", "model.max_prompt_tokens=100", "seed=3"])
    assert learner_settings(config).lora == LoraSettings(4, 8, ("all-linear",))
    engine = engine_settings(config, "m", 2)
    assert (engine.max_model_len, engine.seed) == (100 + config.model.max_response_tokens, 5)
    warm = optimizer_settings(Optimizer(warmup_fraction=0.03), 200)
    assert (warm.warmup_steps, warm.total_steps, warm.betas) == (6, 200, (0.9, 0.95))
    assert optimizer_settings(Optimizer(warmup_fraction=0.03, warmup_steps=2), 200).warmup_steps == 2


@pytest.mark.slow
def test_cuda_ranks_get_an_allocator_whose_segments_grow_unless_the_user_says_otherwise() -> None:
    cuda = configured("recipe=rm_r1_qwen2_5_7b")
    assert allocator(cuda, {}) == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    own = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}
    assert allocator(cuda, own | {"PATH": "/bin"}) == own
    assert allocator(configured("recipe=tiny"), own) == {}


def test_settings_of_libraries_reach_the_actors_and_what_is_of_one_process_does_not() -> None:
    kept = {
        **{"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "ib", "GLOO_SOCKET_IFNAME": "eth1", "HF_TOKEN": "t"},
        **{"TORCH_NCCL_BLOCKING_WAIT": "1", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_ATTENTION_BACKEND": ""},
    }
    left = {
        **{"VLLM_HOST_IP": "10.0.0.1", "VLLM_PORT": "5000", "VLLM_RPC_BASE_PATH": "/tmp", "VLLM_DP_RANK": "0"},
        **{"PATH": "/bin", "MY_NCCL_DEBUG": "INFO", "TORCHELASTIC_RUN_ID": "x", "CUDA_VISIBLE_DEVICES": "0"},
    }
    assert passed_on(kept | left) == kept


def named(config: Config) -> dict[str, Role]:
    return {role.name: role for role in roles(config)}


@pytest.mark.slow
def test_devices_are_asked_for_by_role() -> None:
    node = named(load_config(["recipe=qwen3_8b", "cluster=gpu_node", "rollout.workers=2", "rollout.tensor_parallel=2"]))
    assert {name: (role.count, role.cpus, role.gpus) for name, role in node.items()} == {
        "rollout": (2, 4.0, 2),
        "learner": (4, 4.0, 1),
        "verifier": (1, 1.0, 0),
    }
    assert {role.gpus for role in roles(load_config([]))} == {0}


def test_an_engine_and_a_rank_in_turn_have_a_half_of_a_device_each_in_one_bundle() -> None:
    config = configured("recipe=qwen2_5_1_5b", "rollout.workers=2", "learner.ranks=2")
    shared = named(config)
    assert (shared["rollout"].gpus, shared["learner"].gpus, shared["learner"].shares) == (0.5, 0.5, "rollout")
    [group, _], seats = lay_out(roles(config))
    assert group.resources == [{"CPU": 8.0, "GPU": 1.0}] * 2
    assert [seats["learner", rank] for rank in range(2)] == [seats["rollout", worker] for worker in range(2)]
    assert engine_settings(config, "m", 0).takes_turns
    judging = replace(config, learner=replace(config.learner, ranks=0))
    assert named(judging)["rollout"].gpus == 1, "without learners the devices are the engines' own"
    assert not engine_settings(judging, "m", 0).takes_turns


@pytest.mark.slow
def test_the_verifier_is_placed_like_the_others() -> None:
    assert named(load_config(["cluster.verifier_cpus=1"]))["verifier"].shares is None
    [laptop], seats = lay_out(roles(load_config([])))
    assert laptop.resources == [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}], "two cores are enough, to the last share"
    assert seats["verifier", 0] == seats["rollout", 0]


@pytest.mark.parametrize(
    ("overrides", "together"),
    [
        ([], True),
        (["cluster.weights_directory=/dev/shm/mine"], True),
        (["cluster.weights_directory=/dev/../tmp"], True),
        (["cluster.weights_directory=/dev/shmother"], False),
        (["cluster.weights_directory=/mnt/shared"], False),
        (["cluster.weight_transfer=network"], False),
    ],
)
def test_weights_in_one_nodes_memory_need_one_node(overrides: list[str], together: bool) -> None:
    config = load_config(overrides)
    assert passes_weights_in_memory(config) is together
    assert {role.one_node for role in roles(config) if role.name != "verifier"} == {together}
    [group] = lay_out(roles(config))[0]
    assert group.strategy == ("STRICT_PACK" if together else "PACK")


def test_judging_without_learners_needs_no_one_node() -> None:
    config = load_config([])
    assert not passes_weights_in_memory(replace(config, learner=replace(config.learner, ranks=0)))


def stated(section: Any, schema: type, prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value in a YAML file, of keys that the schema knows."""
    hints = get_type_hints(schema)
    for name, value in section.items():
        if isinstance(value, dict) and is_dataclass(hints[name]):
            stated(value, hints[name], f"{prefix}{name}.", found)
        elif name != "defaults":
            found[prefix + name] = value
    return found


def default_of(key: str) -> Any:
    value: Any = Config()
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_what_all_files_of_a_section_say_is_the_default_of_the_schema() -> None:
    """A stage has one file; where the files of a group differ, the schema's default matters for none of them."""
    hints, differing = get_type_hints(Config), {}
    for section in ("chains", "distill", "rl", "evaluate", "verifier", "rollout", "learner", "cluster", "algorithm"):
        files = [*CONF.glob(f"{section}.yaml"), *(CONF / section).glob("*.yaml")]
        assert files, section
        said = [stated(yaml.safe_load(file.read_text()), hints[section], f"{section}.", {}) for file in files]
        for key in set.intersection(*map(set, said)):
            values = [one[key] for one in said]
            if all(value == values[0] for value in values) and default_of(key) != values[0]:
                differing[key] = (default_of(key), values[0])
    assert differing == {}
