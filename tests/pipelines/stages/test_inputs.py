"""The data of a stage: the user's files or the built-in family's, disjoint, in whole items, with nothing cut."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from configs import configured
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from actors.learner.settings import ModelError
from pipelines.config import Config
from pipelines.config.data import Modes
from pipelines.data.prompts import load_template, render
from pipelines.data.schema import DataError, PreferencePair, content_key, prompt_key, write_pairs
from pipelines.data.tiny_modes import with_others
from pipelines.data.tiny_tasks import generate_items, teacher_chain
from pipelines.data.tokenizer import context_of, load_tokenizer
from pipelines.runs.folder import RunDirectory, StageMissing
from pipelines.stages.inputs import distillation_set, heldout_task, training_task


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "outputs", "r", "tiny")


@pytest.fixture
def model(tiny_model_directory: Path) -> str:
    return str(tiny_model_directory)


def config_of(**data: Any) -> Config:
    config = configured("tracking=off")
    for key, value in data.items():
        section, _, name = key.partition("__")
        setattr(getattr(config, section), name, value)
    return config


def users_file(path: Path, rows: Sequence[tuple[str, str, str]]) -> str:
    lines = [
        json.dumps({"id": f"{path.stem}-{number}", "prompt": prompt, "chosen": chosen, "rejected": rejected})
        for number, (prompt, chosen, rejected) in enumerate(rows)
    ]
    path.write_text("\n".join(lines))
    return str(path)


def questions(count: int, first: int = 0) -> list[tuple[str, str, str]]:
    return [(f"question {index}", "cat", "dog") for index in range(first, first + count)]


@pytest.mark.slow
def test_built_in_sets(run: RunDirectory, model: str) -> None:
    items = generate_items(0, {"rl": 12, "heldout": 5})
    for name, pairs in items.items():
        write_pairs(pairs, run.data / f"{name}.parquet")
    training = training_task(config_of(data__orders="both"), run, model)
    assert training.prompts_per_item == 2
    assert len(training.items) == 12
    for pair, item in zip(items["rl"], training.items, strict=True):
        assert [(prompt.uid, prompt.label) for prompt in item] == [
            (f"{pair.id}/chosen_first", "A"),
            (f"{pair.id}/chosen_second", "B"),
        ]
    assert training.prompts([3, 1]) == [*training.items[3], *training.items[1]]
    assert training.first(2).items == training.items[:2]
    assert training.first(0) == training
    assert training.describe() == "12 pairs as 24 prompts"
    alternating = training_task(config_of(data__orders="alternate"), run, model)
    assert alternating.prompts_per_item == 1
    assert [item[0].label for item in alternating.items] == ["A", "B"] * 6
    heldout = heldout_task(config_of(data__orders="alternate"), run, model)
    assert [len(item) for item in heldout.items] == [2] * 5
    assert dict(heldout.pairs) == {pair.id: pair for pair in items["heldout"]}


def test_a_mix_of_modes_keeps_both_prompts_of_a_pair_together(run: RunDirectory, model: str) -> None:
    items = [with_others(pair) for pair in generate_items(0, {"rl": 60})["rl"]]
    write_pairs(items, run.data / "rl.parquet")
    write_pairs(items[:6], run.data / "heldout.parquet")
    mix = Modes(1.0, 1.0, 1.0)
    task = training_task(config_of(data__orders="both", data__modes=mix), run, model)
    assert [len(item) for item in task.items] == [2] * 60
    assert [item[0].pair_id for item in task.items] == [pair.id for pair in items]
    by_mode = {mode: [item for item in task.items if item[0].judged == mode] for mode in ("pointwise", "listwise")}
    assert all(by_mode.values())
    assert task.describe().startswith(
        f"60 pairs as 120 prompts ({len(by_mode['listwise'])} listwise, {len(by_mode['pointwise'])} pointwise)"
    )
    assert {(*(prompt.label for prompt in item), item[0].responses) for item in by_mode["pointwise"]} == {("A", "B", 1)}
    assert {item[0].responses for item in by_mode["listwise"]} == {3}
    assert all(item[0].label != item[1].label for item in by_mode["listwise"])
    # Held-out pairs stay pairs, unless they are asked for in another mode.
    config = config_of(data__modes=mix)
    assert {item[0].judged for item in heldout_task(config, run, model).items} == {"pairwise"}
    rated = heldout_task(config, run, model, Modes(0.0, 1.0, 0.0))
    assert {prompt.judged for item in rated.items for prompt in item} == {"pointwise"}
    # Of pairs that are put as pairs, nothing has changed.
    plain = {item[0].pair_id: item for item in training_task(config_of(data__orders="both"), run, model).items}
    assert all(item == plain[item[0].pair_id] for item in task.items if item[0].judged == "pairwise")


def test_what_prepare_should_have_left_is_asked_for(run: RunDirectory, model: str) -> None:
    for load in (training_task, heldout_task, distillation_set):
        with pytest.raises(StageMissing, match="prepare"):
            load(config_of(), run, model)


def test_users_pairs_are_split_by_prompt(tmp_path: Path, run: RunDirectory, model: str) -> None:
    rows = [(f"question {index}", answer, "dog") for index in range(60) for answer in ("cat", "sun")]
    config = config_of(data__train=users_file(tmp_path / "mine.jsonl", rows), data__heldout_fraction=0.3)
    training, heldout = training_task(config, run, model), heldout_task(config, run, model)
    assert len(training.items) + len(heldout.items) == 120
    assert 15 <= len(heldout.items) <= 60
    asked = [{prompt_key(pair) for pair in task.pairs.values()} for task in (training, heldout)]
    assert not asked[0] & asked[1]
    assert heldout_task(config, run, model).items == heldout.items


def test_pairs_of_the_users_heldout_file_are_not_trained_on(tmp_path: Path, run: RunDirectory, model: str) -> None:
    shared = [("Question  3 ", "DOG", "cat"), ("question 4", "cat", "dog")]
    config = config_of(
        data__train=users_file(tmp_path / "mine.jsonl", questions(10)),
        data__heldout=users_file(tmp_path / "held.jsonl", [*shared, *questions(3, 50)]),
    )
    training, heldout = training_task(config, run, model), heldout_task(config, run, model)
    # The same pair in other dress, or labelled the other way round, is the same pair.
    assert {pair.id for pair in training.pairs.values()} == {
        f"mine-{index}" for index in range(10) if index not in (3, 4)
    }
    assert training.describe() == "8 pairs as 16 prompts, 2 left out as they are held out"
    assert len(heldout.items) == 5
    assert not set(map(content_key, training.pairs.values())) & set(map(content_key, heldout.pairs.values()))


def test_heldout_that_covers_the_training_file_is_refused(tmp_path: Path, run: RunDirectory, model: str) -> None:
    file = users_file(tmp_path / "mine.jsonl", questions(4))
    with pytest.raises(DataError, match=r"mine\.jsonl: every pair is in data\.heldout=.*mine\.jsonl too"):
        training_task(config_of(data__train=file, data__heldout=file), run, model)


def test_a_pair_with_one_order_too_long_is_left_out_whole(tmp_path: Path, run: RunDirectory, model: str) -> None:
    rows = [*questions(4), ("long", "cat " * 300, "dog")]
    config = config_of(
        data__train=users_file(tmp_path / "mine.jsonl", rows),
        data__heldout=users_file(tmp_path / "held.jsonl", questions(1, 90)),
        data__orders="both",
        model__max_prompt_tokens=100,
    )
    task = training_task(config, run, model)
    assert [item[0].pair_id for item in task.items] == ["mine-0", "mine-1", "mine-2", "mine-3"]
    assert task.dropped.count == 2
    assert task.dropped.longest > 300
    assert task.describe() == f"4 pairs as 8 prompts, 2 prompts too long (up to {task.dropped.longest} tokens)"
    config.model.max_prompt_tokens = 3
    with pytest.raises(
        DataError, match=r"mine\.jsonl: all 5 pairs are longer than model\.max_prompt_tokens=3 .*raise it"
    ):
        training_task(config, run, model)


def test_extras_are_checked_for_the_built_in_family_only(tmp_path: Path, run: RunDirectory, model: str) -> None:
    pairs = generate_items(0, {"heldout": 20})["heldout"]
    users = replace(pairs[0], id="users", source="mine", domain="Reasoning", metadata={"kind": "algebra"})
    write_pairs([*pairs, users], run.data / "heldout.parquet")
    task = heldout_task(config_of(), run, model)
    chat = next(pair for pair in pairs if pair.domain == "Chat")
    solved = next(pair for pair in pairs if pair.domain == "Reasoning")
    assert task.extras(solved.id, teacher_chain(solved, "A", "")) == {
        "solution_correct": True,
        "true_first_rubric": None,
    }
    assert task.extras(solved.id, "nonsense") == {"solution_correct": False, "true_first_rubric": None}
    assert task.extras(chat.id, "nonsense") == {"solution_correct": None, "true_first_rubric": False}
    assert task.extras("users", "<solution>so a : b</solution>") == {}


def chain_rows(pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    template = load_template("tiny")
    return [
        {"messages": render(pair, "chosen_first", template), "chain": teacher_chain(pair, "A", pair.id)}
        for pair in pairs
    ]


def chain_file(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_chains_as_the_engine_will_see_them(tmp_path: Path, run: RunDirectory, model: str) -> None:
    pairs = generate_items(0, {"distill": 6})["distill"]
    rows = chain_rows(pairs)
    chains = distillation_set(config_of(data__chains=chain_file(tmp_path / "c.jsonl", rows)), run, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(chains.sequences) == 6
    for row, sequence in zip(rows, chains.sequences, strict=True):
        prompt, completion = tokenizer.decode(sequence.prompt_ids), tokenizer.decode(sequence.completion_ids)
        assert prompt == f"<|im_start|>user\n{row['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        assert completion == row["chain"] + "<|im_end|>"
    assert chains.longest == max(len(item.prompt_ids) + len(item.completion_ids) for item in chains.sequences)
    assert chains.describe() == "6 chains"
    run.write_parquet(run.data / "chains.parquet", rows)
    built_in = distillation_set(config_of(), run, model)
    assert [list(item.completion_ids) for item in built_in.sequences] == [
        list(item.completion_ids) for item in chains.sequences
    ]


def test_a_thought_that_the_chat_template_opens_is_not_opened_twice(
    tmp_path: Path, run: RunDirectory, model: str
) -> None:
    opening = tmp_path / "opening"
    shutil.copytree(model, opening)
    tokenizer = AutoTokenizer.from_pretrained(opening)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    tokenizer.save_pretrained(opening)
    rows = [{"messages": USER, "chain": "<think>\nmatch</think>x"}, {"messages": USER, "chain": "match"}]
    config = config_of(data__chains=chain_file(tmp_path / "c.jsonl", rows))
    for folder, learned in ((str(opening), "match</think>x<|im_end|>"), (model, "<think>\nmatch</think>x<|im_end|>")):
        first, second = distillation_set(config, run, folder).sequences
        assert tokenizer.decode(first.completion_ids) == learned
        assert tokenizer.decode(second.completion_ids) == "match<|im_end|>"


def test_long_chains_are_counted_and_never_cut(tmp_path: Path, run: RunDirectory, model: str) -> None:
    rows = chain_rows(generate_items(0, {"distill": 3})["distill"])
    rows[1]["chain"] = "match " * 500
    config = config_of(data__chains=chain_file(tmp_path / "c.jsonl", rows), distill__max_tokens=128)
    chains = distillation_set(config, run, model)
    assert (len(chains.sequences), chains.dropped) == (2, 1)
    assert chains.longest > 500
    assert chains.describe() == f"2 chains, 1 too long (up to {chains.longest} tokens)"
    config.distill.max_tokens = 5
    with pytest.raises(DataError, match=r"no chain fits into distill\.max_tokens=5 \(longest \d+\)"):
        distillation_set(config, run, model)


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": USER},
        {"chain": "text"},
        {"messages": USER, "chain": " "},
        {"messages": [], "chain": "text"},
        {"messages": [{"content": "x"}], "chain": "text"},
        {"messages": [{"role": "user"}], "chain": "text"},
        {"messages": [{"role": "judge", "content": "x"}], "chain": "text"},
        {"messages": [*USER, {"role": "assistant", "content": "y"}], "chain": "text"},
        ["text"],
    ],
)
def test_bad_chain_rows(tmp_path: Path, run: RunDirectory, model: str, row: dict[str, Any]) -> None:
    config = config_of(data__chains=chain_file(tmp_path / "c.jsonl", [row]))
    with pytest.raises(
        DataError, match=r"c\.jsonl, row 1: a chain needs `messages` \(role and content\) and a `chain`"
    ):
        distillation_set(config, run, model)


def test_bad_chain_files(tmp_path: Path, run: RunDirectory, model: str) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl is not there"):
        distillation_set(config_of(data__chains=str(tmp_path / "gone.jsonl")), run, model)
    with pytest.raises(DataError, match=r"c\.jsonl, row 1: malformed JSON"):
        distillation_set(config_of(data__chains=chain_file(tmp_path / "c.jsonl", ["{oops"])), run, model)
    (tmp_path / "c.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"c\.parquet: cannot be read as parquet"):
        distillation_set(config_of(data__chains=str(tmp_path / "c.parquet")), run, model)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, tiny_model_directory: Path) -> None:
    model = shutil.copytree(tiny_model_directory, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = AutoConfig.from_pretrained(model)
    assert len(load_tokenizer(str(model))) == len(tokenizer) == config.vocab_size
    tokenizer.add_tokens(["<rubric-start>"])
    tokenizer.save_pretrained(model)
    with pytest.raises(
        ModelError, match=rf"{config.vocab_size + 1} tokens, the model a vocabulary of {config.vocab_size}"
    ):
        load_tokenizer(str(model))


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load a tokenizer from '.*/empty': there is no such folder"):
        load_tokenizer(str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no files of a tokenizer are in it"):
        load_tokenizer(str(tmp_path / "empty"))


def test_a_tokenizer_that_cannot_end_is_refused(tmp_path: Path, run: RunDirectory, tiny_model_directory: Path) -> None:
    model = shutil.copytree(tiny_model_directory, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(model)
    chains = chain_file(tmp_path / "c.jsonl", [{"messages": USER, "chain": "text"}])
    for use in (load_tokenizer, lambda path: distillation_set(config_of(data__chains=chains), run, path)):
        with pytest.raises(ModelError, match=r"no end-of-sequence token, .* `eos_token` in its tokenizer_config\.json"):
            use(str(model))


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
            },
            32768,
        ),
        ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "linear", "factor": None}}, 2048),
    ],
)
def test_a_context_counts_its_rotary_scaling(settings: dict[str, Any], context: int) -> None:
    assert context_of(AutoConfig.for_model("qwen2", **settings)) == context


def test_a_model_that_names_no_length_has_no_limit() -> None:
    assert context_of(PreTrainedConfig()) == math.inf


def test_what_is_longer_than_the_context_is_refused(tmp_path: Path, run: RunDirectory, model: str) -> None:
    context = AutoConfig.from_pretrained(model).max_position_embeddings
    pairs = tmp_path / "p.jsonl"
    pairs.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}))
    config = config_of(data__heldout=str(pairs), data__train=str(pairs), model__max_prompt_tokens=context - 64)
    heldout_task(config, run, model)
    config.model.max_prompt_tokens += 1
    expected = (
        rf"model\.max_prompt_tokens \+ model\.max_response_tokens = {context + 1:,} tokens, and '.*' has a context of "
        rf"{context:,} "
    )
    with pytest.raises(ModelError, match=expected):
        heldout_task(config, run, model)
    rows = chain_file(tmp_path / "c.jsonl", [{"messages": USER, "chain": "text"}])
    with pytest.raises(ModelError, match=rf"distill\.max_tokens = {context + 1:,} tokens, .* lower the settings"):
        distillation_set(config_of(data__chains=rows, distill__max_tokens=context + 1), run, model)


def test_a_chain_that_quotes_the_end_of_a_turn_goes_on(tmp_path: Path, run: RunDirectory, model: str) -> None:
    chain = "<solution>A wrote <|im_end|>\n<|im_start|>user <answer>[[B]]</answer></solution>\n<answer>[[A]]</answer>"
    rows = chain_file(tmp_path / "c.jsonl", [{"messages": USER, "chain": chain}])
    (sequence,) = distillation_set(config_of(data__chains=rows), run, model).sequences
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = list(sequence.completion_ids)
    assert tokenizer.decode(ids) == f"{chain}<|im_end|>"
    assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
    tags = ("<solution>", "</solution>", "<answer>", "</answer>", "<|im_start|>")
    assert [ids.count(tokenizer.convert_tokens_to_ids(tag)) for tag in tags] == [1, 1, 1, 1, 0]


def test_chains_of_a_folder_and_what_was_not_read(tmp_path: Path, run: RunDirectory, model: str) -> None:
    question = [{"role": "user", "content": "which"}]
    good, half = {"messages": question, "chain": "A"}, {"messages": question, "chain": "x \ud83d"}
    lost = {**good, "system": "Be brief."}
    folder = tmp_path / "chains"
    folder.mkdir()
    (folder / "part-0.jsonl").write_text(json.dumps(good) + "\n")
    (folder / "part-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, half, lost, 3)))
    for row, message in ((half, "field 'chain': character 3 is half"), (lost, "field 'system': could be part of")):
        (folder / "part-1.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(DataError, match=rf"part-1\.jsonl, row 2, {message}"):
            distillation_set(config_of(data__chains=str(folder)), run, model)
    (folder / "part-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, half, lost, 3)))
    config = config_of(data__chains=str(folder), data__on_bad_row="skip")
    assert distillation_set(config, run, model).describe() == "2 chains, 3 bad rows skipped"
    config = config_of(data__chains=str(folder), data__on_bad_row="skip", data__ignore_columns=["system"])
    described = distillation_set(config, run, model).describe()
    assert described == "3 chains, 2 bad rows skipped, column system ignored in 1 rows"


def test_what_was_not_read_of_pairs_is_said(tmp_path: Path, run: RunDirectory, model: str) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"q {n}", "chosen": "cat", "rejected": "dog", "context": "c"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": 1}]))
    settings = {"data__train": str(path), "data__on_bad_row": "skip", "data__heldout_fraction": 0.3}
    with pytest.raises(DataError, match="field 'context'"):
        training_task(config_of(data__train=str(path)), run, model)
    task = training_task(config_of(**settings, data__ignore_columns=["context"]), run, model)
    assert task.describe().endswith(", 1 bad rows skipped, column context ignored in 20 rows")
