"""A proxy before the API server that lets a test break single requests of the operator.

Real requests to a real API server, with a fault where the network or a busy server would put one.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from kube_parts import ControlPlane

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host"}


@dataclass(frozen=True)
class Request:
    """A request of the operator; `is_watch` for one that streams, `is_kopfs` for one that kopf made."""

    number: int
    method: str
    path: str
    is_watch: bool
    is_kopfs: bool


@dataclass(frozen=True)
class Answer:
    """What happens to a request instead of being passed on."""

    status: int = 0
    reset: bool = False  # the connection is cut without an answer
    stalled: bool = False  # an answer begins, and nothing follows
    expired: bool = False  # a watch that the API server ends with an event: what it asks for is too old
    forwarded: bool = False  # with `reset`: only after the API server has done it
    then: Callable[[], None] = lambda: None  # called before the connection is cut


Fault = Callable[[Request], Answer | None]


class FaultProxy:
    """Use as a context manager; `fault` decides over every request, in the order they come."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.fault: Fault = lambda _request: None
        self.requests: list[Request] = []
        self._control_plane = control_plane
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        runner = await self._start()
        self._started.set()
        await self._stopped.wait()
        await self._session.close()
        await runner.cleanup()

    async def _start(self) -> web.AppRunner:
        document = yaml.safe_load(self._control_plane.kubeconfig.read_text())
        self._token = document["users"][0]["user"]["token"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # loopback, made a moment ago
        self._session = ClientSession(
            connector=TCPConnector(ssl=context, limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        document["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        self.kubeconfig.write_text(yaml.safe_dump(document))
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Request(
            number=len(self.requests),
            method=request.method,
            path=request.path,
            is_watch=request.query.get("watch") == "true",
            is_kopfs="kopf" in request.headers.get("User-Agent", "").lower(),
        )
        self.requests.append(seen)
        answer = self.fault(seen)
        if answer is None:
            return await self._forward(request)
        if answer.forwarded:
            (await self._send(request)).release()
        if answer.reset:
            answer.then()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if answer.expired:
            error = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": 410,
                "reason": "Expired",
            }
            return web.json_response({"type": "ERROR", "object": error})
        if answer.stalled:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await asyncio.sleep(3600)
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": answer.status,
            "reason": "Injected",
            "message": "injected by the test",
        }
        return web.json_response(body, status=answer.status)

    async def _send(self, request: web.Request) -> Any:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        headers["Authorization"] = f"Bearer {self._token}"
        url = f"{self._control_plane.server}{request.rel_url}"
        return await self._session.request(
            request.method,
            url,
            headers=headers,
            data=await request.read() or None,
            allow_redirects=False,
            skip_auto_headers=["Content-Type"],
        )

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        upstream = await self._send(request)
        headers = {k: v for k, v in upstream.headers.items() if k.lower() not in _HOP_BY_HOP}
        if "Content-Encoding" in upstream.headers:
            headers["Content-Encoding"] = upstream.headers["Content-Encoding"]
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        try:
            with contextlib.suppress(ConnectionError, ClientError):
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
        finally:
            upstream.close()
        return response
