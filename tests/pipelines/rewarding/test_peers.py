"""The forms of OpenRLHF and NeMo Gym, read from what they send."""

from __future__ import annotations

from typing import Any

import pytest
from families import FAMILIES

from pipelines.data.schema import DataError
from pipelines.rewarding.peers import PolicyText, gym_messages, gym_sample, gym_text, openrlhf_samples

QWEN = FAMILIES["qwen2_5"]()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_template_and_end_tokens_of_a_policy_are_taken_off(family: str) -> None:
    tokenizer = FAMILIES[family]()
    policy = PolicyText.of(tokenizer)
    for question, answer in (("What?\nIs it", "It is.\n\nYes"), ("  ", ""), ("<|im_end|>", "a <b>")):
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if question.strip() and "<|" not in question:
            assert policy.question(prompt) == question
        end = tokenizer.eos_token
        assert policy.response(f"{prompt}{answer}{end}", prompt) == answer.rstrip()
        assert policy.response(f"{prompt}{answer}{end}\n{end}", prompt) == answer.rstrip()
        assert policy.response(f"{prompt}{answer}", prompt) == answer.rstrip()
        if tokenizer.bos_token:
            assert policy.response(f"{tokenizer.bos_token}{prompt}{answer}{end}", prompt) == answer.rstrip()


def test_samples_of_one_prompt_are_one_group() -> None:
    body = {"query": ["p one", "p two", "r one"], "prompts": ["p", "p", "r"], "labels": [None, None, None]}
    samples = openrlhf_samples(body, PolicyText(), "prompt")
    assert [sample.response for sample in samples] == [" one", " two", " one"]
    assert [sample.question for sample in samples] == ["p", "p", "r"]
    assert samples[0].key == samples[1].key != samples[2].key
    assert {sample.member for sample in samples} == {None}


def test_the_question_may_be_the_label() -> None:
    body = {"query": ["<user>q</user>yes"], "prompts": ["<user>q</user>"], "labels": ["q"]}
    (sample,) = openrlhf_samples(body, PolicyText(), "label")
    assert (sample.question, sample.response) == ("q", "yes")


@pytest.mark.parametrize(
    ("body", "where", "said"),
    [
        ({}, "prompt", "same length, not of 0, 0 and 0"),
        ({"query": ["pa"], "prompts": ["p", "p"], "labels": [None]}, "prompt", "not of 1, 2 and 1"),
        ({"query": ["other"], "prompts": ["p"], "labels": [None]}, "prompt", "does not begin with its prompt"),
        ({"query": ["pa"], "prompts": ["p"], "labels": [None]}, "label", "a label is no text"),
        ({"query": "p", "prompts": "p", "labels": "p"}, "prompt", "must be lists, not str"),
        ({"query": 3, "prompts": ["p"], "labels": [""]}, "prompt", "must be lists, not int"),
        ({"query": [3], "prompts": ["p"], "labels": [""]}, "prompt", "no text"),
        ({"query": ["pa"], "prompts": [None], "labels": ["l"]}, "label", "no text"),
    ],
)
def test_what_is_no_request_of_openrlhf(body: Any, where: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        openrlhf_samples(body, PolicyText(), where)


def test_a_prompt_with_more_than_one_message_asks_for_labels() -> None:
    policy = PolicyText.of(QWEN)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]
    prompt = QWEN.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    with pytest.raises(DataError, match=r"reward\.question=label"):
        policy.question(prompt)


# As NeMo Gym's agents send it to `/verify`.
ROLLOUT = {
    "responses_create_params": {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "What is "}, {"type": "input_text", "text": "2+2?"}],
            },
        ]
    },
    "response": {
        "id": "resp_1",
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "thinking"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "It is ", "annotations": []},
                    {"type": "output_text", "text": "4"},
                ],
            },
        ],
    },
    "_ng_task_index": 3,
    "_ng_rollout_index": 1,
}


def test_a_rollout_of_nemo_gym() -> None:
    sample = gym_sample(ROLLOUT)
    assert sample.question == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2?"}]
    assert (sample.response, sample.member) == ("It is 4", "1")
    sibling = gym_sample({**ROLLOUT, "_ng_rollout_index": 2})
    assert (sibling.key, sibling.member) == (sample.key, "2")
    assert gym_sample({**ROLLOUT, "_ng_task_index": 4}).key != sample.key
    assert gym_sample({key: value for key, value in ROLLOUT.items() if not key.startswith("_ng")}).member is None


def test_what_holds_no_text_for_a_judge() -> None:
    assert gym_messages("q") == [{"role": "user", "content": "q"}]
    assert gym_text({"output": []}) == ""
    with pytest.raises(DataError, match="item 1: no message"):
        gym_messages([{"type": "function_call_output", "output": "x"}])
    with pytest.raises(DataError, match="item 1: no message"):
        gym_messages([{"role": {"name": "user"}, "content": "x"}])
    image = {"type": "input_image", "image_url": "data:,x"}
    for content, said in (([image], "'input_image'"), (None, "'no part with a type'"), ([], "'no part with a type'")):
        with pytest.raises(DataError, match=f"item 1: {said} cannot be shown to a judge"):
            gym_messages([{"role": "user", "content": content}])
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I will not."}]}
    assert gym_text({"output": [refusal]}) == "I will not."
    for given in (None, 5, {"role": "user"}):
        with pytest.raises(DataError, match="a text or a list of messages"):
            gym_messages(given)
    with pytest.raises(DataError, match="a text or a list of messages"):
        gym_sample({"responses_create_params": 3, "response": {"output": []}})
    for response in (None, {}, {"output": "x"}):
        with pytest.raises(DataError, match="no `output`"):
            gym_text(response)
