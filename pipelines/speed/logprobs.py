"""Peak memory of log-probabilities and entropies, forward and backward, at a large vocabulary.

python -m pipelines.speed.logprobs 8192
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOKENS, VOCABULARY, HIDDEN = 8192, 151_936, 16


def logprobs() -> dict[str, float]:
    """GiB that 8,192 tokens of Qwen's 151,936 entries add in float32; their logits alone would be 4.6 GiB."""
    return {"logprobs_peak_gib": in_own_process(TOKENS)}


def in_own_process(tokens: int) -> float:
    """:func:`peak_gib` of a fresh process, since a peak is a process's highest ever."""
    command = [sys.executable, "-m", "pipelines.speed.logprobs", str(tokens)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def peak_gib(tokens: int) -> float:
    """What the process's peak memory grows by. A narrow model, so that its own gradients do not count."""
    import torch

    from actors.learner.head import token_logprobs

    torch.manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (tokens,))

    def train(count: int) -> int:
        of_targets, entropies = token_logprobs(hidden[:count], weight, targets[:count])
        (of_targets + entropies).sum().backward()
        # Not getrusage: its peak begins at what the parent had when it started this process.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    return (-train(2) + train(tokens)) / 2**20


if __name__ == "__main__":
    print(json.dumps(peak_gib(int(sys.argv[1]))))
