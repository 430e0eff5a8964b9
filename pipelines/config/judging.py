"""Settings of the commands that use a judge: decisions for a file of pairs, rankings of responses, a server."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.constraints import FILE, OUTPUT, location, number, one_of


@dataclass
class Judging:
    """How a comparison is judged."""

    model: str | None = location()
    """Model to judge with; null: what the run's stages left."""
    orders: str = one_of("both", "a_first", "b_first")
    """Each comparison in `both` orders, or with that response first."""
    votes: int = number(1, at_least=1)
    """Judgments of each comparison and order; more than one needs a temperature."""
    temperature: float = number(0.0, at_least=0, at_most=2)


@dataclass
class FileJudging(Judging):
    """What a file of questions is judged for."""

    input: str | None = location(None, FILE)
    """File or folder of rows, or a hub name."""
    out: str | None = location(None, OUTPUT)
    """File of the answers, `.jsonl` or `.parquet`; null: one in the run's folder, by the input's name."""


@dataclass
class Judge(FileJudging):
    """Decisions for a file of pairs, or ratings of single responses."""

    mode: str = one_of("pairwise", "pointwise")
    """`pairwise` decides between two responses; `pointwise` rates each by itself, from 1 to 10."""
    page: bool = False
    """Write a page to read the decisions in, beside them."""


@dataclass
class Rank(FileJudging):
    """Rankings of the responses to each question of a file."""

    method: str = one_of("all_pairs", "circular", "knockout", "swiss", "listwise")
    """Which responses are compared: `all_pairs`; each with the next ones around a circle; winners on; like scores; or
    `listwise`, at most four in one prompt, once in each position."""
    rounds: int = number(0, at_least=0)
    """Of `circular` (next ones on the circle) and `swiss`; 0: 2, and log2 of the responses plus 1."""
