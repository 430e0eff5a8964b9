"""Before training: the built-in family's pairs and chains, its tokenizer and its model from scratch.

A recipe with a checkpoint, pairs and chains of its own does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.messages import JudgeMode, Order, Side
from pipelines.config import Config
from pipelines.data.family import family_chain, family_items
from pipelines.data.modes import asked_of, assigned
from pipelines.data.prompts import load_template, render
from pipelines.data.schema import PreferencePair, write_pairs
from pipelines.data.tiny_model import build_tiny_model
from pipelines.data.tiny_modes import mode_chain
from pipelines.runs.command_line import main
from pipelines.runs.folder import RunDirectory
from pipelines.stages.stage import open_run, open_stage

LABELS: tuple[tuple[Order, Side], ...] = (("chosen_first", "A"), ("chosen_second", "B"))


def prepare(config: Config, run: RunDirectory) -> None:
    """Write ``data/*.parquet`` and ``model/``; does nothing when the run has them."""
    with open_stage(config, run, "prepare") as stage:
        if stage.is_finished:
            return
        sizes = {"distill": config.data.distill_pairs, "rl": config.data.rl_pairs, "heldout": config.data.heldout_pairs}
        items = family_items(config.seed, sizes, config.data)
        modes = assigned(items["distill"], config.data.modes, config.seed)
        chains = [row for pair in items["distill"] for row in chain_rows(pair, modes[pair.id], config)]
        for name in ("rl", "heldout", "distill"):
            write_pairs(items[name], run.data / f"{name}.parquet")
        run.write_parquet(run.data / "chains.parquet", chains)
        stage.console.note(
            ", ".join(f"{len(pairs)} pairs for {name}" for name, pairs in items.items()) + f", {len(chains)} chains"
        )
        if config.model.path is None:
            corpus = [text for row in chains[:3000] for text in (row["messages"][-1]["content"], row["chain"])]
            model = config.model
            build_tiny_model(
                run.model,
                corpus,
                seed=config.seed,
                hidden=model.hidden,
                layers=model.layers,
                heads=model.heads,
                intermediate=model.intermediate,
            )
            stage.console.note(f"tokenizer and model in {run.model}")
        run.update_summary({"data": run.hashes(), "seconds": {"prepare": stage.seconds()}})
        run.mark_finished("prepare")


def chain_rows(pair: PreferencePair, mode: JudgeMode, config: Config) -> Iterator[dict[str, Any]]:
    """Both chains to learn of a pair: the prompt's messages and what the built-in teacher writes."""
    template = load_template(config.model.prompt, mode)
    if mode == "pairwise":
        for order, label in LABELS:
            chain = family_chain(pair, label, f"{config.seed}/{pair.id}/{order}")
            yield {"pair_id": pair.id, "order": order, "messages": render(pair, order, template), "chain": chain}
        return
    # One seed for both, so that one rubric rates both responses.
    for order, _, _, messages in asked_of(pair, mode, template):
        chain = mode_chain(pair, mode, order, f"{config.seed}/{pair.id}")
        yield {"pair_id": pair.id, "order": order, "messages": messages, "chain": chain}


def command(config: Config) -> None:
    """The stage as a command."""
    with open_run(config) as run:
        prepare(config, run)


if __name__ == "__main__":
    main(command)
