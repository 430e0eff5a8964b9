"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

from actors.collector import collect_seldom

# How fast an example runs says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shell starts its background jobs with interrupts ignored, `nohup` with hang-ups, and what they start inherits that:
# processes to which tests send these signals would never notice.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


# What all these tests import stays; going through it again and again took a sixth of their time.
collect_seldom()

# Ray gives its workers niceness 15: beside another test's processes they would get a thirtieth of a core.
os.environ.setdefault("RAY_worker_niceness", "0")


_LONGEST = ("test_demo.py", "test_linear_time.py")


def pytest_report_header() -> str:
    """What of the processor decides which kernels torch and vLLM take."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = text.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    found = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni"})
    return f"processor: {model} ({', '.join(found)})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no test worker is left alone with one at the end: those named above,
    then those with engines, with Ray, with slow tests, and the rest."""

    def markers(item: pytest.Item) -> set[str]:
        return {marker.name for marker in item.iter_markers()}

    of_file: dict[str, set[str]] = {}
    for item in items:
        of_file.setdefault(str(item.path), set()).update(markers(item))
    items.sort(
        key=lambda item: (
            item.path.name not in _LONGEST,
            *(name not in of_file[str(item.path)] for name in ("engine", "ray", "slow")),
        )
    )


@pytest.fixture(scope="module")
def cluster() -> None:
    """A Ray cluster, the same for all files of a test worker: two cores, and eight devices that are only counted."""
    import ray

    from pipelines.job.connection import start_own

    if not ray.is_initialized():
        start_own(600.0, num_cpus=2, num_gpus=8)


def pytest_sessionfinish() -> None:
    """End that cluster."""
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        ray.shutdown()
