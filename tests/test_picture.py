"""The command that makes README's picture: what it says where it cannot, and a picture where it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.reporting.run_report import write_report

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "picture.py"


def run(script: Path, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])} | ({} if path is None else {"PATH": path})
    return subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)


def test_without_a_browser_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = run(SCRIPT, tmp_path, path="")
    assert done.returncode == 1
    assert done.stderr == "error: there is no Chromium: `apt-get update && apt-get install chromium`\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_a_report_is_drawn_and_none_is_named(tmp_path: Path) -> None:
    script = Path(shutil.copy(SCRIPT, tmp_path))
    done = run(script, tmp_path)
    assert (done.returncode, "report.html is not there" in done.stderr) == (1, True)
    assert not (tmp_path / "report.png").exists()
    write_report(tmp_path)
    assert run(script, tmp_path).returncode == 0
    picture = (tmp_path / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (1200, 1500)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["picture.py", "report.html", "report.png"]
