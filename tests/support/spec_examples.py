"""The shortest specification and one that has every field, and changes of them."""

import copy

from esft.spec import ESFineTuneSpec

MINIMAL = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "task": {"name": "countdown", "train": {"size": 200}},
}
COMPLETE = {
    "model": {
        "source": "hf://Qwen/Qwen2.5-1.5B-Instruct",
        "revision": "main",
        "dtype": "bfloat16",
        "credentialsSecretRef": {"name": "hf-token"},
    },
    "task": {
        "name": "countdown",
        "options": {"numbers": [3, 4]},
        "train": {"size": 200, "seed": 0},
        "test": {"size": 2000, "seed": 1},
    },
    "decoding": {"maxNewTokens": 1024, "temperature": 0, "batchSize": 64},
    "evolution": {
        "generations": 500,
        "population": 30,
        "sigma": 0.001,
        "learningRate": 0.0005,
        "seed": 42,
        "sampling": "gaussian",
        "shaping": "zscore",
        "promptsPerGeneration": None,
        "schedule": {"sigma": "constant", "learningRate": "constant"},
        "anchor": {"l2": 0},
        "parameters": {"include": [".*"], "exclude": []},
    },
    "evaluation": {"everyGenerations": 5},
    "monitoring": {"kl": {"everyGenerations": 25, "prompts": 64}},
    "checkpoint": {"everyGenerations": 50, "keep": 3, "storage": {"volumeClaim": {"size": "50Gi"}}},
    "stop": {"targetScore": None, "patience": None},
    "workers": {
        "minReplicas": 1,
        "maxReplicas": 8,
        "replicas": None,
        "autoscaling": {"targetGenerationSeconds": None, "keda": None},
        "claimSize": 1,
        "leaseSeconds": None,
        "quorum": 1.0,
        "template": {},
    },
    "redis": {"urlSecretRef": None},
    "suspend": False,
    "managedBy": None,
    "activeDeadlineSeconds": None,
    "pendingDeadlineSeconds": None,
    "ttlSecondsAfterFinished": None,
}


def changed(path: str, value: object, base: dict = MINIMAL) -> dict:
    """A copy of a document with one field set."""
    document = copy.deepcopy(base)
    *parents, name = path.split(".")
    holder = document
    for parent in parents:
        holder = holder.setdefault(parent, {})
    holder[name] = value
    return document


def read(document: dict) -> ESFineTuneSpec:
    return ESFineTuneSpec.model_validate(document, by_alias=True, by_name=False)
