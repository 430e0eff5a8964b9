"""The tokenizer of a model, and what is asked of both at once, before engines and learners start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.learner.settings import ModelError
from pipelines.data.hub import check_reached
from pipelines.data.published import is_hub_name
from pipelines.data.tokens import with_variables
from pipelines.data.weight_files import check_whole

PROMPT_AND_RESPONSE = "model.max_prompt_tokens + model.max_response_tokens"


def load_tokenizer(
    model: str,
    longest: int = 0,
    limits: str = PROMPT_AND_RESPONSE,
    variables: Mapping[str, Any] | None = None,
) -> Any:
    """The tokenizer of a checkpoint; one that stands without a model's configuration is taken as it is.

    Args:
        model: folder or hub name.
        longest: how many tokens a prompt and its response may take together, by the settings that ``limits`` names.
        limits: see there.
        variables: what its chat template is told besides the messages: `model.chat_template_kwargs`.

    Raises:
        ModelError: there is none there, it has no end-of-sequence token or more tokens than the model beside it, that
            model's weight files are not whole, its context holds fewer than ``longest``, or no such ``variables`` are
            known to its chat template.
        HubUnreached: see :func:`pipelines.data.hub.check_reached`.

    """
    from transformers import AutoConfig, AutoTokenizer

    check_reached(model)
    check_whole(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        is_path = "/" in model and not is_hub_name(model)
        why = str(error).splitlines()[0]
        if is_path and not any(Path(model).glob("tokenizer*")):
            why = "no files of a tokenizer are in it" if Path(model).is_dir() else "there is no such folder"
        raise ModelError(f"cannot load a tokenizer from {model!r}: {why}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {model!r} has no end-of-sequence token, so no response could end: name the one the "
            "model writes as `eos_token` in its tokenizer_config.json"
        )
    if variables:
        tokenizer.chat_template = with_variables(tokenizer.chat_template or "", variables, model)
    try:
        settings = AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError):
        return tokenizer
    if len(tokenizer) > settings.vocab_size:
        raise ModelError(
            f"the tokenizer of {model!r} has {len(tokenizer):,} tokens, the model a vocabulary of "
            f"{settings.vocab_size:,}: save the tokenizer the model was trained with, or enlarge the model with "
            "resize_token_embeddings"
        )
    context = context_of(settings)
    if longest > context:
        raise ModelError(
            f"{limits} = {longest:,} tokens, and {model!r} has a context of {context:,.0f} (max_position_embeddings "
            "in its config.json): lower the settings, or use a model with a longer context"
        )
    return tokenizer


def context_of(settings: Any) -> float:
    """Positions a model can tell apart, by its text configuration; infinity where that names none.

    As vLLM counts them: a ``factor`` of linear or dynamic rotary scaling multiplies ``max_position_embeddings``; the
    other kinds state it scaled already.
    """
    positions = getattr(settings, "max_position_embeddings", None) or math.inf
    rope = getattr(settings, "rope_parameters", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] or [rope]
    factors = [kind.get("factor") or 1.0 for kind in kinds if kind.get("rope_type") in ("linear", "dynamic")]
    already = "gemma3" in settings.model_type
    return positions if already or not factors else positions * max(factors)
