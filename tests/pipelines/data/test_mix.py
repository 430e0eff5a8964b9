"""The mix: filters, draws, duplicates, lengths, splits, and a ledger in which every lost pair is counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pairs import many_pairs, swapped

from pipelines.config import Config, ConfigError, MixSource
from pipelines.config.compose import load_config
from pipelines.data.lint.overlap import BenchmarkItem
from pipelines.data.mix import mix
from pipelines.data.prompts import load_template
from pipelines.data.schema import PreferencePair, prompt_key, write_pairs
from pipelines.data.tiny_model import build_tokenizer

TEMPLATE = load_template("tiny")


def configured(**sources: MixSource) -> Config:
    config = load_config(["data.orders=alternate", "data.heldout_fraction=0.2"])
    config.data.mix.sources = dict(sources)
    return config


def stored(path: Path, pairs: list[PreferencePair]) -> MixSource:
    write_pairs(pairs, path)
    return MixSource(path=str(path))


def skywork(path: Path, counts: dict[str, int]) -> MixSource:
    rows: list[dict[str, Any]] = []
    for source, count in counts.items():
        for pair in many_pairs(count, source=source):
            user = {"role": "user", "content": pair.prompt[0].content}
            sides = [[user, {"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected)]
            rows.append({"chosen": sides[0], "rejected": sides[1], "source": source})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MixSource(path=str(path))


@pytest.mark.slow
def test_every_pair_read_is_used_or_accounted_for(tmp_path: Path) -> None:
    chat = skywork(tmp_path / "chat.jsonl", {"helpsteer2": 60, "magpie_ultra": 30})
    code = replace(stored(tmp_path / "code.parquet", many_pairs(50, source="code")), take=20, domain="code")
    mixed = mix(configured(chat=chat, code=code), TEMPLATE)
    used = Counter(pair.source for pair in mixed.train + mixed.heldout)
    assert used == mixed.counts == {"helpsteer2": 60, "code": 20}
    assert mixed.dropped == {("chat", "source magpie_ultra is left out"): 30, ("code", "not among the 20 drawn"): 30}
    assert [(entry["schema"], entry["read"], entry["used"]) for entry in mixed.inputs] == [
        ("skywork", 90, 60),
        ("pairs", 50, 20),
    ]
    assert {pair.domain for pair in mixed.train + mixed.heldout if pair.source == "code"} == {"code"}
    assert not {prompt_key(pair) for pair in mixed.train} & {prompt_key(pair) for pair in mixed.heldout}
    assert mixed.heldout


def test_what_is_left_out_by_default_can_be_asked_for(tmp_path: Path) -> None:
    chat = replace(skywork(tmp_path / "chat.jsonl", {"helpsteer2": 30, "magpie_ultra": 30}), leave_out=[])
    assert mix(configured(chat=chat), TEMPLATE).counts == {"helpsteer2": 30, "magpie_ultra": 30}


@pytest.mark.slow
def test_a_draw_is_the_seeds_and_nothing_elses(tmp_path: Path) -> None:
    pairs = many_pairs(100)
    config = configured(one=replace(stored(tmp_path / "a.parquet", pairs), take=40))

    def drawn() -> set[str]:
        mixed = mix(config, TEMPLATE)
        return {pair.id for pair in mixed.train + mixed.heldout}

    first = drawn()
    assert len(first) == 40
    write_pairs(pairs[::-1], tmp_path / "a.parquet")
    assert drawn() == first
    config.seed = 1
    assert drawn() != first


@pytest.mark.slow
def test_duplicates_go_and_contradictions_go_altogether(tmp_path: Path) -> None:
    pairs = many_pairs(40)
    copies = [replace(pair, id=f"copy-{pair.id}", source="other") for pair in pairs[:3]]
    opposed = [replace(swapped(pair), id=f"not-{pair.id}", source="other") for pair in pairs[10:12]]
    config = configured(one=stored(tmp_path / "a.parquet", pairs), two=stored(tmp_path / "b.parquet", copies + opposed))
    mixed = mix(config, TEMPLATE)
    assert mixed.dropped == {
        ("other", "duplicate"): 3,
        ("made", "contradicts an equal pair"): 2,
        ("other", "contradicts an equal pair"): 2,
    }
    assert len(mixed.train) + len(mixed.heldout) == 38
    assert all(pair.id.startswith("one/") for pair in mixed.train)


@pytest.mark.slow
def test_near_duplicates_and_benchmark_items_go_on_request(tmp_path: Path) -> None:
    pairs = many_pairs(40)
    near = replace(pairs[0], id="near", chosen=pairs[0].chosen + " Indeed")
    config = configured(one=stored(tmp_path / "a.parquet", [*pairs, near]))
    items = [BenchmarkItem("bench/1", pairs[5].prompt[0].content)]
    assert mix(config, TEMPLATE, None, items).dropped == {}
    config.data.mix.drop_near_duplicates = config.data.mix.drop_benchmark_items = True
    assert mix(config, TEMPLATE, None, items).dropped == {
        ("made", "nearly a duplicate"): 1,
        ("made", "holds a benchmark item"): 1,
    }


@pytest.mark.slow
def test_long_prompts_are_counted_and_left_out_whole(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["river stone lamp"])
    pairs = many_pairs(30)
    pairs[3] = replace(pairs[3], chosen="river " * 2000)
    config = configured(one=stored(tmp_path / "a.parquet", pairs))
    config.model.max_prompt_tokens = 1500
    mixed = mix(config, TEMPLATE, tokenizer)
    assert mixed.dropped == {("made", "prompt longer than 1500 tokens"): 1}
    assert len(mixed.tokens) == 29
    assert max(mixed.tokens) <= 1500
    config.data.orders = "both"
    assert len(mix(config, TEMPLATE, tokenizer).tokens) == 58


@pytest.mark.slow
def test_a_held_out_file_keeps_its_prompts_out_of_training(tmp_path: Path) -> None:
    pairs = many_pairs(30)
    heldout = [replace(pair, id=f"h-{pair.id}", chosen="another answer") for pair in pairs[:4]]
    write_pairs(heldout, tmp_path / "h.parquet")
    config = configured(one=stored(tmp_path / "a.parquet", pairs))
    config.data.heldout = str(tmp_path / "h.parquet")
    mixed = mix(config, TEMPLATE)
    assert (len(mixed.train), mixed.heldout) == (26, heldout)
    assert mixed.dropped == {("made", "prompt is in data.heldout"): 4}


@pytest.mark.slow
def test_bad_mixes() -> None:
    with pytest.raises(ConfigError, match="names no pairs"):
        mix(configured(), TEMPLATE)
    with pytest.raises(ConfigError, match=r"sources\.x\.path: schema 'gsm8k' is not on the hub: give a file"):
        mix(configured(x=MixSource(schema="gsm8k")), TEMPLATE)


@pytest.mark.slow
def test_ids_of_different_files_do_not_clash(tmp_path: Path) -> None:
    one, two = (stored(tmp_path / f"{name}.parquet", many_pairs(20, seed=seed)) for seed, name in enumerate("ab"))
    mixed = mix(configured(one=one, two=two), TEMPLATE)
    assert len({pair.id for pair in mixed.train + mixed.heldout}) == 40
