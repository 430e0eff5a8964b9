"""What a recipe takes, before anything is paid for: memory, disk, steps, hours, price, and the first limit it meets.

    python -m pipelines.plan recipe=rm_r1_qwen2_5_7b [overrides]

No weights, GPU or network are used. A table goes to standard error, JSON to standard output. Exit status 0; 1 where the
recipe does not fit, or where its model's sizes are not known; 2 where the settings cannot be used. docs/plan.md has the
formulas.
"""

from __future__ import annotations

import json
import sys

from pipelines.config import Config
from pipelines.planning.recipe import model_shape
from pipelines.planning.report import plan_of, table_of
from pipelines.planning.shape import ShapeError
from pipelines.reporting.console import Console
from pipelines.runs.command_line import main


def plan(config: Config) -> None:
    """Print the plan of a recipe, and end with 1 where it does not fit.

    Raises:
        ShapeError: nothing on this machine says how large the model is.

    """
    shape = model_shape(config)
    if shape is None:
        raise ShapeError(
            f"the sizes of {config.rl.policy or config.model.path!r} are not known here: give a folder with its "
            "config.json as model.path, or its keys as model.shape with model.shape._name_or_path, as in "
            "conf/model/qwen3_8b.yaml"
        )
    found = plan_of(config, shape)
    console = Console(sys.stderr)
    console.header("plan", f"recipe {config.recipe_name}")
    console.facts(table_of(found))
    print(json.dumps(found, indent=2, allow_nan=False))
    if found["first_limit"]:
        sys.stdout.flush()
        console.error(f"does not fit: {found['first_limit']['message']}")
        sys.exit(1)
    console.note("it fits")


if __name__ == "__main__":
    main(plan)
