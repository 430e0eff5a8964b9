"""What tests of the learner share besides ``judge_ranks``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from small_settings import small_learner

from actors.learner.actor import Learner


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    """One rank in this process."""
    threads = torch.get_num_threads()
    alone = Learner(0, 1, small_learner(reshard_after_forward=False, timeout=60.0))
    alone.join(*alone.rendezvous())
    yield alone
    torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)
