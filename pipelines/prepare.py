"""Before training: the built-in family's pairs and chains, its tokenizer and its model from scratch.

A recipe with a checkpoint, pairs and chains of its own does not need it.
"""

from __future__ import annotations

from typing import Any

from actors.messages import Order, Side
from pipelines.config import Config
from pipelines.data.family import family_chain, family_items
from pipelines.data.prompts import load_template, render
from pipelines.data.schema import PreferencePair, write_pairs
from pipelines.data.tiny_model import build_tiny_model
from pipelines.runs.command_line import main
from pipelines.runs.folder import RunDirectory
from pipelines.stages.stage import open_run, open_stage

ORDERS: tuple[tuple[Order, Side], ...] = (("chosen_first", "A"), ("chosen_second", "B"))


def prepare(config: Config, run: RunDirectory) -> None:
    """Write ``data/*.parquet`` and ``model/``; does nothing when the run has them."""
    with open_stage(config, run, "prepare") as stage:
        if stage.is_finished:
            return
        sizes = {"distill": config.data.distill_pairs, "rl": config.data.rl_pairs, "heldout": config.data.heldout_pairs}
        items = family_items(config.seed, sizes, config.data)
        chains = [chain_row(pair, order, label, config) for pair in items["distill"] for order, label in ORDERS]
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


def chain_row(pair: PreferencePair, order: Order, label: Side, config: Config) -> dict[str, Any]:
    """One chain to learn: the prompt's messages and what the built-in teacher writes."""
    messages = render(pair, order, load_template(config.model.prompt))
    return {
        "pair_id": pair.id,
        "order": order,
        "messages": messages,
        "chain": family_chain(pair, label, f"{config.seed}/{pair.id}/{order}"),
    }


def command(config: Config) -> None:
    """The stage as a command."""
    with open_run(config) as run:
        prepare(config, run)


if __name__ == "__main__":
    main(command)
