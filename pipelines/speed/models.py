"""Models of random weights to measure with: a Qwen2 of 1.7M parameters over a small vocabulary of words."""

from __future__ import annotations

from pathlib import Path

VERDICTS = ("<answer>[[A]]</answer>", "<answer>[[B]]</answer>")
"""Two words of the vocabulary, so that random traces have verdicts and rewards that differ."""


def write_random_model(directory: Path, vocabulary: int, *, ends: bool = True, seed: int = 0) -> None:
    """Write tokenizer and model in Hugging Face format.

    The output distribution is close to uniform, so that a trace ends after ``vocabulary`` tokens on average.
    Without ``ends`` there is no end of sequence, and every trace runs to its limit.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = ["<pad>", "<eos>", *VERDICTS]
    words += [f"w{index}" for index in range(vocabulary - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>" if ends else None,
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    ).save_pretrained(directory)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=480,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=1 if ends else None,
        pad_token_id=0,
        dtype="float32",
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).save_pretrained(directory)


def random_prompt(index: int, vocabulary: int, length: int = 64) -> list[int]:
    """``length`` ordinary words, the same for the same ``index``."""
    import random

    return random.Random(index).choices(range(2 + len(VERDICTS), vocabulary), k=length)
