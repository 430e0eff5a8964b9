"""One tiny model on disk for every test of this folder that reads tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.prompts import load_template, render
from pipelines.data.schema import PreferencePair
from pipelines.data.tiny_model import build_tiny_model
from pipelines.data.tiny_tasks import generate_items, teacher_chain


@pytest.fixture(scope="session")
def tiny_pairs() -> list[PreferencePair]:
    return generate_items(0, {"distill": 750})["distill"]


@pytest.fixture(scope="session")
def tiny_corpus(tiny_pairs: list[PreferencePair]) -> list[str]:
    """Prompts and chains in both orders: 1,500 of each, as in preparing a run."""
    template = load_template("tiny")
    texts = []
    for pair in tiny_pairs:
        texts += [render(pair, "chosen_first", template)[0]["content"], teacher_chain(pair, "A", f"{pair.id}/A")]
        texts += [render(pair, "chosen_second", template)[0]["content"], teacher_chain(pair, "B", f"{pair.id}/B")]
    return texts


@pytest.fixture(scope="session")
def tiny_model_directory(tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny_model(directory, tiny_corpus, seed=0)
    return directory
