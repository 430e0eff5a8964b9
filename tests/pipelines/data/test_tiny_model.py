"""The tiny tokenizer and model: what is saved is what loads, tags are single tokens, weights start as described."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pipelines.data.prompts import encode, load_template, render
from pipelines.data.schema import PreferencePair
from pipelines.data.tiny_model import TAGS, VOCABULARY, build_model, build_tiny_model, build_tokenizer

HOSTILE = (
    "",
    " ",
    "  two  spaces\t\ttabs\n\nlines\r\n",
    "日本語 🙂 é \u2028 \x00\x01",
    "<eval> <ANSWER> </ answer> <<type>> <answer>[[A]]</answer>x",
    "0123456789 3.14 -5",
    "x" * 1000,
)


@pytest.fixture(scope="module")
def loaded(tiny_model_directory: Path):
    return AutoTokenizer.from_pretrained(tiny_model_directory)


@pytest.fixture(scope="module")
def model(tiny_model_directory: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_model_directory)


@pytest.mark.slow
def test_loaded_tokenizer_encodes_as_the_trained_one(loaded, tiny_corpus: list[str]) -> None:
    trained = build_tokenizer(tiny_corpus)
    for text in (*tiny_corpus, *HOSTILE):
        assert loaded.encode(text, add_special_tokens=False) == trained.encode(text, add_special_tokens=False)
    assert len(loaded) == len(trained)
    assert loaded.get_vocab() == trained.get_vocab()


def test_size_and_special_tokens(loaded) -> None:
    assert 400 <= len(loaded) <= VOCABULARY
    assert sorted(loaded.get_vocab().values()) == list(range(len(loaded)))
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for marker in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(loaded.encode(marker, add_special_tokens=False)) == 1


def test_tags_are_single_tokens_that_decoding_keeps(loaded) -> None:
    assert len(set(TAGS)) == 12
    for tag in TAGS:
        (token,) = loaded.encode(tag, add_special_tokens=False)
        assert loaded.decode([token], skip_special_tokens=True) == tag
        assert tag not in loaded.all_special_tokens


@pytest.mark.slow
def test_text_survives_tokens(loaded, tiny_corpus: list[str]) -> None:
    for text in (*tiny_corpus, *HOSTILE):
        assert loaded.decode(loaded.encode(text, add_special_tokens=False), skip_special_tokens=True) == text


@pytest.mark.slow
def test_lengths_of_prompts_and_chains(loaded, tiny_pairs: list[PreferencePair], tiny_corpus: list[str]) -> None:
    prompts = [len(encode(render(pair, "chosen_first", load_template("tiny")), loaded)) for pair in tiny_pairs]
    assert min(prompts) >= 22
    assert max(prompts) <= 34
    chains = [len(loaded.encode(text, add_special_tokens=False)) + 1 for text in tiny_corpus if "<type>" in text]
    assert len(chains) == 2 * len(tiny_pairs)
    assert max(chains) <= 50


def test_words_are_the_same_tokens_in_question_and_chain(loaded) -> None:
    """Copying is learnt by matching tokens, so a word may not be spelt in two ways."""
    for word in ("cat", "star", "polite", "mention", "seven", "four", "please", "both"):
        assert len(loaded.encode(f" {word}", add_special_tokens=False)) == 1, word


def test_chat_template_ends_with_the_assistants_turn(loaded) -> None:
    ids = encode([{"role": "user", "content": "sort two one"}], loaded)
    assert loaded.decode(ids) == "<|im_start|>user\nsort two one<|im_end|>\n<|im_start|>assistant\n"


def test_model_loads_with_its_shape(model, loaded, tiny_model_directory: Path) -> None:
    config = model.config
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.32e6, rel=0.03)
    assert config.hidden_size // config.num_attention_heads == 32
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (3, 3, 3)
    assert config.vocab_size == len(loaded)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.dtype == torch.float32
    generation = GenerationConfig.from_pretrained(tiny_model_directory)
    assert config.eos_token_id == generation.eos_token_id == loaded.eos_token_id
    assert config.pad_token_id == generation.pad_token_id == loaded.pad_token_id
    assert config.max_position_embeddings >= 512 + 64


def test_loaded_weights_are_the_built_ones(model, loaded, tiny_model_directory: Path) -> None:
    built = build_model(len(loaded), loaded.eos_token_id, loaded.pad_token_id, 0, 96, 3, 3, 192, 4096)
    for name, weights in built.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name


def test_seed_decides_the_weights_and_nothing_else_does() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return build_model(400, 1, 0, seed, 96, 3, 3, 192, 512).state_dict()

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    second = weights(0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], weights(1)["model.embed_tokens.weight"])


def test_initial_standard_deviations(model) -> None:
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.15, rel=0.03)
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.v_proj, mlp.gate_proj, mlp.up_proj):
            assert linear.weight.std().item() == pytest.approx(0.8 / math.sqrt(96), rel=0.05)
        assert attention.o_proj.weight.std().item() == pytest.approx(0.08 / math.sqrt(96), rel=0.05)
        assert mlp.down_proj.weight.std().item() == pytest.approx(0.08 / math.sqrt(192), rel=0.05)
        query, key = attention.q_proj.weight, attention.k_proj.weight
        # In every layer but the first, two of the three heads begin by attending to equal tokens.
        assert torch.equal(query[:64], key[:64]) is (index > 0)
        assert not torch.equal(query[64:], key[64:])
        for weight in (query, key):
            assert weight[:64].std().item() == pytest.approx((1.0 if index else 0.8) / math.sqrt(96), rel=0.05)
            assert weight[64:].std().item() == pytest.approx(0.8 / math.sqrt(96), rel=0.05)
        assert not attention.v_proj.bias.any()
        assert bool(attention.q_proj.bias.any()) is bool(attention.k_proj.bias.any()) is (index == 0)


def test_heads_of_the_first_layer_begin_by_looking_back(model) -> None:
    attention = model.model.layers[0].self_attn
    turns = torch.arange(16) * -1 / 16 * math.log(1e4)

    def score(head: int, distance: int) -> float:
        """Query times key of the biases alone, the key turned by its distance to the query."""
        query, key = (bias[head * 32 : head * 32 + 32] for bias in (attention.q_proj.bias, attention.k_proj.bias))
        angles = -distance * turns.exp()
        turned = torch.cat(
            [
                key[:16] * angles.cos() - key[16:] * angles.sin(),
                key[16:] * angles.cos() + key[:16] * angles.sin(),
            ]
        )
        return (query @ turned).item() / math.sqrt(32)

    for head, distance in ((0, 1), (1, 2)):
        scores = [score(head, back) for back in range(12)]
        assert scores.index(max(scores)) == distance
    # The token before is e^3 times likelier than its neighbours for the one, the last few are alike for the other.
    assert score(0, 1) - max(score(0, 0), score(0, 2)) > 2.5
    assert 0.3 < score(1, 2) - score(1, 4) < 1.5
    assert score(2, 1) == 0


def test_a_new_model_replaces_the_old_one_whole(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    (tmp_path / "model.tmp-partial").mkdir()
    (tmp_path / "model.tmp-partial" / "leftover").touch()
    directory.mkdir()
    (directory / "old").touch()
    build_tiny_model(directory, ["so match"], seed=0, hidden=64, layers=1, heads=2, intermediate=64)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in directory.iterdir()}
    assert not {"old", "leftover"} & {file.name for file in directory.iterdir()}
    assert list(tmp_path.iterdir()) == [directory]


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.hidden=96 does not divide into model\.heads=5"):
        build_tiny_model(tmp_path / "model", ["so"], seed=0, heads=5)
    assert list(tmp_path.iterdir()) == []
