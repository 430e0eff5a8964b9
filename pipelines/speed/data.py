"""How long and how much memory `make data` takes for 70,000 pairs: mixed, tokenised, linted, written, with a card."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PAIRS = 70_000
_SYLLABLES = [first + second for first in "bdfghklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]


def data() -> dict[str, float]:
    """Wall-clock seconds and peak memory (GiB) of the whole command in a process of its own.

    Three synthetic sources in published forms: words by Zipf's law, prompts of about 60 and responses of about 180. A
    byte-level BPE of 8,000 entries counts the tokens, about 1,500 per prompt with the Chain-of-Rubrics template.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rng = random.Random(0)
        sentence = _sentences(rng)
        _write_sources(root, rng, sentence)
        _write_tokenizer(root / "model", [sentence(200) for _ in range(2000)])
        (root / "bench.yaml").write_text(
            json.dumps(
                {
                    "heldout_fraction": 0.05,
                    "mix": {
                        "folder": str(root / "data"),
                        "sources": {name: {"path": str(root / f"{name}.jsonl")} for name in ("chat", "code", "math")},
                    },
                }
            )
        )
        command = [sys.executable, "-m", "pipelines.build_data", str(root / "bench.yaml")]
        settings = [f"model.path={root / 'model'}", "model.prompt=chain_of_rubrics", "model.max_prompt_tokens=4096"]
        started = time.perf_counter()
        done = subprocess.run([*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = time.perf_counter() - started
        lint = root / "data" / "bench" / "lint.json"
        if not lint.is_file():
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-2000:]}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        pairs = sum(row["pairs"] for row in json.loads(lint.read_text())["sources"])
    return {"data_pairs": float(pairs), "data_seconds": seconds, "data_peak_gib": peak}


def _sentences(rng: random.Random) -> Callable[[int], str]:
    vocabulary = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(20_000)]
    weights = [1 / (rank + 5) for rank in range(len(vocabulary))]
    # Drawn once, sliced often: drawing 30 million words one by one would take longer than what is measured.
    stream = rng.choices(vocabulary, weights, k=3_000_000)

    def sentence(words: int) -> str:
        count = max(3, int(rng.lognormvariate(0, 0.5) * words))
        start = rng.randrange(len(stream) - count)
        return " ".join(stream[start : start + count]) + "."

    return sentence


def _write_sources(root: Path, rng: random.Random, sentence: Callable[[int], str]) -> None:
    files = {name: (root / f"{name}.jsonl").open("w", encoding="utf-8") for name in ("chat", "code", "math")}
    for index in range(PAIRS):
        asked, better, worse = sentence(60), sentence(180), sentence(180)
        name = rng.choices(("chat", "code", "math"), (54, 8, 10))[0]
        if name == "chat":
            user = {"role": "user", "content": asked}
            sides = [[user, {"role": "assistant", "content": text}] for text in (better, worse)]
            row: dict[str, object] = {"chosen": sides[0], "rejected": sides[1], "source": f"part_{index % 5}"}
        elif name == "code":
            row = {"input": asked, "accepted": better, "rejected": worse}
        else:
            steps = {"initial_reason_steps": sentence(30), "full_chosen": better, "full_rejected": worse}
            row = {"prompt": asked, **steps}
        files[name].write(json.dumps(row) + "\n")
    for file in files.values():
        file.close()


def _write_tokenizer(folder: Path, corpus: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from pipelines.data.tiny_model import CHAT_TEMPLATE, END, PADDING, START

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [PADDING, START, END]
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=8000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, chat_template=CHAT_TEMPLATE
    )
    os.makedirs(folder, exist_ok=True)
    fast.save_pretrained(folder)
