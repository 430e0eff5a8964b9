"""What a run has left on a machine: processes of its actors, and names in shared memory."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import psutil

from actors.processes import is_engine
from actors.shared_memory import mapped_by


def left_behind(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that do not end. Ray's own agents look for their parent now and then: that can take a
    minute on a busy machine.
    """
    return psutil.wait_procs(processes, timeout=90)[1]


def of_actors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Actors and the engines' processes; workers that Ray keeps idle are called ray::IDLE."""
    names = ("ray::RolloutWorker", "ray::Learner", "ray::CopyHolder", "ray::RewardVerifier")
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if is_engine(process) or any(name in " ".join(process.cmdline()) for name in names):
                found.append(process)
    return found


def left_in_shared_memory(run: Path, mapped: set[str]) -> set[str]:
    """Of what the run's processes had mapped, and of its weights, what is there and no living process has mapped."""
    weights = "reasoning-reward-models-" + hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
    there = (mapped | {weights}) & set(os.listdir("/dev/shm"))
    return there - mapped_by(psutil.process_iter()) if there else there
