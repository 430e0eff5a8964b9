"""The picture of a report in README, made from a finished run:

    python docs/picture.py outputs/tiny     # or: make picture RUN=tiny

Needs Chromium; Debian and Ubuntu have it: `apt-get update && apt-get install chromium`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from actors.files import atomic_path

PICTURE = Path(__file__).with_name("report.png")
SIZE = "1200,1500"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(report: Path, picture: Path) -> None:
    """Draw the top of a page into a PNG file of 1200 x 1500 pixels.

    Raises:
        SystemExit: no browser, no report, or the browser drew nothing; says what to do.

    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: there is no Chromium: `apt-get update && apt-get install chromium`")
    if not report.is_file():
        sys.exit(f"error: {report} is not there: give the folder of a finished run, as `make demo` leaves it")
    with atomic_path(picture) as partial:
        drawn = partial.with_suffix(".png")  # Chromium writes by the name's ending.
        # Without its sandbox, which containers do not allow; the page is our own and loads nothing.
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}", f"--screenshot={drawn}"]
        done = subprocess.run([browser, *flags, report.resolve().as_uri()], capture_output=True, text=True, timeout=120)
        if not drawn.is_file():
            sys.exit(f"error: {browser} drew nothing (status {done.returncode}):\n{done.stderr[-2000:]}")
        drawn.replace(partial)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    take(Path(sys.argv[1]) / "report.html", PICTURE)
    print(PICTURE)
