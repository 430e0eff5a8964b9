"""From messages and chains to token ids: what comes from data is text, whatever control token it spells.

Control tokens are written by the chat template alone, and by a chain's own tags. Both are told apart from text by
names nobody can spell: a copy of the tokenizer knows its added tokens under random names only, under which a rendered
prompt states those that the template wrote. Everything else, a spelled ``<|im_end|>`` included, is tokenised as
ordinary text, in one piece with what stands around it, so ids of text without such spellings are the tokenizer's own.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jinja2

from actors.learner.settings import ModelError
from actors.verifier.sections import own_tags
from pipelines.data.schema import DataError

_BLANK = " \t\r\n▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SHAPES = re.compile(r"<<?[^<>\s]+>>?|\[/?[A-Z][A-Z_]*\]|#{2,} ?\w+:?|\b[A-Z]{2,}:")
"""What a marker looks like that a chat template writes as ordinary text: ``<<SYS>>``, ``[INST]``, ``### Response:``."""
_PROBES = (("user",), ("system", "user"), ("user", "assistant", "user"))


class ChatTokenizer:
    """A tokenizer with its chat template. Texts that it hands out are for its own :meth:`ids` alone."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises ModelError where the tokenizer has no fast implementation."""
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        self._edge = re.compile(rf"{self._nonce}[0-9]+[(]|[)]{self._nonce}")
        self._break = f"<{self._nonce}:break>"
        self._names: dict[str, str] = {}
        self._copy = self._renamed()
        longest_first = sorted(self._names, key=len, reverse=True)
        self._controls = re.compile("|".join(map(self._pattern, longest_first))) if self._names else None
        spelled = {marker for text in self._probes() for marker in _SHAPES.findall(text)} - self._names.keys()
        self._spelled = (
            re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))) if spelled else None
        )
        self._written: dict[str, str] = {}

    def _renamed(self) -> Any:
        """The copy of the tokenizer; fills ``_names`` with the added tokens that text must not become.

        Blank ones and single characters are no markers, and some text could not be written without them.
        """
        from tokenizers import AddedToken, Tokenizer

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"the tokenizer of {self._tokenizer.name_or_path!r} has no fast implementation: save one beside the "
                "model (tokenizer.json), so that text can be told from control tokens"
            )
        state = json.loads(backend.to_str())
        state |= {"truncation": None, "padding": None, "post_processor": None}
        # The bytes of characters unknown to the vocabulary are found without being added tokens.
        state["added_tokens"] = [token for token in state["added_tokens"] if not _BYTE.fullmatch(token["content"])]
        self._single = {token["content"] for token in state["added_tokens"] if token["single_word"]}
        for token in state["added_tokens"]:
            content = token["content"]
            if len(content.strip(_BLANK)) > 1:
                self._names[content] = f"<{self._nonce}:{token['id']}>"
                token |= {"content": self._names[content], "single_word": False}
        _rename(state["model"], self._names)
        copy = Tokenizer.from_str(json.dumps(state))
        copy.add_special_tokens([AddedToken(self._break, normalized=False)])
        for content, name in self._names.items():
            if copy.token_to_id(name) != backend.token_to_id(content):
                raise RuntimeError(f"{content!r} is token {copy.token_to_id(name)}, not {backend.token_to_id(content)}")
        self._break_id = copy.token_to_id(self._break)
        return copy

    def _pattern(self, content: str) -> str:
        pattern = re.escape(content)
        return rf"(?<!\w){pattern}(?!\w)" if content in self._single else pattern

    def _probes(self) -> Iterable[str]:
        for roles in _PROBES:
            try:
                yield self._render([{"role": role, "content": "x"} for role in roles])
            except Exception:  # A template may refuse roles; those it is asked for in earnest are answered in prompt().
                continue

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return text

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template's text for ``messages``, with its generation prompt.

        Raises:
            DataError: the template fails on these messages, or loses text of one.

        """
        marked = []
        for index, message in enumerate(messages):
            text = message["content"]
            core = text.strip()
            if core:
                lead = text.index(core[0])
                edged = f"{self._nonce}{index}({core}){self._nonce}"
                text = f"{text[:lead]}{edged}{text[lead + len(core) :]}"
            marked.append({**message, "content": text})
        try:
            rendered = self._render(marked)
        except Exception as error:  # A template is a program of the model's maker, which can raise anything.
            raise self._refusal(messages, error) from error
        self._check_whole(messages, rendered)
        # Edges alternate: template, text, template, ...
        parts = self._edge.split(rendered)
        return "".join(self._text(part) if at % 2 else self._control(part) for at, part in enumerate(parts))

    def _refusal(self, messages: Sequence[Mapping[str, str]], error: Exception) -> DataError:
        roles = ", ".join(message["role"] for message in messages)
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        remedy = "correct its chat_template (tokenizer_config.json or chat_template.jinja), or use another model"
        others = [message for message in messages if message["role"] != "system"]
        if 0 < len(others) < len(messages):
            try:
                self._render(others)
                remedy = "choose a prompt template (model.prompt) without a system part"
            except Exception:  # Then the system message is not what is wrong.
                pass
        return DataError(
            f"the chat template of {self._tokenizer.name_or_path!r} refuses messages with the roles {roles}: "
            f"{kind}{' '.join(str(error).split())}; {remedy}"
        )

    def _check_whole(self, messages: Sequence[Mapping[str, str]], rendered: str) -> None:
        """Every message must be there from its first to its last character, white space aside."""
        squeezed = ""
        for index, message in enumerate(messages):
            core = message["content"].strip()
            edged = f"{self._nonce}{index}({core}){self._nonce}"
            if not core or edged in rendered:
                continue
            squeezed = squeezed or "".join(rendered.split())
            if "".join(edged.split()) not in squeezed:
                role = message["role"]
                other = ", or choose a prompt template (model.prompt) without a system part" * (role == "system")
                raise DataError(
                    f"the chat template of {self._tokenizer.name_or_path!r} loses text of the {role} message "
                    f"({core[:40]!r}...): use a model whose template writes the text of every message, or correct its "
                    f"chat_template (tokenizer_config.json or chat_template.jinja){other}"
                )

    def chain(self, text: str, prompt: str) -> str:
        """A chain's text after ``prompt``. Its own tags, as the verifier reads them, are tokens where the tokenizer has
        them; all that it quotes is text. A thought that the chat template has opened already is not opened twice.
        """
        parts, at = [], 0
        thought_opened = prompt.rstrip().endswith(self._names.get("<think>", "<think>"))
        if thought_opened and text.lstrip().startswith("<think>"):
            text = text.lstrip().removeprefix("<think>").removeprefix("\n")
        for start, end in own_tags(text, thought_opened):
            parts += [self._text(text[at:start]), self._names.get(text[start:end], text[start:end])]
            at = end
        return "".join([*parts, self._text(text[at:])])

    def _control(self, part: str) -> str:
        """A part that the template wrote, with its control tokens by their names."""
        if part not in self._written:
            found = self._controls
            self._written[part] = found.sub(lambda match: self._names[match[0]], part) if found else part
        return self._written[part]

    def _text(self, part: str) -> str:
        """A part of data. Markers that are ordinary text in the template as well get other ids here: cut in two."""
        if self._spelled is None:
            return part
        return self._spelled.sub(lambda match: _cut(match[0], self._break), part)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts of :meth:`prompt` and :meth:`chain`. All at once is faster: it uses every core."""
        encoded = [item.ids for item in self._copy.encode_batch_fast(list(texts), add_special_tokens=False)]
        if self._spelled is None:
            return encoded
        return [[token for token in item if token != self._break_id] for item in encoded]


def _cut(marker: str, where: str) -> str:
    middle = len(marker) // 2
    return f"{marker[:middle]}{where}{marker[middle:]}"


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename entries of a tokenizer's model, so that no text leads to them, not by merges either."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        for entry in vocabulary:
            entry[0] = names.get(entry[0], entry[0])
    else:
        gone = {content for content in names if content in vocabulary}
        for content in gone:
            vocabulary[names[content]] = vocabulary.pop(content)
        if gone and "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if gone.isdisjoint((*pair, "".join(pair)))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def with_variables(template: str, variables: Mapping[str, Any], model: str) -> str:
    """A chat template in which ``variables`` are set, as if its caller gave them with every conversation.

    Raises:
        ModelError: the template reads no variable of such a name, or a value is no text, number, truth value or null.

    """
    if not variables:
        return template
    read = {name for name in variables if re.search(rf"\b{re.escape(name)}\b", template)}
    if unread := sorted(variables.keys() - read):
        raise ModelError(
            f"model.chat_template_kwargs: the chat template of {model!r} reads no variable {unread[0]!r}, so it would "
            "change nothing: leave it out, or use the name that its chat_template has"
        )
    if nested := next((name for name, value in variables.items() if not _is_plain(value)), None):
        raise ModelError(
            f"model.chat_template_kwargs.{nested}={variables[nested]!r} must be text, a number, true, false or null"
        )
    # Without a line break after it, which the template's own beginning may have.
    stated = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in variables.items())
    return stated + "{{ '' }}" + template


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _literal(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


_KNOWN: WeakKeyDictionary[Any, tuple[Any, ChatTokenizer]] = WeakKeyDictionary()


def chat_tokenizer(tokenizer: Any) -> ChatTokenizer:
    """The :class:`ChatTokenizer` of a tokenizer, made once and again where tokens or template have changed.

    Raises:
        DataError: the tokenizer has no chat template.
        ModelError: it has no fast implementation.

    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruct model, or save one in "
            "its tokenizer_config.json"
        )
    state = len(tokenizer), tokenizer.chat_template
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        known = _KNOWN[tokenizer] = state, ChatTokenizer(tokenizer)
    return known[1]
