"""What published judges reach, as tables print it."""

from __future__ import annotations

from collections.abc import Mapping

_RM_R1 = ("Instruct-7B", "Instruct-14B", "Instruct-32B", "DeepSeek-7B", "DeepSeek-14B", "DeepSeek-32B")


def rm_r1_paper(table: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    """A table of the RM-R1 paper (arXiv 2505.02387) as :attr:`Benchmark.published`.

    ``table`` has, for each official figure, percentages of the six models in the paper's order.
    """
    return {
        f"RM-R1 {model}": {figure: values[index] / 100 for figure, values in table.items()}
        for index, model in enumerate(_RM_R1)
    }
