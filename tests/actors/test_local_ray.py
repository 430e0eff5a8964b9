"""A driver whose Ray has gone ends at once and says so; one that has ended its Ray itself goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from commands import ROOT, wait_until, without_ray

from actors.local_ray import _watched

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_DRIVER = """
import sys, time
import ray
from actors.local_ray import end_with_ray
from pipelines.job.connection import start_own

class Part:
    def pid(self):
        import os
        return os.getpid()

    def work(self):
        import time
        time.sleep(600)

start_own(120.0, num_cpus=1)
end_with_ray()
part = ray.remote(Part).remote()
print(ray.get(part.pid.remote(), timeout=120), flush=True)
if sys.argv[1] == "shutdown":
    ray.shutdown()
    time.sleep(3)  # Three looks at what has ended.
    start_own(120.0, num_cpus=1)
    print("went on", flush=True)
else:
    ray.get(part.work.remote(), timeout=600)
"""


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, request.param],
        cwd=ROOT,
        env=without_ray(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.communicate(timeout=30)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize(
    ("driver", "program", "says"),
    [("works", "raylet", "Ray's raylet, which runs this node"), ("works", "gcs_server", "Ray's GCS, which knows")],
    indirect=["driver"],
)
def test_without_ray_a_driver_ends_and_says_why(driver: subprocess.Popen[str], program: str, says: str) -> None:
    assert driver.stdout is not None
    actor = psutil.Process(int(driver.stdout.readline()))
    started = psutil.Process(driver.pid).children(recursive=True)
    assert sorted(process.name() for process in started if process.ppid() == driver.pid) == ["gcs_server", "raylet"]
    (struck,) = (process for process in started if process.name() == program)
    struck.kill()
    _, error = driver.communicate(timeout=30)
    assert driver.returncode == 1, error
    assert says in error
    assert "Run the same command again" in error
    assert "Traceback" not in error
    wait_until(lambda: not actor.is_running() or actor.status() == "zombie", 30, "the end of the actor")


@pytest.mark.parametrize("driver", ["shutdown"], indirect=True)
def test_a_driver_that_ends_its_ray_goes_on_with_another(driver: subprocess.Popen[str]) -> None:
    out, error = driver.communicate(timeout=180)
    assert driver.returncode == 0, error
    assert out.endswith("went on\n")


def test_of_two_raylets_on_one_machine_a_drivers_own_is_watched(tmp_path: Path) -> None:
    program = tmp_path / "raylet"
    program.symlink_to("/bin/sh")
    sockets = [f"{tmp_path}/raylet", f"{tmp_path}/raylet.1"]
    processes = [
        subprocess.Popen([program, "-c", "read x", "sh", f"--raylet_socket_name={socket}"], stdin=subprocess.PIPE)
        for socket in reversed(sockets)
    ]
    try:
        for socket, process in zip(reversed(sockets), processes, strict=True):
            node = SimpleNamespace(head=False, raylet_socket_name=socket)
            assert _watched(node) == {"raylet": psutil.Process(process.pid)}
    finally:
        for process in processes:
            process.communicate(timeout=30)
