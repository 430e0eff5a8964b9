"""Every bundle composes and holds its paper's values; combinations that make no sense are refused with the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from small_settings import small_policy

from pipelines.config import Algorithm, ConfigError
from pipelines.config.compose import CONF, load_config
from pipelines.job.settings import policy_settings
from pipelines.loop.learning import next_coefficient

# What makes each bundle what it is; the papers are named in its file.
BUNDLES: dict[str, dict[str, Any]] = {
    "rm_r1": {
        "samples": 7,
        "advantage": "standardised",
        "aggregation": "token_mean",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl_coefficient": 1e-3,
        "kl_estimator": "k3",
        "kl_in": "loss",
    },
    "rm_r1_async": {
        "samples": 7,
        "clip_high": 0.2,
        "kl_coefficient": 1e-3,
        "old_logprobs": "learner",
        "correction": "truncate",
        "correction_limit": 2.0,
        "max_staleness": 1,
    },
    "dr_grpo": {"advantage": "centred", "aggregation": "fixed_length", "clip_high": 0.2, "kl_coefficient": 0.0},
    "dapo": {
        "samples": 16,
        "advantage": "standardised",
        "aggregation": "token_mean",
        "clip_low": 0.2,
        "clip_high": 0.28,
        "kl_coefficient": 0.0,
        "equal_reward_groups": "refill",
        "reward": {"verdict": 1.0, "overlong": 1.0},
        "overlong_buffer": 0.2,
    },
    "gspo": {
        "advantage": "standardised",
        "ratio": "sequence_mean",
        "aggregation": "sequence_mean",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "kl_coefficient": 0.0,
    },
    "gmpo": {
        "advantage": "standardised",
        "loss": "gmpo",
        "ratio": "token",
        "aggregation": "sequence_mean",
        "clip_low": 0.3297,
        "clip_high": 0.4918,
        "kl_coefficient": 0.0,
    },
    "cispo": {"loss": "cispo", "aggregation": "token_mean", "clip_low": 1.0, "clip_high": 4.0, "kl_coefficient": 0.0},
    "rloo": {
        "samples": 4,
        "advantage": "leave_one_out",
        "ratio": "sequence",
        "aggregation": "sequence_mean",
        "kl_coefficient": 0.03,
        "kl_estimator": "k1",
        "kl_in": "reward",
    },
    "reinforce_pp": {
        "samples": 1,
        "advantage": "batch_standardised",
        "aggregation": "token_mean",
        "clip_high": 0.2,
        "kl_estimator": "k1",
        "kl_in": "reward",
    },
}
SWAPPED = ["algorithm.reward.swap_consistency=1", "data.orders=alternate"]
OWN = ["algorithm.reward.mine=1", "verifier.functions.mine.path=own.rewards.mine"]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_has_its_papers_values(name: str) -> None:
    algorithm = load_config([f"algorithm={name}"]).algorithm
    assert algorithm.name == name
    assert {key: getattr(algorithm, key) for key in BUNDLES[name]} == BUNDLES[name]
    assert algorithm.max_staleness == BUNDLES[name].get("max_staleness", 0)


def test_every_bundle_states_every_setting() -> None:
    """A bundle does not change when a default of the code does."""
    from omegaconf import OmegaConf

    files = {path.stem: set(OmegaConf.load(path)) for path in (CONF / "algorithm").glob("*.yaml")}
    assert set(files) == {*BUNDLES, "rm_r1_tiny"}
    stated = {name: keys for name, keys in files.items() if name in BUNDLES}
    assert all(keys == set(vars(Algorithm())) for keys in stated.values()), stated


@pytest.mark.slow
def test_the_tiny_recipe_leaves_other_bundles_as_they_are() -> None:
    tiny = load_config([]).algorithm
    assert (tiny.samples, tiny.equal_reward_groups, tiny.kl_coefficient) == (8, "drop", 1e-3)
    assert load_config(["algorithm=dapo", "recipe=tiny"]).algorithm.equal_reward_groups == "refill"


def test_single_knobs_can_be_overridden() -> None:
    algorithm = load_config(["algorithm=dapo", "algorithm.clip_high=0.3", "algorithm.samples=4"]).algorithm
    assert (algorithm.clip_high, algorithm.samples, algorithm.equal_reward_groups) == (0.3, 4, "refill")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["algorithm=rm_r1", "algorithm.samples=1"], ["samples=1", "at least 2", "batch_standardised"]),
        (["algorithm=rloo", "algorithm.samples=1"], ["samples=1", "leave_one_out"]),
        (["algorithm=reinforce_pp", "algorithm.equal_reward_groups=drop"], ["drop", "equal_reward_groups=keep"]),
        (["algorithm=rm_r1", "algorithm.max_staleness=1"], ["max_staleness=1", "old_logprobs=rollout", "correction="]),
        (
            ["algorithm=rm_r1", "algorithm.old_logprobs=rollout", "algorithm.correction=mask"],
            ["correct twice", "old_logprobs=learner"],
        ),
        (["algorithm=gspo", "algorithm.aggregation=token_mean"], ["ratio=sequence_mean", "aggregation=sequence_mean"]),
        (
            ["algorithm=cispo", "algorithm.ratio=sequence", "algorithm.aggregation=sequence_mean"],
            ["cispo", "ratio=token"],
        ),
        (
            ["algorithm=gmpo", "algorithm.aggregation=token_mean"],
            ["loss=gmpo", "one ratio", "aggregation=sequence_mean"],
        ),
        (["algorithm=gmpo", "algorithm.ratio=sequence"], ["loss=gmpo", "ratio=token"]),
        (["algorithm=gmpo", "algorithm.dual_clip=3"], ["dual_clip", "loss=gmpo", "loss=clip"]),
        (["algorithm=cispo", "algorithm.dual_clip=3"], ["dual_clip", "loss=cispo", "loss=clip"]),
        (["algorithm=dapo", "algorithm.dual_clip=1.1"], ["dual_clip=1.1", "1.28"]),
        (["algorithm=rm_r1", "algorithm.clip_low=1.5"], ["clip_low=1.5"]),
        (["algorithm=rm_r1", "algorithm.kl_estimator=k1"], ["k1", "k2", "kl_in=reward"]),
        (["algorithm=dapo", "algorithm.kl_target=0.1"], ["kl_target=0.1", "kl_coefficient"]),
        (["algorithm.correction_limit=0.5"], ["correction_limit=0.5", "at least 1"]),
        (["algorithm.correction_floor=2"], ["correction_floor=2"]),
        (["algorithm.equal_reward_groups=refil"], ["'refil'", "did you mean 'refill'?"]),
        (["algorithm.overlong_buffer=0"], ["overlong_buffer=0", "above 0 and at most 1"]),
        (SWAPPED, ["swap_consistency", "data.orders=both"]),
        (["algorithm=reinforce_pp", "algorithm.reward.length=1"], ["length", "samples"]),
        (["algorithm.reward.mine=1"], ["unknown reward component 'mine'"]),
        (OWN[1:], ["'mine' has no weight", "algorithm.reward.mine"]),
        ([*OWN, "verifier.functions.mine.path=mine"], ["verifier.functions.mine.path='mine'", "package.module"]),
        ([*OWN, "verifier.functions.mine.sees=pair"], ["verifier.functions.mine.sees='pair'", "trace, group"]),
        ([*OWN, "verifier.functions.mine.deadline=0"], ["verifier.functions.mine.deadline=0"]),
        ([*OWN, "verifier.functions.mine.processes=0"], ["verifier.functions.mine.processes=0"]),
        ([*OWN, "verifier.functions.mine.pth=x"], ["verifier.functions.mine.pth"]),
        (["verifier.on_failure=skip"], ["verifier.on_failure='skip'", "drop_trace"]),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.slow
def test_staleness_is_allowed_where_something_corrects_for_it() -> None:
    for correction in ("algorithm.old_logprobs=rollout", "algorithm.correction=truncate", "algorithm.correction=mask"):
        assert load_config(["algorithm.max_staleness=1", correction]).algorithm.max_staleness == 1


def test_functions_of_your_own_are_read_with_their_bounds() -> None:
    config = load_config([*OWN, "verifier.functions.mine.sees=group", "verifier.functions.mine.deadline=3"])
    function = config.verifier.functions["mine"]
    assert (function.path, function.sees, function.deadline, function.processes) == ("own.rewards.mine", "group", 3, 1)
    assert config.algorithm.reward == {"verdict": 1.0, "mine": 1.0}


@pytest.mark.slow
def test_the_objective_reaches_the_learner() -> None:
    config = load_config(["algorithm=gspo", "algorithm.correction=mask", "algorithm.entropy_coefficient=0.01"])
    assert policy_settings(config, config.algorithm) == small_policy(
        ratio="sequence_mean",
        aggregation="sequence_mean",
        clip_low=3e-4,
        clip_high=4e-4,
        kl_coefficient=0.0,
        correction="mask",
        entropy_coefficient=0.01,
        fixed_length=config.model.max_response_tokens,
    )
    rloo = load_config(["algorithm=rloo"])
    assert policy_settings(rloo, rloo.algorithm).kl_coefficient == 0, "it is in the reward"


def test_the_coefficient_is_steered_only_towards_a_target_and_with_a_measured_kl() -> None:
    steered = Algorithm(kl_coefficient=0.5, kl_target=0.1)
    assert next_coefficient(steered, {"kl": 0.2}) == pytest.approx(0.51)
    assert next_coefficient(steered, {}) == 0.5
    assert next_coefficient(Algorithm(kl_coefficient=0.5), {"kl": 0.2}) == 0.5
