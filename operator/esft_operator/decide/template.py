"""`spec.workers.template` merged over the operator's own pod template, as Kubernetes merges a patch.

A strategic merge with the API's own merge keys, so that `containers: [{name: worker, resources: ...}]` means what it
means to `kubectl patch`. Server-side apply of both halves was rejected: the result would only be known to the API
server, and the hash of a Job's pods must be known before there is one.

Two departures. `envFrom` has no merge key, and replacing the list would take the model's credentials away unnoticed, so
entries are added. And null, which removes a field, is refused for what a run cannot do without.

What carries the run's identity or shares its files is the operator's; a template that touches it is refused, with
all that is wrong in one message. The rest is for the API server to judge.

Source: kubernetes/community, contributors/devel/sig-api-machinery/strategic-merge-patch.md; `patchMergeKey` in
k8s.io/api/core/v1.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from esft.errors import SpecError
from esft.problems import Problem
from esft_operator.names import GROUP, INSTANCE_LABEL, MANAGED_BY_LABEL, WORKER_CONTAINER
from esft_operator.resource import Manifest, without_nulls

RESERVED_ENVIRONMENT: Final = "ESFT_"
RESERVED_VOLUMES: Final = "esft-"

_PATH: Final = "spec.workers.template"
_TAKEN: Final = "is set by the operator"
_REMOVES: Final = ("is null, which would remove what the operator sets", "leave it out")
_NO_OBJECT: Final = ("must be an object", "write its fields below it, or leave it out")
_IDENTITY_FIX: Final = (
    "remove it; settings go into `env`, and `command` may be a program that starts the worker"
)
_RESTART_FIX: Final = "remove it; the Job starts a new pod for a worker that ended"
_RESERVED_OF_WORKER: Final[Mapping[str, str]] = {
    "args": _IDENTITY_FIX,
    "restartPolicy": _RESTART_FIX,
    "restartPolicyRules": _RESTART_FIX,
    "terminationMessagePath": "remove it; the worker writes to the default path",
}
_NUMBERS: Final = {"containerPort"}  # fields of keys that are no text
_DEFAULTS: Final = {"protocol": "TCP"}  # of fields of keys


class TemplateError(SpecError):
    """`spec.workers.template` cannot be used as it is. It may change at any time, so the run waits for that."""


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A list whose entries are told apart by some of their fields.

    Attributes:
        keys: those fields; none: the list is added to.
        lists: the lists of that kind in an entry.
    """

    keys: tuple[str, ...]
    lists: "Mapping[str, _Keyed]" = field(default_factory=dict)

    def key(self, entry: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """What tells an entry from the others; None when it lacks that."""
        found = tuple(_key_field(entry, name) for name in self.keys)
        return None if None in found else found


def _key_field(entry: Mapping[str, Any], name: str) -> str | int | None:
    value = entry.get(name)
    value = _DEFAULTS.get(name) if value is None else value
    kind = int if name in _NUMBERS else str
    return value if isinstance(value, kind) and value != "" else None


_CONTAINERS: Final = _Keyed(
    ("name",),
    {
        "env": _Keyed(("name",)),
        "envFrom": _Keyed(()),
        "ports": _Keyed(("containerPort", "protocol")),
        "volumeDevices": _Keyed(("devicePath",)),
        "volumeMounts": _Keyed(("mountPath",)),
    },
)
_LISTS_OF_POD: Final[Mapping[str, _Keyed]] = {
    "containers": _CONTAINERS,
    "hostAliases": _Keyed(("ip",)),
    "imagePullSecrets": _Keyed(("name",)),
    "initContainers": _CONTAINERS,
    "resourceClaims": _Keyed(("name",)),
    "schedulingGates": _Keyed(("name",)),
    "topologySpreadConstraints": _Keyed(("topologyKey", "whenUnsatisfiable")),
    "volumes": _Keyed(("name",)),
}
_LISTS: Final[Mapping[str, Mapping[str, _Keyed]]] = {"metadata": {}, "spec": _LISTS_OF_POD}


def merge(base: Manifest, template: Mapping[str, Any]) -> Manifest:
    """Lay a PodTemplateSpec over another one.

    Args:
        base: the operator's; its container `worker` mounts what is to stay as it is.
        template: `spec.workers.template`; any of it may be missing.

    Returns:
        A new PodTemplateSpec without nulls: the base's entries first, in its order, then those that were added.

    Raises:
        TemplateError: the template is malformed or sets what is the operator's; every problem, with field and fix.
    """
    problems = [*_directives(_PATH, template), *_malformed(base, template), *_reserved(base, template)]
    if problems:
        raise TemplateError("; ".join(problem.sentence for problem in problems))
    return {name: _merged(base[name], template.get(name, {}), lists) for name, lists in _LISTS.items()}


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any], lists: Mapping[str, _Keyed]) -> Manifest:
    result = dict(base)
    for name, value in overlay.items():
        if value is None:
            result.pop(name, None)
        elif name in lists:
            result[name] = _merged_list(base.get(name, ()), value, lists[name])
        elif isinstance(value, Mapping):
            result[name] = _merged(base.get(name, {}), value, {})
        else:
            result[name] = without_nulls(value)
    return result


def _merged_list(base: Sequence[Manifest], overlay: Sequence[Manifest], rule: _Keyed) -> list[Manifest]:
    if not rule.keys:
        return [*base, *without_nulls(overlay)]
    result = {rule.key(entry): entry for entry in base}
    for entry in overlay:
        key = rule.key(entry)
        result[key] = _merged(result.get(key, {}), entry, rule.lists)
    return list(result.values())


def _directives(path: str, value: Any) -> Iterator[Problem]:
    """`$patch` and the like, anywhere: what they would delete may be the operator's."""
    if isinstance(value, Mapping):
        for name, field in value.items():
            if name.startswith("$"):
                fix = "remove it; to remove a field, set it to null"
                yield Problem(f"{path}.{name}", "is a directive of patches, which is not supported", fix)
            else:
                yield from _directives(f"{path}.{name}", field)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _directives(f"{path}[{index}]", entry)


def _malformed(base: Manifest, template: Mapping[str, Any]) -> Iterator[Problem]:
    """Whatever cannot be merged."""
    for name, value in template.items():
        path = f"{_PATH}.{name}"
        if name not in _LISTS:
            if not name.startswith("$"):
                fix = f"a template has `metadata` and `spec`; move it to `spec.{name}` if it belongs there"
                yield Problem(path, "is not a field of a pod template", fix)
        elif not isinstance(value, Mapping):
            yield Problem(path, *_NO_OBJECT)
        else:
            yield from _malformed_object(path, base[name], value, _LISTS[name])


def _malformed_object(
    path: str, base: Mapping[str, Any], overlay: Mapping[str, Any], lists: Mapping[str, _Keyed]
) -> Iterator[Problem]:
    for name, value in overlay.items():
        here, default = f"{path}.{name}", base.get(name)
        if name in lists:
            if value is None and default is not None:
                yield Problem(here, *_REMOVES)
            elif isinstance(value, list):
                yield from _malformed_list(here, default or (), value, lists[name])
            elif value is not None:
                yield Problem(here, "must be a list", "start each entry with `- `")
        elif isinstance(default, Mapping) and isinstance(value, Mapping):
            yield from _malformed_object(here, default, value, {})
        elif isinstance(default, Mapping) and value is not None:
            yield Problem(here, *_NO_OBJECT)


def _malformed_list(
    path: str, base: Sequence[Manifest], overlay: Sequence[Any], rule: _Keyed
) -> Iterator[Problem]:
    defaults = {rule.key(entry): entry for entry in base}
    seen = set()
    for index, entry in enumerate(overlay):
        if not isinstance(entry, Mapping):
            yield Problem(f"{path}[{index}]", "must be an object", "write its fields after the `- `")
        elif (key := rule.key(entry)) is None:
            yield from _without_key(f"{path}[{index}]", entry, rule)
        elif rule.keys and key in seen:
            yield Problem(f"{path}[{key[0]}]", "is given twice", "keep one of the two")
        elif rule.keys:
            seen.add(key)
            yield from _malformed_object(f"{path}[{key[0]}]", defaults.get(key, {}), entry, rule.lists)


def _without_key(path: str, entry: Mapping[str, Any], rule: _Keyed) -> Iterator[Problem]:
    for name in rule.keys:
        if _key_field(entry, name) is None:
            kind = "a whole number" if name in _NUMBERS else "text"
            text = f"must be {kind}, since entries are told apart by it"
            yield Problem(f"{path}.{name}", text, f"set `{name}`")


def _reserved(base: Manifest, template: Mapping[str, Any]) -> Iterator[Problem]:
    """Whatever a run cannot do without, or that would make two workers the same."""
    metadata, pod = _object(template, "metadata"), _object(template, "spec")
    yield from _reserved_metadata(metadata)
    if pod.get("restartPolicy", "Never") != "Never":
        yield Problem(f"{_PATH}.spec.restartPolicy", "must be Never", _RESTART_FIX)
    for name, _ in _entries(pod, "volumes"):
        if name.startswith(RESERVED_VOLUMES):
            yield Problem(f"{_PATH}.spec.volumes[{name}]", _TAKEN, "give your volume another name")
    worker = dict(_entries(base["spec"], "containers"))[WORKER_CONTAINER]
    for name, container in _entries(pod, "containers"):
        if name == WORKER_CONTAINER:
            yield from _reserved_of_worker(f"{_PATH}.spec.containers[{name}]", worker, container)


def _reserved_metadata(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    path = f"{_PATH}.metadata"
    for name, value in metadata.items():
        if name not in {"labels", "annotations"}:
            if value is not None and not name.startswith("$"):
                fix = "remove it; only labels and annotations can be given"
                yield Problem(f"{path}.{name}", "has no meaning in a template", fix)
        elif value is None and name == "labels":
            yield Problem(f"{path}.{name}", *_REMOVES)
        for key in value if isinstance(value, Mapping) else ():
            if key.startswith(f"{GROUP}/") or key in {INSTANCE_LABEL, MANAGED_BY_LABEL}:
                yield Problem(f"{path}.{name}[{key}]", _TAKEN, "remove it")


def _reserved_of_worker(path: str, worker: Manifest, container: Mapping[str, Any]) -> Iterator[Problem]:
    for name, fix in _RESERVED_OF_WORKER.items():
        if name in container:
            yield Problem(f"{path}.{name}", _TAKEN, fix)
    for name, _ in _entries(container, "env"):
        if name.startswith(RESERVED_ENVIRONMENT):
            fix = f"remove it; names that start with {RESERVED_ENVIRONMENT} are reserved"
            yield Problem(f"{path}.env[{name}]", _TAKEN, fix)
    ports = {port["containerPort"] for port in worker["ports"]}
    for number, _ in _entries(container, "ports"):
        if number in ports:
            yield Problem(f"{path}.ports[{number}]", _TAKEN, "use another port")
    for mount_path, _ in _entries(container, "volumeMounts"):
        for mount in worker["volumeMounts"]:
            if is_within(mount_path, mount["mountPath"]):
                fix = f"mount it outside {mount['mountPath']}"
                yield Problem(f"{path}.volumeMounts[{mount_path}]", _TAKEN, fix)


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path of a container is a folder, or below it."""
    normal = posixpath.normpath(path)
    return normal == folder or normal.startswith(folder.rstrip("/") + "/")


def _object(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, Mapping) else {}


def _entries(holder: Mapping[str, Any], name: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Well-formed entries of a keyed list, by the first field of their key."""
    rule = {**_LISTS_OF_POD, **_CONTAINERS.lists}[name]
    value = holder.get(name)
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, Mapping) and (key := rule.key(entry)) is not None:
            yield key[0], entry
