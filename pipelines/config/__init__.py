"""The typed configuration of every stage, and the checks made before anything is allocated.

The YAML files under ``conf/`` hold the values; the dataclasses here hold names, types, ranges and meaning. Composition
fails on an unknown key (with the nearest match), on a wrong type and on a value out of range; :mod:`checks` refuses
values that cannot work together.
"""

from pipelines.config.algorithm import Algorithm, Function, Verifier
from pipelines.config.chains import ChainFilters, Chains, Teacher
from pipelines.config.constraints import ConfigError, nearest
from pipelines.config.data import Data, Lint, Mix, MixSource
from pipelines.config.parts import Cluster, Learner, Plan, Rollout, Tracking
from pipelines.config.schema import OPEN, Config, known_keys, setting, typed
from pipelines.config.stages import Checkpoints, Distill, Evaluate, Model, Optimizer, Rl

__all__ = [
    "OPEN",
    "Algorithm",
    "ChainFilters",
    "Chains",
    "Checkpoints",
    "Cluster",
    "Config",
    "ConfigError",
    "Data",
    "Distill",
    "Evaluate",
    "Function",
    "Learner",
    "Lint",
    "Mix",
    "MixSource",
    "Model",
    "Optimizer",
    "Plan",
    "Rl",
    "Rollout",
    "Teacher",
    "Tracking",
    "Verifier",
    "known_keys",
    "nearest",
    "setting",
    "typed",
]
