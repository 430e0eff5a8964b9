"""What trainers send and expect back, as plain functions: OpenRLHF's remote rewards, NeMo Gym's resources servers.

The forms are those of OpenRLHF 0.11 (`openrlhf.utils.agent`, `openrlhf.cli.serve_rm`) and of NeMo Gym's
`genrm_compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.schema import DataError
from pipelines.data.text import part_beside_text, role_of, text_of_parts
from pipelines.judgment.votes import hash_of

_PLACE = "{the question of a user}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One response as a member of a group."""

    key: str
    """Of its group."""
    question: Any
    """A text, or messages."""
    response: str
    member: str | None
    """Its name among its siblings, where the trainer states one."""


@dataclass(frozen=True, slots=True)
class PolicyText:
    """What a policy's chat template adds to a user's question and to a response."""

    before: str = ""
    after: str = ""
    ends: tuple[str, ...] = ()
    """Tokens that end a response."""

    @classmethod
    def of(cls, tokenizer: Any) -> PolicyText:
        """Read from the template, around a single message of a user."""
        asked = [{"role": "user", "content": _PLACE}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        before, found, after = text.partition(_PLACE)
        if not found:
            raise DataError("reward.policy: its chat template changes the text of a user: set reward.question=label")
        return cls(before, after, tuple(tokenizer.all_special_tokens))

    def question(self, prompt: str) -> str:
        """The user's text in a rendered prompt.

        Raises:
            DataError: the prompt is of another form.

        """
        inner = prompt.removeprefix(self.before).removesuffix(self.after)
        if len(inner) + len(self.before) + len(self.after) != len(prompt):
            raise DataError(
                "a prompt is not a single user's message in the chat template of reward.policy: state questions as "
                "labels (reward.question=label)"
            )
        return inner

    def response(self, query: str, prompt: str) -> str:
        """What follows the prompt in a whole text, without the tokens that end it.

        Raises:
            DataError: the text does not begin with the prompt.

        """
        # A tokenizer may add a token that begins a text.
        place = query.find(prompt)
        if place < 0 or query[:place] not in ("", *self.ends):
            raise DataError("a query does not begin with its prompt, so the response cannot be told")
        text = query[place + len(prompt) :].rstrip()
        while end := next((end for end in self.ends if end and text.endswith(end)), None):
            text = text.removesuffix(end).rstrip()
        return text


def openrlhf_samples(body: Mapping[str, Any], policy: PolicyText, question_in: str) -> list[Sample]:
    """Samples of ``{query, prompts, labels}``: lists of one entry a sample, ``query`` the prompt and its response.

    Raises:
        DataError: the lists differ in length, or a text cannot be read.

    """
    queries, prompts, labels = (body.get(name) or [] for name in ("query", "prompts", "labels"))
    if other := next((one for one in (queries, prompts, labels) if not isinstance(one, list)), None):
        raise DataError(f"query, prompts and labels must be lists, not {type(other).__name__}")
    if not queries or not len(queries) == len(prompts) == len(labels):
        counts = f"{len(queries)}, {len(prompts)} and {len(labels)}"
        raise DataError(f"query, prompts and labels must be lists of the same length, not of {counts} entries")
    samples = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        if not isinstance(query, str) or not isinstance(prompt, str):
            raise DataError("a query or a prompt is no text")
        if question_in == "label" and (not isinstance(label, str) or not label.strip()):
            raise DataError("a label is no text: reward.question=label takes the question from it")
        question = label if question_in == "label" else policy.question(prompt)
        samples.append(Sample(hash_of("openrlhf", prompt, question), question, policy.response(query, prompt), None))
    return samples


def gym_sample(body: Mapping[str, Any]) -> Sample:
    """The sample of a body of ``/verify``: ``responses_create_params``, ``response`` and what names group and rollout.

    Raises:
        DataError: the input or the response holds no text.

    """
    params = body.get("responses_create_params")
    question = gym_messages(params.get("input") if isinstance(params, Mapping) else None)
    names = ("_ng_group_id", "_ng_group_attempt", "_ng_task_index", "prompt_id")
    member = body.get("_ng_rollout_index")
    key = hash_of("gym", *(body.get(name) for name in names), question)
    return Sample(key, question, gym_text(body.get("response")), None if member is None else str(member))


def gym_messages(given: Any) -> list[dict[str, str]]:
    """A conversation from the input of OpenAI's Responses: a text, or items with ``role`` and ``content``.

    Raises:
        DataError: an item is no message of text.

    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages = []
    if not isinstance(given, list):
        raise DataError("input: must be a text or a list of messages")
    for number, item in enumerate(given, 1):
        role = item.get("role") if isinstance(item, Mapping) else None
        if not isinstance(role, str):
            raise DataError(f"input, item {number}: no message: a judge reads conversations of text alone")
        content = text_of_parts(item.get("content"))
        if not isinstance(content, str):
            other = next(filter(None, map(part_beside_text, content or [None])), None)
            raise DataError(f"input, item {number}: {other!r} cannot be shown to a judge, which reads text alone")
        messages.append({"role": role_of(role), "content": content})
    return messages


def gym_text(response: Any) -> str:
    """The text of a response of OpenAI's Responses: its messages' parts joined, thoughts and calls left out.

    Raises:
        DataError: it has no output.

    """
    output = response.get("output") if isinstance(response, Mapping) else None
    if not isinstance(output, list):
        raise DataError("response: no `output`, so there is nothing to judge")
    messages = [item for item in output if isinstance(item, Mapping) and item.get("type", "message") == "message"]
    return "".join(_written(item.get("content")) for item in messages)


def _written(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts if isinstance(part, Mapping))
