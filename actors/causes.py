"""What went wrong, in one line, out of an exception's text: many say it first and end with advice or addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 600
_DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
_LOG_TAIL = 200_000
"""Bytes of a log's end that are searched."""

# What stands before a message in a log: vLLM's process, Ray's process, the level with time and place; and colours.
_PREFIX = re.compile(
    r"^(?:\((?:[\w-]+ )?(?:\w+ )?pid=\d+[^)]*\)\s*|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d :.,/-]+\[[^\]]*\]\s?)+"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# `ValueError: no such model`, `torch.OutOfMemoryError: CUDA out of memory`, `KeyError` alone.
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Exceeded|Fault|Failed)\b")
_NOISE = re.compile(
    r"^(?:For further information visit|See also:|During handling of the above|The above exception was|"
    r"Traceback \(most recent call last\)|File \"|\^+$|~*\^+~*$|\.{3,}$|Please (?:check|see)\b.*https?://\S+$|https?://\S+$)"
)
_DETAIL = re.compile(r"\s*\[type=\w+, input_value=.*\]$")
# An error that only says that there is another.
_ELSEWHERE = re.compile(r"[Ss]ee (?:the )?(?:root cause|stack trace|error|logs?) (?:above|below)")


def reason(error: Exception, log: str | None) -> str:
    """How an actor failed or died, from what Ray raised; ``log`` is where the actor writes."""
    from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        text = str(cause)
        above = cause_in_log(log) if is_elsewhere(text) else None
        return f"failed: {above or f'{type(cause).__name__}: {one_line(text)}'}"
    if isinstance(error, ActorUnavailableError):
        return "cannot be reached: the connection to its process was lost"
    if isinstance(error, RayActorError):
        return f"died: {why_it_died(str(error))}"
    return f"failed: {one_line(str(error))}"


def is_defect(error: Exception) -> bool:
    """Whether an actor raised what only mistakes of the code raise."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, _DEFECTS)


def one_line(text: str) -> str:
    """The part of an exception's text that says what is wrong.

    A traceback gives its exception: of several, the first, which caused the others. Of a pydantic error all fields are
    named. Advice, addresses and the values of fields are left out.
    """
    lines = [line for raw in text.splitlines() if (line := _PREFIX.sub("", _COLOUR.sub("", raw)).rstrip())]
    if any(line.lstrip().startswith("Traceback (most recent call last)") for line in lines):
        lines = _first_exception(lines)
    kept = [line.strip() for line in lines if not _NOISE.match(line.strip())]
    if not kept:
        return "no reason was given"
    if re.match(r"^(?:[\w.]*ValidationError: )?\d+ validation errors? for ", kept[0]):
        kept = [f"{kept[0]}:", *(_DETAIL.sub("", line) for line in kept[1:])]
    joined = " ".join(kept)
    return joined if len(joined) <= _LONGEST else f"{joined[:_LONGEST]} ..."


def _first_exception(lines: Sequence[str]) -> list[str]:
    """The first exception that a traceback ends in, with the lines that belong to its message."""
    in_traceback = False
    found: list[str] = []
    for line in lines:
        starts = line.lstrip().startswith("Traceback (most recent call last)")
        if found and (starts or (_NOISE.match(line.strip()) and not line.startswith(" "))):
            break
        if found or (in_traceback and _EXCEPTION.match(line.strip()) and not _ELSEWHERE.search(line)):
            found.append(line)
        in_traceback = in_traceback or starts
    return found or list(lines[-1:])


def is_elsewhere(text: str) -> bool:
    """Whether a text only says that the cause stands above it, in the log."""
    return _ELSEWHERE.search(text) is not None


def cause_in_log(path: str | None) -> str | None:
    """The cause that stands at the end of a log; None where there is none, or the log cannot be read here."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    start = text.rfind("Traceback (most recent call last)", 0, _elsewhere_at(text))
    return one_line(text[start:]) if start >= 0 else None


def _elsewhere_at(text: str) -> int:
    """Where the traceback begins that only points to another; the text's end if none does."""
    found = [match.start() for match in _ELSEWHERE.finditer(text)]
    return text.rfind("Traceback (most recent call last)", 0, found[-1]) if found else len(text)


_NODE_DIED = re.compile(r"(?:its|the) node (?:has died|is dead)")
_NODE_ID = re.compile(r"Node Id: ([0-9a-f]+)")
# What a rank says in whose collective another's machine or process is no more: gloo, NCCL, torch's store.
_LOST_PEER = re.compile(
    r"Connection (?:closed by peer|reset by peer|refused)|Broken pipe|recvValueWithTimeout|Socket [Cc]losed|"
    r"ncclRemoteError|ncclSystemError|Timed out waiting \d+ms for (?:recv|send)"
)


def node_died(text: str) -> str | None:
    """Ray's id of the node whose death its report of an actor's death names, ``""`` where it has none; None: no node
    died."""
    flat = " ".join(text.split())
    if _NODE_DIED.search(flat) is None:
        return None
    found = _NODE_ID.search(flat)
    return found[1] if found else ""


def lost_peer(error: Exception) -> bool:
    """Whether an actor's error is only that it lost another one, which says better what happened when it is known."""
    return _LOST_PEER.search(str(error)) is not None


def why_it_died(text: str) -> str:
    """The part of Ray's report of an actor's death that says why."""
    flat = " ".join(text.split())
    if "Traceback (most recent call last)" in text:
        return one_line(text)
    if "running low on memory" in flat or "OutOfMemoryError" in flat:
        return "Ray ended its process because its node was running low on memory: give it more, or ask for less"
    if _NODE_DIED.search(flat):
        return "its node has died, or cannot be reached any more"
    if match := re.search(r"Worker exit detail: (.*)", flat):
        detail = match[1]
        if "OOM killer" in detail:
            return (
                "its process was killed or crashed; most often the machine ran out of memory (`dmesg` tells), else its "
                "log says more"
            )
        return one_line(re.split(r" There are some potential root causes", detail)[0])
    # What is left of the report without the actor's particulars; of an exception its indented lines say what is wrong.
    every = text.splitlines()
    lines = [number for number, line in enumerate(every) if not line.startswith(("\t", "  "))]
    if lines and _EXCEPTION.match(every[lines[-1]]):
        return one_line("\n".join(every[lines[-1] :]))
    return one_line("\n".join(every[number] for number in (lines[-1:] if len(lines) > 1 else lines)))
