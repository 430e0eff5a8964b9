"""What processes of a server count together: any of them tells of all, also of those that have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

# Counts, is at two requests, and says what all have counted; whoever waits for its end keeps it alive until then.
PROCESS = """
import sys
from pipelines.serving.metrics import Metrics
metrics = Metrics(sys.argv[1])
metrics.in_flight.inc(2)
for _ in range(int(sys.argv[2])):
    metrics.record("/v1/compare", 200, 0.5)
metrics.count("/v1/compare", 429)
metrics.count_tokens({"prompt_tokens": 30, "completion_tokens": 5})
print(metrics.text().decode(), flush=True)
print("END", flush=True)
sys.stdin.read()
"""


def start(folder: Path, requests: int) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), str(requests)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, list(iter(process.stdout.readline, "END\n"))


def figure(lines: list[str], name: str) -> float:
    (value,) = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")]
    return value


@pytest.mark.slow
def test_any_process_tells_of_all_and_keeps_what_those_counted_that_ended(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    first, alone = start(folder, 2)
    second, both = start(folder, 3)
    first.kill()
    first.wait(30)
    third, after = start(folder, 0)
    for process in (second, third):
        process.communicate(timeout=30)
    compared = 'judge_requests_total{route="/v1/compare",status="200"}'
    assert [figure(lines, compared) for lines in (alone, both, after)] == [2.0, 5.0, 5.0]
    assert [figure(lines, compared.replace("200", "429")) for lines in (alone, both, after)] == [1.0, 2.0, 3.0]
    assert figure(after, 'judge_request_seconds_count{route="/v1/compare"}') == 5.0
    assert figure(after, 'judge_tokens_total{kind="prompt"}') == 90.0
    # Of the one that was killed nothing is going on.
    assert [figure(lines, "judge_requests_in_flight") for lines in (alone, both, after)] == [2.0, 4.0, 4.0]
