"""Every recipe composes and validates; the six RM-R1 recipes hold the paper's hyper-parameters."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from pipelines.config.compose import CONF, load_config
from pipelines.job.settings import learner_settings
from pipelines.planning.recipe import model_shape

# model, SFT learning rate (None: no distillation), RL learning rate, GPUs: arXiv 2505.02387, training details.
PAPER = {
    "rm_r1_qwen2_5_7b": ("Qwen/Qwen2.5-7B-Instruct", 5e-6, 1e-6, 8),
    "rm_r1_qwen2_5_14b": ("Qwen/Qwen2.5-14B-Instruct", 3e-6, 7e-7, 16),
    "rm_r1_qwen2_5_32b": ("Qwen/Qwen2.5-32B-Instruct", 2e-6, 5e-7, 32),
    "rm_r1_deepseek_7b": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None, 1e-6, 8),
    "rm_r1_deepseek_14b": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", None, 1e-6, 16),
    "rm_r1_deepseek_32b": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", None, 8e-7, 32),
}
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_composes_and_names_itself(recipe: str) -> None:
    assert load_config([f"recipe={recipe}"]).recipe_name == recipe


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_for_gpus_correct_for_the_engine_and_pack(recipe: str) -> None:
    config = load_config([f"recipe={recipe}"])
    on_cuda = config.cluster.device == "cuda"
    assert learner_settings(config).attention == ("flex" if on_cuda else "sdpa")
    if on_cuda:
        assert "bfloat16" in (config.rollout.dtype, config.learner.dtype)
        assert config.algorithm.correction != "none"
        # Packed rows know full attention alone.
        assert config.learner.packing != config.model.shape["model_type"].startswith("gemma3")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PAPER)
def test_hyper_parameters_are_the_papers(recipe: str) -> None:
    config = load_config([f"recipe={recipe}"])
    model, sft_rate, rl_rate, gpus = PAPER[recipe]
    assert config.model.path == model
    assert config.rl.optimizer.learning_rate == rl_rate
    assert config.rl.distil_first == (sft_rate is not None)
    if sft_rate is not None:
        assert config.distill.optimizer.learning_rate == sft_rate
    assert (config.distill.batch_size, config.distill.epochs, config.distill.max_tokens) == (128, 1, 12288)
    assert (config.rl.prompts_per_step, config.rl.mini_batch_prompts, config.rl.epochs) == (1024, 128, 1)
    assert (config.model.max_prompt_tokens, config.model.max_response_tokens) == (4096, 8192)
    algorithm = config.algorithm
    assert (algorithm.samples, algorithm.temperature, algorithm.top_p) == (7, 1.0, 1.0)
    assert (algorithm.clip_low, algorithm.clip_high) == (0.2, 0.2)
    assert (algorithm.kl_coefficient, algorithm.kl_estimator) == (1e-3, "k3")
    # The one departure: the paper takes the engine's policy for the learner's.
    assert (algorithm.correction, algorithm.correction_level, algorithm.correction_limit) == ("truncate", "token", 2.0)
    assert algorithm.reward == {"verdict": 1.0}
    assert algorithm.verdict_mode == "paper"
    assert (config.rl.optimizer.schedule, config.rl.optimizer.gradient_clip) == ("constant", 1.0)
    assert config.rollout.tensor_parallel == 4
    assert config.rollout.workers * config.rollout.tensor_parallel + config.learner.ranks == gpus
    assert config.learner.activation_checkpointing
    assert (config.learner.dtype, config.rollout.dtype) == ("bfloat16", "bfloat16")


@pytest.mark.slow
def test_instruct_and_reasoning_models_get_their_own_prompts() -> None:
    assert load_config(["recipe=rm_r1_qwen2_5_7b"]).model.prompt == "chain_of_rubrics"
    assert load_config(["recipe=rm_r1_deepseek_7b"]).model.prompt == "reasoning"


@pytest.mark.slow
def test_qwen3_thinks_where_its_recipe_says_so() -> None:
    for recipe in (name for name in RECIPES if name.startswith("qwen3_")):
        config = load_config([f"recipe={recipe}"])
        thinks = recipe.endswith("_thinking")
        assert config.model.chat_template_kwargs == {"enable_thinking": thinks}
        assert config.model.prompt == ("reasoning" if thinks else "chain_of_rubrics")
        # Chains have no thought before them: a model that is to think learns from rewards alone, as DeepSeek's.
        assert config.rl.distil_first != thinks
    switched = load_config(["recipe=qwen3_8b", "model.chat_template_kwargs.enable_thinking=true"])
    assert switched.model.chat_template_kwargs == {"enable_thinking": True}


# Parameters as the model cards state them, or by the tensors of the checkpoint.
SIZES = {
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "llama3_1_8b": 8_030_261_248,
    "gemma3_1b": 999_885_952,
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SIZES)
def test_the_kept_sizes_are_the_models(recipe: str) -> None:
    shape = model_shape(load_config([f"recipe={recipe}"]))
    assert shape is not None
    assert shape.parameters == SIZES[recipe]


@pytest.mark.slow
def test_rm_r1_async_is_rm_r1_one_version_behind_with_a_correction() -> None:
    paper = asdict(load_config(["recipe=rm_r1_qwen2_5_7b", "algorithm.correction=none"]).algorithm)
    behind = asdict(load_config(["recipe=rm_r1_qwen2_5_7b", "algorithm=rm_r1_async"]).algorithm)
    differing = {name: value for name, value in behind.items() if value != paper[name]}
    assert differing == {"name": "rm_r1_async", "correction": "truncate", "max_staleness": 1}
    assert load_config(["algorithm=rm_r1_async"]).algorithm.correction == "truncate"


@pytest.mark.slow
def test_tiny_recipe_trains_both_orders_of_a_pair_together() -> None:
    config = load_config([])
    assert config.recipe_name == "tiny"
    assert config.data.orders == "both"
    assert config.rl.prompts_per_step == 32
    assert config.algorithm.samples == 8
