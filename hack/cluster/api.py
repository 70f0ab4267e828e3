"""What the node's own small controllers share: lists and writes of the API with nothing but the standard library.

They run with the machine's Python, not this project's, so that the cluster depends on no virtual environment.
"""

import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class Api:
    """The cluster of a kubeconfig that `up` wrote: one cluster, one user, certificates in files."""

    def __init__(self, kubeconfig: Path) -> None:
        text = kubeconfig.read_text()
        field = dict(re.findall(r'([a-z-]+): "([^"]+)"', text))
        context = ssl.create_default_context(cafile=field["certificate-authority"])
        context.load_cert_chain(field["client-certificate"], field["client-key"])
        self._server = field["server"]
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def items(self, path: str) -> list[Object]:
        """The objects of a collection."""
        return list(self._call("GET", path)["items"])

    def create(self, path: str, body: Object) -> None:
        """Add an object to a collection."""
        self._call("POST", path, body)

    def delete(self, path: str) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            self._call("DELETE", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:  # noqa: PLR2004
                raise

    def _call(self, method: str, path: str, body: Object | None = None) -> Object:
        request = urllib.request.Request(  # noqa: S310 - the kubeconfig's own https
            self._server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with self._opener.open(request, timeout=10) as reply:
            return dict(json.load(reply))


def every_second(reconcile: Callable[[], None]) -> None:
    """Call it for ever; what fails is reported and tried again, as the API server may be restarting."""
    while True:
        try:
            reconcile()
        except Exception as error:  # noqa: BLE001 - this process's edge
            print(error, file=sys.stderr, flush=True)
        time.sleep(1)
