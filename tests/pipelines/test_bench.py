"""What the benchmarks measure, where it is a bound and not a speed."""

from __future__ import annotations

import pytest

from pipelines.bench.logprobs import in_own_process


@pytest.mark.slow
def test_no_tensor_of_tokens_times_vocabulary_exists() -> None:
    """Of 2,048 tokens and 151,936 entries, logits would take 1.2 GiB, and with their softmax and gradients thrice."""
    assert 0.1 < in_own_process(2048) < 1.0
