"""What published judges reach, for comparison: the tables of the RM-R1 paper (arXiv 2505.02387)."""

from __future__ import annotations

_MODELS = ("Instruct-7B", "Instruct-14B", "Instruct-32B", "DeepSeek-7B", "DeepSeek-14B", "DeepSeek-32B")
_ROWS: dict[str, dict[str, tuple[float, ...]]] = {
    "reward_bench": {
        "sections.Chat": (94.1, 93.6, 95.3, 88.9, 91.3, 95.3),
        "sections.Chat Hard": (74.6, 80.5, 83.1, 66.2, 79.4, 80.3),
        "sections.Safety": (85.2, 86.9, 91.9, 78.4, 89.3, 91.1),
        "sections.Reasoning": (86.7, 92.0, 95.2, 87.0, 95.5, 96.8),
        "average": (85.2, 88.2, 91.4, 80.1, 88.9, 90.9),
    },
    "rm_bench": {
        "domains.chat": (66.6, 75.6, 75.3, 64.0, 71.8, 74.2),
        "domains.math": (67.0, 75.4, 80.2, 83.9, 90.5, 91.8),
        "domains.code": (54.6, 60.6, 66.8, 56.2, 69.5, 74.1),
        "domains.safety": (92.6, 93.6, 93.9, 85.3, 94.1, 95.4),
        "easy": (79.2, 82.6, 86.3, 75.9, 86.2, 89.5),
        "normal": (71.7, 77.5, 80.5, 73.1, 83.6, 85.4),
        "hard": (59.7, 68.8, 70.4, 68.1, 74.4, 76.7),
        "average": (70.2, 76.1, 79.1, 72.4, 81.5, 83.9),
    },
    "rmb": {
        "bon_helpfulness": (54.3, 59.4, 63.6, 45.1, 59.3, 62.0),
        "pairwise_helpfulness": (74.0, 77.6, 79.1, 65.8, 76.5, 78.2),
        "bon_harmlessness": (60.8, 62.0, 68.2, 42.9, 61.3, 61.8),
        "pairwise_harmlessness": (76.5, 77.8, 80.9, 66.4, 76.9, 77.1),
        "average": (66.4, 69.2, 73.0, 55.1, 68.5, 69.8),
    },
}


def published(benchmark: str) -> dict[str, dict[str, float]]:
    """Model -> official figure (nested names joined by a dot) -> fraction of 1; empty where the paper has none."""
    table = _ROWS.get(benchmark, {})
    return {
        f"RM-R1 {model}": {figure: values[index] / 100 for figure, values in table.items()}
        for index, model in enumerate(_MODELS if table else ())
    }
