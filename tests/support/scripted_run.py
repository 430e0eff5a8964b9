"""A run to be struck by faults, without its work: steps, checkpoints, logs, and a process that comes back if it dies.

python scripted_run.py run=NAME output_root=ROOT steps=20 [fails_at=5] [hangs_at=5] [leaves=yes] [says=Traceback]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 0.1
"""Of a step."""


# Told who started it: asked when it runs, that one may have ended already.
WITH_PARENT = f"""
import os, time
while os.getppid() == {os.getpid()}:
    time.sleep(0.05)
"""
ALONE = "import time; time.sleep(60)"


def verifier(logs: Path, code: str) -> subprocess.Popen[bytes]:
    with (logs / "verifier.log").open("ab") as log:
        command = [sys.executable, "-c", code, "ray::RewardVerifier"]
        return subprocess.Popen(command, stderr=log)


def main(**settings: str) -> int:
    """Take the steps since the last checkpoint; status 1 where that is damaged, or where it is told to fail."""
    run, steps = Path(settings["output_root"]) / settings["run"], int(settings["steps"])
    logs, metrics, saved = run / "logs", run / "metrics.jsonl", run / "checkpoints" / "rl"
    for folder in (logs, saved):
        folder.mkdir(parents=True, exist_ok=True)
    newest = max(saved.iterdir(), default=None)
    if newest is not None and (newest / "__0_0.distcp").read_bytes().strip(b"\0"):
        print(f"error: checkpoint {newest}: __0_0.distcp is damaged. Remove that folder to begin anew", flush=True)
        return 1
    done = int(newest.name[-6:]) if newest else 0
    lines = metrics.read_text().splitlines(keepends=True)[:done] if metrics.exists() else []
    metrics.write_text("".join(lines))
    time.sleep(5 * SECONDS)  # Real ones load a model.

    def warn(text: str) -> None:
        with (logs / "driver.log").open("a") as log:
            log.write(f"2026-11-29 14:00:00,000 WARNING pipelines.job.watch: {text}\n")

    code = ALONE if "leaves" in settings else WITH_PARENT
    part = verifier(logs, code)
    try:
        for step in range(done + 1, steps + 1):
            time.sleep(SECONDS)
            if part.poll() is not None:
                warn("the reward verifier died: killed; it is restarted and scores again")
                part = verifier(logs, code)
                warn("the reward verifier is back after 0.1 s")
            if str(step) == settings.get("fails_at"):
                print("error: something else", flush=True)
                return 1
            while str(step) == settings.get("hangs_at"):
                time.sleep(SECONDS)
            row: dict[str, Any] = {"stage": "rl", "step": step, "time": time.time(), "metrics": {}}
            try:
                with metrics.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError:
                print(settings.get("says", "error: the file is larger than is allowed here (`ulimit -f`)"), flush=True)
                return 1
            if step % 4 == 0:
                checkpoint = saved / f"step-{step:06d}"
                checkpoint.mkdir()
                (checkpoint / "__0_0.distcp").write_bytes(bytes(64))
    finally:
        if "leaves" not in settings:
            part.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main(**dict(argument.split("=", 1) for argument in sys.argv[1:])))  # type: ignore[arg-type]
