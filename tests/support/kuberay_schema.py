"""The parts of KubeRay's v1 resources that a user writes, as a JSON schema: names, types, and what is required.

From the operator's API reference (release 1.5, https://ray-project.github.io/kuberay/reference/api/); its generated
OpenAPI is part of no package. Pod templates are left to Kubernetes' own schema. Kubernetes drops fields it does not
know without a word, so nothing else is allowed here.
"""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, FLAG, ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(*required: str, **known: Any) -> dict[str, Any]:
    """An object of these fields alone."""
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


HEAD = fields(
    *("template", "rayStartParams"),
    template=ANY,
    rayStartParams=TEXTS,
    headService=ANY,
    enableIngress=FLAG,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    resources=TEXTS,
    labels=TEXTS,
)
WORKERS = fields(
    *("groupName", "template", "rayStartParams", "minReplicas", "maxReplicas"),
    groupName=TEXT,
    template=ANY,
    rayStartParams=TEXTS,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    idleTimeoutSeconds=WHOLE,
    scaleStrategy=ANY,
    suspend=FLAG,
    resources=TEXTS,
    labels=TEXTS,
)
CLUSTER = fields(
    "headGroupSpec",
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=ANY,
    gcsFaultToleranceOptions=ANY,
    headServiceAnnotations=TEXTS,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    suspend=FLAG,
)
JOB = fields(
    "entrypoint",
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    clusterSelector=TEXTS,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=WHOLE,
    deletionStrategy=ANY,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    jobId=TEXT,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    metadata=TEXTS,
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes=FLAG,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=fields(backoffLimit=WHOLE),
    submitterPodTemplate=ANY,
    suspend=FLAG,
    ttlSecondsAfterFinished=WHOLE,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole resource of the operator."""
    known = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": ANY, "spec": spec}
    return fields(*known, **known)


SCHEMAS = {"RayCluster": resource("RayCluster", CLUSTER), "RayJob": resource("RayJob", JOB)}
