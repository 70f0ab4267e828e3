"""The one Kubernetes client: a few verbs over manifests as they are, with errors that say what to do about them.

Built on the official package's transport (configuration, renewed tokens, connection pool); its generated models
are left aside, since the operator writes manifests and reads a few fields. Every request has a time limit. Nothing is
tried again here: the reconciler does that, with all it knows afresh.

Rejected: the package's dynamic client, which reads the whole discovery of the API server at start.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from esft.errors import EsftError
from esft.status.clock import timestamp
from esft_operator.kinds import PODS, Kind, kind_of
from esft_operator.names import FIELD_MANAGER
from esft_operator.resource import Manifest

LOG_SILENCE_SECONDS: Final = 60.0  # after which a connection that says nothing counts as broken
_REQUEST_SECONDS: Final = 15.0
_CONNECTIONS: Final = 32  # kept open; more than threads that may ask at once
_LOG_PIECE_BYTES: Final = 65_536
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"


class ClusterError(EsftError):
    """The API server refused a request or could not be reached.

    Attributes:
        status: the HTTP status; 0 where there was no answer.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class AlreadyExistsError(ClusterError):
    """There is an object of that name."""


class ConflictError(ClusterError):
    """The object is not the one, or not as, it was when the request was made."""


class InvalidError(ClusterError):
    """The API server finds the object itself wrong: the same request would be refused again."""


class ForbiddenError(ClusterError):
    """The service account lacks a permission."""


class Cluster:
    """The API server, as the operator's service account may use it. Safe to share between threads."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.observe: Callable[[str, int], None] = lambda _method, _status: None
        """Called with method and HTTP status (0: no answer) of each request."""

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Read an object; None when there is none."""
        return self._read(kind.path(namespace, name))

    def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", fields: str = ""
    ) -> list[Manifest]:
        """Read all objects of a kind that have these labels and fields; of all namespaces with None."""
        query = {"labelSelector": selector} if selector else {}
        if fields:
            query["fieldSelector"] = fields
        found = self._send("GET", kind.path(namespace), query=query)
        return [kind.type_meta | item for item in found["items"]]  # which the items of a list do not say

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object.

        Raises:
            AlreadyExistsError: there is one of that name; it is untouched.
        """
        path = kind_of(manifest).path(manifest["metadata"]["namespace"])
        return self._send("POST", path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    def apply(self, manifest: Manifest, *, force: bool, subresource: str | None = None) -> Manifest:
        """Server-side apply: make the fields given here so, and drop those that we gave before and no more.

        Args:
            manifest: with `metadata.uid`, it is refused unless the object is that very one.
            force: take over fields that someone else has set, too; without it that is a conflict.
            subresource: `status`, or None for the object.
        """
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return self._send("PATCH", path, query=query, body=manifest, content_type=_APPLY)

    def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Manifest:
        """JSON merge patch."""
        query = {"fieldManager": FIELD_MANAGER}
        return self._send("PATCH", kind.path(namespace, name), query=query, body=patch, content_type=_MERGE)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object with that uid, and what it owns in the background; no error when it is gone."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            self._send("DELETE", kind.path(namespace, name), body=body)
        except ConflictError:  # another object of that name: ours is gone
            return
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind: a custom resource may not be installed."""
        found = self._read(f"/apis/{kind.api_version}")
        return found is not None and any(resource["name"] == kind.plural for resource in found["resources"])

    def log(
        self, namespace: str, pod: str, container: str, *, follow: bool, since: datetime | None = None
    ) -> Iterator[bytes]:
        """What a container has written, as it comes: pieces of lines, each line with its time in front.

        With `follow` it goes on until the container ends, or says nothing for `LOG_SILENCE_SECONDS`; what was written
        in whole seconds before `since` is left out.

        Raises:
            ClusterError: it cannot be read, or no longer.
        """
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "false"}
        if since is not None:
            query["sinceTime"] = timestamp(since.astimezone(UTC))
        path = f"{PODS.path(namespace, pod, 'log')}?{urlencode(query)}"
        try:
            method, url, headers, _, _ = self._api.param_serialize(
                "GET", path, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"]
            )
            limits = (_REQUEST_SECONDS, LOG_SILENCE_SECONDS)
            response = self._api.call_api(method, url, headers, _request_timeout=limits).response
            try:
                self.observe("GET", response.status)
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise _refusal("GET", path, response.status, response.read())
                while piece := response.read1(_LOG_PIECE_BYTES):
                    yield piece
            finally:
                response.close()
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the log of pod {pod} broke off: {error}", status=0) from error

    def _read(self, path: str) -> Manifest | None:
        try:
            return self._send("GET", path)
        except ClusterError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Manifest:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            method, url, headers, body, _ = self._api.param_serialize(
                method, target, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response = self._api.call_api(method, url, headers, body, _request_timeout=_REQUEST_SECONDS)
            content = response.read()
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            self.observe(method, 0)
            raise ClusterError(f"the API server did not answer {method} {path}: {error}", status=0) from error
        self.observe(method, response.status)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(method, path, response.status, content)
        answer: Manifest = json.loads(content)
        return answer


def connect() -> Cluster:
    """The cluster that this process runs in, or that its kubeconfig names.

    Raises:
        ClusterError: there is neither.
    """
    configuration = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ClusterError(
            f"there is no Kubernetes cluster to talk to: {error}. Fix: run in a pod with a service account, or "
            "set KUBECONFIG to a kubeconfig file.",
            status=0,
        ) from error
    configuration.retries = urllib3.Retry(0)
    configuration.connection_pool_maxsize = _CONNECTIONS
    return Cluster(client.ApiClient(configuration))


def _refusal(method: str, path: str, status: int, content: bytes) -> ClusterError:
    """The error that a status code stands for, with the API server's own words."""
    try:
        answer = json.loads(content)
        message, reason = answer.get("message") or answer.get("reason", ""), answer.get("reason")
    except (ValueError, AttributeError):
        message, reason = content[:200].decode(errors="replace"), None
    text = f"{method} {path}: {message} ({status})"
    if "unable to convert unstructured object" in message:  # how a malformed field of an apply is refused
        return InvalidError(text, status=status)
    kinds: dict[int, type[ClusterError]] = {
        HTTPStatus.CONFLICT: AlreadyExistsError if reason == "AlreadyExists" else ConflictError,
        HTTPStatus.UNPROCESSABLE_ENTITY: InvalidError,
        HTTPStatus.BAD_REQUEST: InvalidError,
        HTTPStatus.FORBIDDEN: ForbiddenError,
    }
    return kinds.get(status, ClusterError)(text, status=status)
