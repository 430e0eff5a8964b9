"""When each part of the RL loop was at work, as a Chrome trace: open it in Perfetto or chrome://tracing.

    python -m pipelines.timeline outputs/tiny        # writes outputs/tiny/timeline.json

Made from ``metrics.jsonl``, so any run has one at any time, also while it is under way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.files import write_text
from pipelines.runs.command_line import clear_errors
from pipelines.runs.folder import RunDirectoryError

LOOP, ENGINES = 1, 2
_TRACKS = {LOOP: "loop", ENGINES: "engines"}


def events(lines: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Complete events, in microseconds since the first step began, of the ``rl`` lines of ``metrics.jsonl``."""
    steps = [line for line in lines if line["stage"] == "rl" and "time/step" in line["metrics"]]
    begin = min((_start(line) for line in steps), default=0.0)
    for line in steps:
        seconds = {name: value for name, value in line["metrics"].items() if name.startswith("time/")}
        at = _start(line) - begin
        facts = {"step": line["step"], "reward": line["metrics"].get("reward"), "tokens": line["metrics"].get("tokens")}
        # Runs of versions without early learning have no such number.
        seconds["time/learn"] -= seconds.setdefault("time/learn_early", 0.0)
        ready = at + sum(seconds[f"time/{part}"] for part in ("wait", "generate", "verify", "learn_early"))
        busy = seconds["time/engine_busy"]
        yield _event("rollout batch", ENGINES, ready - seconds["time/verify"] - busy, busy, facts)
        for part in ("wait", "generate", "verify", "learn_early", "learn", "publish", "evaluate"):
            if length := seconds.get(f"time/{part}", 0.0):
                yield _event(part, LOOP, at, length, facts)
                at += length


def _start(line: Mapping[str, Any]) -> float:
    """When the step began; its line is written after its evaluation."""
    return line["time"] - line["metrics"]["time/step"] - line["metrics"].get("time/evaluate", 0.0)


def _event(name: str, track: int, start: float, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": track,
        "ts": round(start * 1e6),
        "dur": round(seconds * 1e6),
        "args": facts,
    }


def read_lines(metrics: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last one that is being written is left out.

    Raises:
        RunDirectoryError: it is not there, or a line cannot be read.

    """
    if not metrics.is_file():
        raise RunDirectoryError(f"there is no {metrics}: give the folder of a run, for example outputs/tiny")
    found = []
    for number, line in enumerate(metrics.read_bytes().splitlines(keepends=True), start=1):
        try:
            entry = json.loads(line)
            found.append({name: entry[name] for name in ("stage", "step", "time", "metrics")})
        except (ValueError, KeyError, TypeError) as error:
            if not line.endswith(b"\n"):
                break
            raise RunDirectoryError(f"{metrics}, line {number} is no line of metrics ({error}): remove it") from error
    return found


def write_timeline(folder: Path) -> None:
    """Write ``timeline.json`` into a run's folder.

    Raises:
        RunDirectoryError: the folder has no numbers of RL.

    """
    metrics = folder / "metrics.jsonl"
    found = list(events(read_lines(metrics)))
    if not found:
        raise RunDirectoryError(f"{metrics} has no step of rl: run `make rl` first")
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name}}
        for track, name in _TRACKS.items()
    ]
    write_text(folder / "timeline.json", json.dumps({"traceEvents": names + found}))
    print(f"{folder / 'timeline.json'}: {len(found)} events")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    with clear_errors():
        write_timeline(parser.parse_args().run)


if __name__ == "__main__":
    main()
