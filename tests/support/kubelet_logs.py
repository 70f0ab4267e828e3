"""The part of a kubelet that hands out logs, for a cluster without nodes: the API server asks it as it asks a real one.

A test writes lines of pods and ends them; who follows a log gets them as they come.
"""

import ssl
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from kube_parts import POLL_SECONDS


class KubeletLogs:
    """A node of a cluster; use as a context manager, `bind` pods to it, `write` their logs."""

    def __init__(self, api: client.ApiClient, folder: Path) -> None:
        self.node = f"node-{uuid.uuid4().hex[:8]}"
        self.requests: list[str] = []
        self.cut_after: int | None = None
        """Break the next connection after so many lines, in the middle of a line."""
        self._core = client.CoreV1Api(api)
        self._lines: dict[str, list[str]] = {}
        self._ended: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.socket = _tls(folder).wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._core.create_node({"metadata": {"name": self.node}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        self._core.patch_node_status(self.node, {"status": status})
        return self

    def __exit__(self, *_: object) -> None:
        self._core.delete_node(self.node)
        self._server.shutdown()
        self._server.server_close()

    def bind(self, pod: Any) -> None:
        """Be the scheduler."""
        self._lines.setdefault(pod.metadata.name, [])
        target = {"kind": "Node", "name": self.node}
        binding = {"metadata": {"name": pod.metadata.name}, "target": target}
        self._core.create_namespaced_pod_binding(
            pod.metadata.name, pod.metadata.namespace, binding, _preload_content=False
        )

    def write(self, pod: str, text: str) -> None:
        """A line of the pod's worker, now."""
        now = time.time_ns()
        moment = datetime.fromtimestamp(now // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self._lines[pod].append(f"{moment}.{now % 10**9:09}Z {text}")

    def end(self, pod: str) -> None:
        """Nothing will be written any more."""
        self._ended.add(pod)

    def has_ended(self, pod: str) -> bool:
        return pod in self._ended

    def lines(self, pod: str, since: str) -> list[str]:
        """Lines of the second `since` and later, as a kubelet has it."""
        return [line for line in self._lines.get(pod, []) if line[:19] >= since[:19]]


def _handler(logs: KubeletLogs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            logs.requests.append(self.path)
            address = urlsplit(self.path)
            options = {name: values[0] for name, values in parse_qs(address.query).items()}
            _, place, _, pod, _ = address.path.split("/")
            assert place == "containerLogs"
            assert options["timestamps"] == "true"
            self.send_response(HTTPStatus.OK)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._stream(pod, options.get("sinceTime", ""), follow=options.get("follow") == "true")

        def _stream(self, pod: str, since: str, *, follow: bool) -> None:
            sent = 0
            while True:
                is_last = logs.has_ended(pod) or not follow
                for line in logs.lines(pod, since)[sent:]:
                    if logs.cut_after == sent:
                        logs.cut_after = None
                        self._send(line[:-3])
                        self.close_connection = True
                        return
                    self._send(f"{line}\n")
                    sent += 1
                if is_last:
                    self.wfile.write(b"0\r\n\r\n")
                    return
                time.sleep(POLL_SECONDS)

        def _send(self, text: str) -> None:
            data = text.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so it is called
            """Nothing on standard error."""

    return Handler


def _tls(folder: Path) -> ssl.SSLContext:
    certificate, key = folder / "kubelet.crt", folder / "kubelet.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kubelet"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
