"""Small tokenizers of the shapes of real families: their kinds of model, flags of added tokens, and chat templates.

Each knows a handful of words. What counts is which tokens are added, which of them are special, whether ordinary text
could lead to them by merges or whole words, and what the template writes around a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_CORPUS = [
    "The answer of Chatbot A is better because it is correct, and B is wrong.\n\nUser: what is 2 + 2?\nassistant\n",
    "user\n model\n system\n think answer table code INST start end of turn im_start im_end header eot_id",
]
_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}<｜User｜>{{ m['content'] }}{% else %}{% set c = m['content'] %}"
    "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "<｜Assistant｜>{{ c }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
_QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def _byte_level(*, whole_words: tuple[str, ...] = (), normalizer: object = None) -> Tokenizer:
    """Byte-level BPE; ``whole_words`` are entries that a whole word becomes at once, as in Llama 3 and tekken."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=bool(whole_words)))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not whole_words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*_CORPUS, *whole_words], trainer)
    return tokenizer


def _sentence_piece() -> Tokenizer:
    """BPE with bytes for unknown characters; merges lead to ``<code>``, and the turn tokens are in the vocabulary."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [
        *dict.fromkeys("▁\n<>/codeabfinrstuylmgwphAB.,:?!_"),
        "\n\n",
        "co",
        "de",
        "code",
        "<code",
        "<code>",
        "<a",
        "an",
    ]
    merges = [("\n", "\n"), ("c", "o"), ("d", "e"), ("co", "de"), ("<", "code"), ("<code", ">"), ("<", "a"), ("a", "n")]
    tokenizer = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _metaspace() -> Tokenizer:
    """The legacy form: words begin with a mark, and so does the text, but not what follows an added token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    )
    tokenizer.train_from_iterator([*_CORPUS, "[INST] [/INST] INST"], trainer)
    # The bytes are entries of the vocabulary, not added tokens.
    state = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(state | {"added_tokens": []}))


def _built(
    tokenizer: Tokenizer, special: str, plain: str, template: str, *, bos: str | None, eos: str, **flags: bool
) -> PreTrainedTokenizerFast:
    """With added tokens, by white space apart; ``flags`` are those of the plain ones."""
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special.split()])
    tokenizer.add_tokens([AddedToken(token, **{"normalized": False, **flags}) for token in plain.split()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def qwen2_5() -> PreTrainedTokenizerFast:
    """Roles are special tokens; tool calls and fill-in-the-middle are added, not special."""
    return _built(
        _byte_level(normalizer=normalizers.NFC()),
        "<|endoftext|> <|im_start|> <|im_end|>",
        "<tool_call> </tool_call> <|fim_prefix|> <|repo_name|>",
        _TURNS,
        bos=None,
        eos="<|im_end|>",
    )


def qwen3() -> PreTrainedTokenizerFast:
    """As Qwen2.5, with think tokens that are added, not special; told not to think, the template writes both."""
    return _built(
        _byte_level(normalizer=normalizers.NFC()),
        "<|endoftext|> <|im_start|> <|im_end|>",
        "<tool_call> </tool_call> <tool_response> <think> </think>",
        _QWEN3,
        bos=None,
        eos="<|im_end|>",
    )


def r1_distill() -> PreTrainedTokenizerFast:
    """Role and think tokens are added, not special; the template opens the thought."""
    return _built(
        _byte_level(),
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>",
        "<｜User｜> <｜Assistant｜> <think> </think> <｜tool▁call▁begin｜>",
        _R1,
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    )


def llama3() -> PreTrainedTokenizerFast:
    """Whole words go before merges, and headers are added tokens outside the special map; the template trims."""
    markers = "<|start_header_id|> <|end_header_id|> <|eot_id|> <|reserved_special_token_5|>"
    return _built(
        _byte_level(whole_words=tuple(markers.split())),
        f"<|begin_of_text|> {markers}",
        "<|python_tag|>",
        _LLAMA,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    )


def gemma3() -> PreTrainedTokenizerFast:
    """SentencePiece with bytes; blank runs and HTML tags are added tokens; no system role; the template trims."""
    tokenizer = _sentence_piece()
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)])
    return _built(
        tokenizer, "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>", "<code>", _GEMMA, bos="<bos>", eos="<eos>"
    )


def mistral_tekken() -> PreTrainedTokenizerFast:
    """Instruction marks are special tokens and, as with tekken, words of the vocabulary as well."""
    return _built(
        _byte_level(whole_words=("[INST]", "[/INST]")),
        "<s> </s> [INST] [/INST] [TOOL_CALLS]",
        "",
        _MISTRAL,
        bos="<s>",
        eos="</s>",
    )


def mistral_legacy() -> PreTrainedTokenizerFast:
    """Instruction marks are ordinary text, which the template writes as anybody could."""
    return _built(_metaspace(), "<s> </s>", "", _MISTRAL, bos="<s>", eos="</s>")


def normalising() -> PreTrainedTokenizerFast:
    """Full-width and upper-case forms are made one before added tokens are looked for."""
    tokenizer = _byte_level(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    return _built(
        tokenizer,
        "<eos>",
        "<|im_start|> <|im_end|> <think>",
        _TURNS,
        bos=None,
        eos="<eos>",
        normalized=True,
        lstrip=True,
    )


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    build.__name__: build
    for build in (qwen2_5, qwen3, r1_distill, llama3, gemma3, mistral_tekken, mistral_legacy, normalising)
}
