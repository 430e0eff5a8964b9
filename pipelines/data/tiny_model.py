"""The tiny recipe's tokenizer and model, made from scratch in Hugging Face format.

The initialisation matters: with the usual standard deviation of 0.02 a model this small does not begin to copy tokens
in the time there is. Here embeddings start large and the projections back into the residual stream small. In the layers
after the first, half of the heads (rounded up) start with equal query and key weights, so that they begin by attending
to equal tokens; in the first layer, biases let one head begin by attending to the token before, and another to the last
few, so that each token knows what it follows and in which response it stands. Together they make induction heads
(Olsson et al. 2022, arXiv 2209.11895), which every judgment here is made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.files import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

START, END, PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TAGS = tuple(
    f"<{slash}{name}>" for name in ("type", "solution", "rubric", "justify", "eval", "answer") for slash in ("", "/")
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{START}" + "{{ message['role'] }}\n{{ message['content'] }}" + f"{END}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + f"{START}assistant\n" + "{% endif %}"
)
VOCABULARY = 430
ROPE_THETA = 1e4
LOOK_BACK = 5.0
"""Bias of the looking-back heads; the other parts of queries and keys have a size of about 1."""


def build_tokenizer(corpus: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 430 entries; the twelve judgment tags are single, non-special tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    # Transformers loads every Qwen2 checkpoint with Qwen2's own splitting rules, so these are what we train with.
    rules = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    tokenizer.decoder = rules.decoder
    # The tags are cut out of the corpus, or merges would be spent on what is a token of its own anyway.
    texts = ["user\n", "assistant\n"] * len(corpus)
    for text in corpus:
        for tag in TAGS:
            text = text.replace(tag, "\n")
        texts.append(text)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=[PADDING, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    vocabulary: int,
    eos: int,
    pad: int,
    seed: int,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    positions: int,
) -> Qwen2ForCausalLM:
    """A Qwen2 with tied embeddings and the initialisation described above, in float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("embed_tokens.weight"):
                parameter.normal_(0, 0.15, generator=generator)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0, 0.08 / math.sqrt(parameter.shape[1]), generator=generator)
            elif parameter.dim() == 2:
                parameter.normal_(0, 0.8 / math.sqrt(parameter.shape[1]), generator=generator)
        matching = (heads + 1) // 2 * (hidden // heads)
        for layer in model.model.layers[1:]:
            query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
            query[:matching].normal_(0, 1 / math.sqrt(hidden), generator=generator)
            key[:matching].copy_(query[:matching])
        first = model.model.layers[0].self_attn
        _look_back(first, head=0, size=hidden // heads, distance=1, pairs=range(4))
        if heads > 1:
            _look_back(first, head=1, size=hidden // heads, distance=2, pairs=(2, 3))
    return model


def _look_back(attention: Any, head: int, size: int, distance: int, pairs: Iterable[int]) -> None:
    """Set biases so that a head of ``size`` begins by attending ``distance`` tokens back.

    Rotary embeddings turn pair i of a query and a key by theta_i times their distance, so with the key's bias turned
    back by ``distance`` as the query's, their product is the sum of cos(theta_i (n - m + distance)): highest there, and
    the sharper the faster the pairs turn.
    """
    half = size // 2
    for pair in pairs:
        angle = distance * ROPE_THETA ** (-pair / half)
        for bias, turn in ((attention.k_proj.bias, 0.0), (attention.q_proj.bias, angle)):
            bias[head * size + pair] = LOOK_BACK * math.cos(turn)
            bias[head * size + half + pair] = -LOOK_BACK * math.sin(turn)


def build_tiny_model(
    directory: Path,
    corpus: Sequence[str],
    *,
    seed: int,
    hidden: int = 96,
    layers: int = 3,
    heads: int = 3,
    intermediate: int = 192,
    max_positions: int = 4096,
) -> None:
    """Write tokenizer and model to ``directory``, at once or not at all; an older one is replaced.

    Raises:
        ValueError: ``hidden`` does not divide into ``heads``.

    """
    if hidden % heads:
        raise ValueError(f"model.hidden={hidden} does not divide into model.heads={heads}")
    tokenizer = build_tokenizer(corpus)
    model = build_model(
        len(tokenizer),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        seed,
        hidden,
        layers,
        heads,
        intermediate,
        max_positions,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    with atomic_folder(directory) as partial:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
