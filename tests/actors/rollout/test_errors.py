"""The cause of an engine's death, as its log gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import logs
from actors.rollout.errors import died

BEFORE = "(EngineCore pid=7) ERROR 11-30 16:00:00 [core.py:1] MemoryError: of the engine that was here before\n"
HARMLESS = "WARNING torchao: ImportError: no such library\n(EngineCore pid=9) INFO 1 [a.py:1] ValueError: no\n"
AT = "ERROR 11-30 16:51:58 [multiproc_executor.py:1063]"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("", "which and how"),
        (
            f"(Worker_TP1 pid=12) {AT} Traceback (most recent call last):\n"
            f'(Worker_TP1 pid=12) {AT}   File "a.py", line 3, in b\n'
            f"(Worker_TP1 pid=12) {AT} torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
            f"(EngineCore pid=9) {AT} EngineCore encountered a fatal error.\n"
            f"(EngineCore pid=9) {AT} RuntimeError: Worker failed\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            f"(EngineCore pid=9) {AT} Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shutting down.\n"
            f"(EngineCore pid=9) {AT} RuntimeError: cancelled\n",
            "Worker proc VllmWorker-1 died unexpectedly (exit code: -9)",
        ),
        (
            f"(EngineCore pid=9) {AT} EngineCore encountered a fatal error.\n"
            f"(EngineCore pid=9) {AT} Traceback (most recent call last):\n"
            f"(EngineCore pid=9) {AT} AssertionError\n\xff\n",
            "AssertionError",
        ),
    ],
    ids=["nothing", "traceback", "killed", "no message"],
)
def test_the_first_cause_in_the_log_of_this_engine_is_told(
    said: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "rollout-0.log"
    log.write_bytes((BEFORE + HARMLESS + said).encode("latin-1"))
    monkeypatch.setattr(logs._Output, "path", str(log))
    monkeypatch.setattr(logs._Output, "start", len(BEFORE))
    assert str(died()) == f"the engine has died, in one of its processes; its log says {cause}"


def test_without_a_log_it_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs._Output, "path", None)
    assert str(died()).endswith("its log says which and how")
