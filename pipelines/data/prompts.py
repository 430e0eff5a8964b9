"""From a preference pair to the tokens a judge reads: templates, both orders, the chat template, the length filter.

Both sides are written by the same code from the same template, so nothing but the responses can tell which is better.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import yaml

from actors.messages import JudgeMode, Order, Prompt, Side
from actors.verifier.trace import LETTERS
from pipelines.data.schema import DataError, Message, PreferencePair
from pipelines.data.text import unicode_fault
from pipelines.data.tokens import chat_tokenizer

TEMPLATES = Path(__file__).parent / "templates"
_ENCODED_AT_ONCE = 256
_FIELDS: dict[JudgeMode, dict[str, set[str]]] = {
    "pairwise": {
        "user": {"conversation", "response_a", "response_b"},
        "user_multi_turn": {"conversation_a", "conversation_b"},
        "rubric": {"rubric"},
    },
    "pointwise": {"user": {"conversation", "response"}, "rubric": {"rubric"}},
    "listwise": {"user": {"conversation", "responses"}, "response": {"letter", "response"}},
}
"""By mode, the parts of a template besides ``system``, and the fields that each must name."""
_NEEDED: dict[JudgeMode, set[str]] = {"pairwise": {"user"}, "pointwise": {"user"}, "listwise": {"user", "response"}}


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """How responses are put to the judge in one mode."""

    user: str
    """With ``{conversation}``, and ``{response_a}`` and ``{response_b}``, or ``{response}``, or ``{responses}``."""
    system: str | None = None
    user_multi_turn: str | None = None
    """With ``{conversation_a}`` and ``{conversation_b}``, the whole conversations; None: ``user`` serves here too."""
    response: str | None = None
    """Of a list: each response, with ``{letter}`` and ``{response}``."""
    rubric: str | None = None
    """What a prompt says of criteria that it is given, with ``{rubric}``."""

    def with_rubric(self, rubric: str) -> PromptTemplate:
        """The template that names these criteria after what is to be judged.

        Raises:
            DataError: it has no part for a rubric.

        """
        if self.rubric is None:
            raise DataError("a rubric is given, and the prompt template has no part `rubric`: leave it out, or add one")
        part = "\n" + self.rubric.format(rubric=rubric).replace("{", "{{").replace("}", "}}")
        turns = None if self.user_multi_turn is None else self.user_multi_turn + part
        return replace(self, user=self.user + part, user_multi_turn=turns)


@dataclass(frozen=True, slots=True)
class DroppedPrompts:
    """Prompts that were filtered out for their length."""

    count: int
    longest: int
    """Tokens of the longest prompt seen, dropped or not."""


def template_file(name: str, judged: JudgeMode = "pairwise") -> Path:
    """The file of a template, which may not be there: the path of a YAML file, or one of ours by name.

    Those of the other modes lie beside the pairwise one: ``tiny.pointwise.yaml`` beside ``tiny.yaml``.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else TEMPLATES / f"{name}.yaml"
    return file if judged == "pairwise" else file.with_name(f"{file.stem}.{judged}{file.suffix}")


def load_template(name: str, judged: JudgeMode = "pairwise") -> PromptTemplate:
    """A template by name, such as ``chain_of_rubrics``, or by the path of a YAML file.

    Raises:
        DataError: there is no such template, or it lacks a part or names an unknown field.

    """
    path = template_file(name, judged)
    if not path.is_file():
        pairwise = template_file(name)
        if judged != "pairwise" and pairwise.is_file():
            raise DataError(f"model.prompt={name}: no template for mode {judged}: write {path.name} beside {pairwise}")
        known = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml") if "." not in file.stem))
        raise DataError(f"model.prompt: there is no template {name!r}; use one of {known}, or the path of a .yaml file")
    try:
        written = path.read_text(encoding="utf-8")
        parts, node = yaml.safe_load(written), yaml.compose(written, yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"prompt template {path}: cannot be read: {error}") from error
    names = Counter(key.value for key, _ in node.value) if isinstance(node, yaml.MappingNode) else Counter()
    if twice := [str(name) for name, count in names.items() if count > 1]:
        raise DataError(f"prompt template {path}: has the part `{twice[0]}` twice: keep one")
    needed = _NEEDED[judged]
    allowed = [part for part in ("system", *_FIELDS[judged]) if part not in needed]
    unknown = set(parts or {}) - needed - set(allowed) if isinstance(parts, dict) else {"?"}
    if unknown or not needed <= set(parts):
        raise DataError(
            f"prompt template {path}: needs {_listed(sorted(needed, reverse=True))}, and may have {_listed(allowed)}, "
            "no other part"
        )
    for part, text in parts.items():
        if not isinstance(text, str):
            raise DataError(f"prompt template {path}, `{part}`: must be text, not {type(text).__name__}")
        if fault := unicode_fault(text):
            raise DataError(f"prompt template {path}, `{part}`: {fault}: write the character itself")
    for part, wanted in _FIELDS[judged].items():
        if part in parts:
            _check_fields(parts[part], wanted, f"prompt template {path}, `{part}`")
    return PromptTemplate(**parts)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(f"`{part}`" for part in parts)


def _check_fields(text: str, wanted: set[str], place: str) -> None:
    try:
        # Conversions and format codes are part of the name here, so that none is accepted.
        named = {
            f"{field}{'!' * bool(how)}{how or ''}{':' * bool(code)}{code}"
            for _, field, code, how in string.Formatter().parse(text)
            if field is not None
        }
    except ValueError as error:
        raise DataError(f"{place}: {error}; write a brace of its own twice") from error
    if named != wanted:
        raise DataError(f"{place}: must name exactly {sorted(wanted)}, names {sorted(named)}")


def _transcript(messages: Sequence[Message], speaker: str) -> str:
    """A conversation, one paragraph per turn; the assistant's turns carry ``speaker``'s name."""
    names = {"user": "User", "assistant": speaker, "system": "System"}
    return "\n".join(f"{names[message.role]}: {message.content}" for message in messages)


def render(pair: PreferencePair, order: Order, template: PromptTemplate) -> list[dict[str, str]]:
    """The messages that put ``pair`` to the judge with the chosen response first or second."""
    if pair.ready_made:
        return [dict(message) for message in pair.metadata["context_messages"]]
    first, second = (pair.chosen, pair.rejected) if order == "chosen_first" else (pair.rejected, pair.chosen)
    if len(pair.prompt) > 1 and template.user_multi_turn is not None:
        conversations = [
            _transcript([*pair.prompt, Message("assistant", response)], speaker)
            for response, speaker in ((first, "Chatbot A"), (second, "Chatbot B"))
        ]
        user = template.user_multi_turn.format(conversation_a=conversations[0], conversation_b=conversations[1])
    else:
        user = template.user.format(conversation=_asked(pair.prompt), response_a=first, response_b=second)
    return _messages(user, template)


def _asked(conversation: Sequence[Message]) -> str:
    return conversation[0].content if len(conversation) == 1 else _transcript(conversation, "Chatbot")


def _messages(user: str, template: PromptTemplate) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": user}]
    return [{"role": "system", "content": template.system}, *messages] if template.system else messages


def render_rating(
    conversation: Sequence[Message], response: str, template: PromptTemplate, rubric: str | None = None
) -> list[dict[str, str]]:
    """The messages that ask for a rating of one response; ``rubric`` are criteria to rate it by.

    Raises:
        DataError: the template has no part for a rubric.

    """
    if rubric is not None:
        template = template.with_rubric(rubric)
    return _messages(template.user.format(conversation=_asked(conversation), response=response), template)


def render_list(
    conversation: Sequence[Message], responses: Sequence[str], template: PromptTemplate
) -> list[dict[str, str]]:
    """The messages that ask for an order of at most four responses, shown as A, B, C and D in the order given."""
    each = template.response or "{letter} {response}"
    shown = [each.format(letter=letter, response=text) for letter, text in zip(LETTERS, responses, strict=False)]
    return _messages(template.user.format(conversation=_asked(conversation), responses="\n".join(shown)), template)


def orders_of(pairs: Iterable[PreferencePair], mode: str, seed: int) -> list[tuple[PreferencePair, Order]]:
    """Each pair in ``both`` orders, or in one: ``alternate`` (first, second, first, ...), seeded ``random``, or that
    order for every pair.

    Alternation runs within each source: of sources that take turns in a file, none is always shown the same way round.
    """
    ordered: list[tuple[PreferencePair, Order]] = []
    rng = random.Random(f"{seed}/orders")
    seen: Counter[str] = Counter()
    for pair in pairs:
        if pair.ready_made:
            # A prompt that came ready made has one order, whatever is asked for.
            ordered.append((pair, "chosen_first" if pair.metadata["winner"] == "A" else "chosen_second"))
        elif mode == "both":
            ordered += [(pair, "chosen_first"), (pair, "chosen_second")]
        elif mode == "alternate":
            ordered.append((pair, "chosen_second" if seen[pair.source] % 2 else "chosen_first"))
            seen[pair.source] += 1
        elif mode == "random":
            ordered.append((pair, "chosen_second" if rng.random() < 0.5 else "chosen_first"))
        elif mode in get_args(Order):
            ordered.append((pair, cast(Order, mode)))
        else:
            raise ValueError(f"order mode {mode!r} is not one of both, alternate, random, chosen_first, chosen_second")
    return ordered


def encode(messages: list[dict[str, str]], tokenizer: Any) -> list[int]:
    """Token ids of a conversation with the model's own chat template and generation prompt; see :func:`encode_all`."""
    return next(encode_all([messages], tokenizer))


def encode_all(conversations: Iterable[list[dict[str, str]]], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each conversation, with the model's own chat template applied once and its generation prompt.

    What messages say is text: control tokens that they spell, and those of a prompt template too, are spelled out.
    Works in batches, which are spread over the cores where ``TOKENIZERS_PARALLELISM`` allows it.

    Raises:
        DataError: the tokenizer has no chat template, or one that refuses these messages or loses text of theirs.
        ModelError: the tokenizer has no fast implementation.

    """
    chat = chat_tokenizer(tokenizer)
    remaining = iter(conversations)
    while texts := [chat.prompt(messages) for messages in islice(remaining, _ENCODED_AT_ONCE)]:
        yield from chat.ids(texts)


def tokenise(
    ordered: Iterable[tuple[PreferencePair, Order]], template: PromptTemplate, tokenizer: Any, max_prompt_tokens: int
) -> tuple[list[Prompt], DroppedPrompts]:
    """Prompts of at most ``max_prompt_tokens`` tokens, in order. Longer ones are counted, never cut."""
    prompts: list[Prompt] = []
    dropped = longest = 0
    ordered = list(ordered)
    encoded = encode_all((render(pair, order, template) for pair, order in ordered), tokenizer)
    for (pair, order), token_ids in zip(ordered, encoded, strict=True):
        longest = max(longest, len(token_ids))
        if len(token_ids) > max_prompt_tokens:
            dropped += 1
            continue
        label: Side = "A" if order == "chosen_first" else "B"
        ids = np.asarray(token_ids, np.int32)
        prompts.append(Prompt(f"{pair.id}/{order}", pair.id, order, label, pair.domain, ids))
    return prompts, DroppedPrompts(dropped, longest)
