"""Processes are told apart from later ones of the same number."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from actors.processes import kill, started


@pytest.mark.slow
def test_a_process_is_killed_with_its_children_and_one_of_another_moment_is_not() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=sys.stdin)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while not (children := psutil.Process(parent.pid).children()):
            assert parent.poll() is None
        moment = started(parent.pid)
        assert started(children[0].pid) >= moment > started(os.getpid())
        assert kill([(parent.pid, moment - 1)]) == []
        assert parent.poll() is None
        assert kill([(parent.pid, moment)]) == [parent.pid, children[0].pid]
        assert psutil.wait_procs(children, timeout=30)[1] == []
    finally:
        parent.kill()
        parent.wait()
    with pytest.raises(OSError, match=str(parent.pid)):
        started(parent.pid)
    assert kill([(parent.pid, moment)]) == []
