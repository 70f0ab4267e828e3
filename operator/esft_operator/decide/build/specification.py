"""The specification as workers read it: a file of the same format as the one that a person wrote.

Workers are told only what they need. What may change without new pods, or is none of their business, is left out. All
else is written with its value, defaults too, as an older worker may have others; but, as in the fingerprint, no field
added later that says nothing: a new operator must neither replace the pods of all runs nor hand older workers a field
that they refuse.
"""

import json
from functools import lru_cache
from typing import Any, Final

import yaml

from esft.spec import without_neutral
from esft.yaml_nodes import resolve_plain
from esft_operator.decide.build.child import child
from esft_operator.kinds import CONFIG_MAPS, RUNS
from esft_operator.names import config_map_name
from esft_operator.resource import Manifest, Run

SPEC_FILE: Final = "esfinetune.yaml"

_NOT_FOR_WORKERS: Final[dict[str, Any]] = {
    "active_deadline_seconds": True,
    "checkpoint": {"storage"},
    "managed_by": True,
    "pending_deadline_seconds": True,
    "redis": True,
    "suspend": True,
    "ttl_seconds_after_finished": True,
    "workers": {"autoscaling", "max_replicas", "min_replicas", "replicas", "template"},
}


def config_map(run: Run) -> Manifest:
    """The ConfigMap with the specification, as workers read it."""
    return child(run, CONFIG_MAPS, config_map_name(run.name)) | {"data": {SPEC_FILE: document(run)}}


def document(run: Run) -> str:
    """The resource as a YAML file."""
    spec = run.spec.model_dump(mode="json", exclude=_NOT_FOR_WORKERS)
    resource = RUNS.type_meta | {
        "metadata": {"name": run.name, "generation": run.generation},
        "spec": without_neutral(spec),
    }
    return _yaml(json.dumps(resource))


@lru_cache(maxsize=1024)
def _yaml(resource: str) -> str:
    """The YAML of a JSON text; remembered, since a run is looked at every second and its specification stays."""
    return yaml.dump(json.loads(resource), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Quotes what `esft.yaml_nodes` would not read back as the same text."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    is_plain = value.isprintable() and resolve_plain(value) == value
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_plain else '"')


_Dumper.add_representer(str, _text)
