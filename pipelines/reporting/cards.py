"""What cards of data sets and of chains share: histograms, and rendering by a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

_BINS = 24


def histogram(title: str, values: Sequence[int]) -> dict[str, Any]:
    """Counts in at most 24 equal bins that begin at 0, and the quantiles a limit is chosen by."""
    ordered = sorted(values)
    width = max(1, -(-(ordered[-1] + 1) // _BINS))
    counts = Counter(value // width for value in ordered)
    bins = [{"from": width * index, "count": counts[index]} for index in range(ordered[-1] // width + 1)]
    quantiles = {f"{share}%": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
    return {
        "title": title,
        "width": width,
        "bins": bins,
        "tallest": max(counts.values()),
        "mean": sum(ordered) / len(ordered),
        "quantiles": quantiles,
        "most": ordered[-1],
    }


def templates(*, html: bool) -> jinja2.Environment:
    """Every template of ``pipelines/``, named by its path there; what it is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1]),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render_card(data: Mapping[str, Any], package: str, kind: str, name: str = "card") -> str:
    """The card as ``md`` or ``html``, by the template in ``package``, ``pipelines/<package>/<name>.<kind>.jinja``."""
    environment = templates(html=kind == "html")
    environment.filters["share"] = lambda value: "–" if value is None else f"{100 * value:.1f}%"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:,.0f}"
    environment.filters["decimal"] = lambda value: "–" if value is None else f"{value:,.2f}"
    # Names of sources and domains and rows' ids are data, and may hold what Markdown would take for a table's edge.
    environment.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "\\|")
    environment.filters["interval"] = lambda ends: f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else ""
    return environment.get_template(f"{package}/{name}.{kind}.jinja").render(data)
