"""Bad settings are refused before anything starts, with the key and the remedy."""

from __future__ import annotations

import pytest

from pipelines.config import ConfigError
from pipelines.config.compose import load_config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("algorithm.sample=4", ["unknown setting 'algorithm.sample'", "did you mean 'algorithm.samples'?"]),
        ("rl.stepz=4", ["unknown setting 'rl.stepz'", "did you mean 'rl.steps'?"]),
        ("learning_rate=1", ["unknown setting 'learning_rate'", "learning_rate'?"]),
        ("recipe=tinny", ["there is no recipe 'tinny'", "did you mean 'tiny'?"]),
        ("algorithm=rm_r2", ["there is no algorithm 'rm_r2'", "did you mean 'rm_r1'?"]),
        ("rl.steps=many", ["'rl.steps' has the wrong type", "many"]),
        ("seed=-1", ["seed=-1", "at least 0"]),
        ("algorithm.samples=1", ["algorithm.samples=1", "at least 2"]),
        ("rl.mini_batch_prompts=5", ["rl.prompts_per_step=32", "rl.mini_batch_prompts=5", "divisor"]),
        ("rl.optimizer.name=adam", ["'adam' is not one of adamw, adamw8bit, muon", "did you mean 'adamw'?"]),
        ("algorithm.max_staleness=1", ["max_staleness=1", "algorithm.old_logprobs=rollout"]),
        ("learner.micro_batch_tokens=100", ["learner.micro_batch_tokens=100", "= 576"]),
        ("algorithm.temperature=0", ["algorithm.temperature=0.0", "above 0 and at most 2"]),
        ("evaluate.temperature=2.5", ["evaluate.temperature=2.5", "at most 2"]),
        ("chains.first.temperature=3", ["chains.first.temperature=3.0", "at most 2"]),
        ("rl.optimizer.weight_decay=nan", ["rl.optimizer.weight_decay=nan", "at least 0"]),
        ("algorithm.reward.verdit=1", ["algorithm.reward", "verdit"]),
        ("learner.offload=all", ["learner.offload=all", "cluster.device=cpu", "learner.offload=none"]),
        ("learner.attention=flex", ["learner.attention=flex", "learner.packing=true", "learner.attention=auto"]),
        ("learner.attention=varlen", ["learner.attention='varlen'", "auto, flex, sdpa"]),
        ("learner.lora.rank=-1", ["learner.lora.rank=-1", "at least 0"]),
        ("run=a/b", ["run='a/b'", "folder name"]),
        ("data.heldout_fraction=1.5", ["data.heldout_fraction=1.5"]),
        ("evaluate.votes=4", ["evaluate.votes=4 at evaluate.temperature=0", "set a temperature"]),
        ("evaluate.orders=first", ["evaluate.orders='first'", "both, random, chosen_first, chosen_second"]),
        ("evaluate.benchmark=[rmb]", ["unknown setting 'evaluate.benchmark'", "did you mean 'evaluate.benchmarks'?"]),
    ],
)
def test_bad_setting_names_key_and_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.slow
def test_attention_has_gradients_on_the_device() -> None:
    load_config(["learner.packing=true", "learner.attention=sdpa"])
    load_config(["learner.packing=true", "learner.attention=flex", "cluster.device=cuda"])
    with pytest.raises(ConfigError, match=r"learner\.attention=flex has no gradients with cluster\.device=cpu.*auto"):
        load_config(["learner.packing=true", "learner.attention=flex"])


@pytest.mark.slow
def test_adapters_have_targets_and_leave_no_reference_to_offload() -> None:
    overrides = ["learner.offload=reference", "cluster.device=cuda"]
    load_config(overrides)
    with pytest.raises(ConfigError, match=r"learner\.lora\.rank=8.*learner\.offload=none"):
        load_config([*overrides, "learner.lora.rank=8"])
    load_config(["learner.lora.targets=[]"])
    with pytest.raises(ConfigError, match=r"learner\.lora\.targets=\[\].*all-linear"):
        load_config(["learner.lora.targets=[]", "learner.lora.rank=8"])


SHARED = ("cluster.share_devices=true", "rl.learn_early=false", "learner.ranks=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("algorithm=rm_r1_async", r"algorithm\.max_staleness=1 .*cluster\.share_devices=true.*max_staleness=0"),
        ("rl.learn_early=true", r"rl\.learn_early=true .*cluster\.share_devices=true.*rl\.learn_early=false"),
        ("cluster.weight_transfer=network", r"weight_transfer=network .*cluster\.share_devices=true.*=file"),
        ("rollout.tensor_parallel=2", r"tensor_parallel=2 .*cluster\.share_devices=true.*rollout\.workers"),
        ("rollout.workers=2", r"rollout\.workers=2 and learner\.ranks=1 must be equal .*cluster\.share_devices=true"),
    ],
)
def test_what_needs_engines_and_learners_at_once_does_not_go_with_devices_in_turn(override: str, remedy: str) -> None:
    load_config(list(SHARED))
    load_config([override, *(["learner.ranks=2"] if "workers" in override else [])])
    with pytest.raises(ConfigError, match=remedy):
        load_config([*SHARED, override])


@pytest.mark.parametrize("other", ["learner.peer_copy=false", "cluster.share_devices=true"])
def test_copies_that_are_not_made_are_not_sent_on(other: str) -> None:
    sent = "learner.copies_on_other_nodes=true"
    assert load_config([sent]).learner.copies_on_other_nodes
    overrides = [*SHARED, sent] if "devices" in other else [sent, other]
    with pytest.raises(ConfigError, match=rf"{sent} .*{other.partition('=')[0]}=(true|false).*leave it out"):
        load_config(overrides)


def test_odd_mini_batch_cannot_hold_both_orders() -> None:
    with pytest.raises(ConfigError, match=r"must be even with data\.orders=both"):
        load_config(["rl.prompts_per_step=9", "rl.mini_batch_prompts=3"])


def test_overrides_reach_nested_settings() -> None:
    config = load_config(["seed=7", "rl.optimizer.learning_rate=3e-4", "algorithm.reward.verdict=2"])
    assert (config.seed, config.rl.optimizer.learning_rate) == (7, 3e-4)
    assert config.algorithm.reward == {"verdict": 2.0}


def test_every_setting_can_be_overridden_whether_a_file_states_it_or_not() -> None:
    config = load_config(["data.heldout_fraction=0.2", "rl.optimizer.warmup_fraction=0.5", "evaluate.model=x"])
    assert (config.data.heldout_fraction, config.rl.optimizer.warmup_fraction, config.evaluate.model) == (0.2, 0.5, "x")


@pytest.mark.slow
def test_benchmarks_have_paths_and_need_no_room_in_a_learner() -> None:
    config = load_config(
        ["evaluate.benchmarks=[rmb,'a b.jsonl']", "evaluate.paths.rmb=/data", "model.max_prompt_tokens=9000"]
    )
    assert (config.evaluate.benchmarks, config.evaluate.paths) == (["rmb", "a b.jsonl"], {"rmb": "/data"})
    with pytest.raises(ConfigError, match="cannot hold one sequence"):
        load_config(["model.max_prompt_tokens=9000"])
