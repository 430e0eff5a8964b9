"""The cluster files: they parse, fit one another and the pinned versions, and never leave a cluster without a token."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]
from kuberay_schema import SCHEMAS
from ray.autoscaler._private.util import fillout_defaults, validate_config

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
FILES = sorted(LAUNCH.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / name).read_text())


def pinned(package: str) -> str:
    setup = configparser.ConfigParser()
    setup.read(LAUNCH.parent / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    return next(line.partition("==")[2] for line in lines if line.partition("==")[0].partition("[")[0] == package)


def ray_cluster(name: str) -> dict[str, Any]:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_parses_and_says_how_to_use_it(file: Path) -> None:
    text = file.read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert text.startswith("# ")


KUBERAY = ("kuberay-cluster.yaml", "kuberay-job.yaml")


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_files_have_the_fields_that_the_operator_knows(name: str) -> None:
    written = load(name)
    jsonschema.validate(written, SCHEMAS[written["kind"]])
    for break_it in (
        lambda spec: spec.update(rayVersions="2.60.0"),
        lambda spec: spec["headGroupSpec"].pop("template"),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-gpus": 0}),
    ):
        broken = load(name)
        break_it(broken["spec"].get("rayClusterSpec", broken["spec"]))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMAS[written["kind"]])


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_fit_kubernetes_own_schema(name: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="not installed: run `make setup`")
    spec = ray_cluster(name)
    for group in [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes.validate(pod, "1.30", strict=True)
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod | {"spec": pod["spec"] | {"container": []}}, "1.30", strict=True)


def test_the_jobs_environment_is_a_runtime_environment() -> None:
    from ray.runtime_env import RuntimeEnv

    environment = yaml.safe_load(load("kuberay-job.yaml")["spec"]["runtimeEnvYAML"])
    assert RuntimeEnv(**environment)["env_vars"] == {"TOKENIZERS_PARALLELISM": "false"}


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_clusters_have_a_token_and_the_pinned_ray(name: str) -> None:
    spec = ray_cluster(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == pinned("ray")
    for group in [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_standing_cluster_has_the_devices_of_two_nodes() -> None:
    (group,) = ray_cluster("kuberay-cluster.yaml")["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["replicas"], limits["nvidia.com/gpu"]) == (2, 8)
    assert ray_cluster("kuberay-cluster.yaml")["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


# GB of memory that each of the eight GPUs of a machine has, as AWS states it.
GPU_MEMORY = {"p4d.24xlarge": 40, "p4de.24xlarge": 80, "p5.48xlarge": 80, "p5e.48xlarge": 141, "p5en.48xlarge": 141}


def test_the_cloud_clusters_machines_hold_a_learner_rank() -> None:
    gpu = load("aws-cluster.yaml")["available_node_types"]["gpu"]
    assert GPU_MEMORY[gpu["node_config"]["InstanceType"]] * 1e9 > 43 * 2**30, "of a 7B recipe, on four ranks"


def test_the_cloud_cluster_fits_rays_schema_and_has_a_token() -> None:
    cluster = load("aws-cluster.yaml")
    # What `ray up` does before it asks anything of the cloud; the last field it fills in itself.
    validate_config(fillout_defaults(cluster) | {"cluster_synced_files": []})
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(fillout_defaults(cluster | {"max_worker": 2}) | {"cluster_synced_files": []})
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert [("RAY_AUTH_MODE=token" in command) for command in starts if "ray start" in command] == [True, True]


SCRIPTS = (LAUNCH / "slurm.sbatch", LAUNCH.parent / ".ci" / "run")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shell_scripts_have_none_of_the_known_mistakes(script: Path) -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    if not checker.exists():
        pytest.skip("shellcheck is not installed: run `make setup`")
    done = subprocess.run([checker, "--severity=warning", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_slurm_script_is_valid_bash_and_wants_a_pipeline() -> None:
    script = str(LAUNCH / "slurm.sbatch")
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage: sbatch launch/slurm.sbatch PIPELINE" in done.stderr


def slurm_job(tmp_path: Path, pipeline: str, *settings: str) -> tuple[int, list[str]]:
    """The Slurm script with stand-ins for what it calls; returns its status and what was called of ``scontrol``."""
    bin_folder, calls = tmp_path / "bin", tmp_path / "calls"
    bin_folder.mkdir()
    calls.touch()
    stubs = {
        "scontrol": f'if [ "$1" = requeue ]; then echo "$@" >> {calls}; else echo node1; fi',
        # The head stays up until it is ended; the pipeline is the test's own program.
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "ray": 'case "$*" in *--head*) exec sleep 60 ;; *) exit 0 ;; esac',
        "hostname": "echo 127.0.0.1",
        "python": f'if [ "$1" = -c ]; then echo token; else {pipeline}; fi',
    }
    for name, body in stubs.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n",
        "SLURM_JOB_NUM_NODES": "1",
    }
    environment = os.environ | slurm | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "BATCH": str(tmp_path / "pid")}
    script = ["bash", "-c", f'echo $$ > "$BATCH"; exec bash {LAUNCH / "slurm.sbatch"} "$@"', "slurm", "run", *settings]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, calls.read_text().splitlines()


# A pipeline that is told to end only after Slurm has told the batch script so, saves, and ends with 143.
PREEMPTED = "trap 'exit 143' TERM; kill -TERM $(cat $BATCH); while :; do sleep 0.1; done"


def test_a_preempted_slurm_job_is_told_ends_and_is_queued_again(tmp_path: Path) -> None:
    assert slurm_job(tmp_path, PREEMPTED, "recipe=tiny") == (143, ["requeue 7"])


def test_a_slurm_job_that_starts_over_is_not_queued_again(tmp_path: Path) -> None:
    assert slurm_job(tmp_path, PREEMPTED, "recipe=tiny", "overwrite=true") == (143, [])


@pytest.mark.parametrize("status", [0, 1])
def test_a_slurm_job_ends_as_its_pipeline(tmp_path: Path, status: int) -> None:
    assert slurm_job(tmp_path, f"exit {status}", "recipe=tiny") == (status, [])
