"""The upstreams, each of which speaks one version and nothing else, and a proxy before each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from matrix import service_of_2023
from proxy import config
from proxy.app import App
from proxy.core.fields import values
from proxy.sandbox import sandbox
from proxy.server.server import running

Json = dict[str, Any]

KEYS = "sk-ant-"
"""What a key begins with that is let in. Each call has a key of its own: it tells whose call."""

AT_FIRST = "[overloaded at first]"
"""In a body: the upstream is overloaded until the SDK says that it tries again."""


@dataclass(frozen=True, slots=True)
class Road:
    """A proxy and what is behind it: one upstream of one version."""

    name: str
    version: str
    credentials: Literal["as_is", "x-api-key"] = "as_is"
    """How the proxy is told to send the key."""
    bridge: bool = False
    old_keys: bool = False
    """Whether the upstream reads ``x-api-key`` and knows nothing of Bearer."""
    messages: bool = True

    def __str__(self) -> str:
        return self.name


OLDEST = Road("2023-01-01", "2023-01-01", "x-api-key", old_keys=True)
MIDDLE = Road("2023-06-01", "2023-06-01")
NEWEST = Road("2026-10-21", "2026-10-21", bridge=True)
BRIDGED = Road("bridge-2023-06-01", "2023-06-01", bridge=True)
UNMIGRATED = Road("unmigrated", "2023-06-01", "x-api-key", old_keys=True)
COMPLETIONS_ONLY = Road("completions-only", "2023-01-01", old_keys=True, messages=False)

ROADS = (OLDEST, MIDDLE, NEWEST, BRIDGED, UNMIGRATED, COMPLETIONS_ONLY)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the upstream got it."""

    path: str
    versions: list[str]
    credentials: dict[str, list[str]]
    """The values of each field that holds a key."""
    body: Json | None


@dataclass(frozen=True, slots=True)
class OpenRoad:
    """An open road: the addresses of the proxy and of the upstream, and what arrived there."""

    address: str
    upstream: str
    received: dict[str, list[Received]]
    """Requests by the key that they carried."""


@dataclass(frozen=True, slots=True)
class Strict:
    """An app for those alone who speak its version and have a key in a form that it reads."""

    app: ASGIApp
    road: Road
    received: dict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        sent: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return sent.pop() if sent else await receive()

        refusal = self._record(scope, body) or self._early(scope, body)
        await (refusal or self.app)(scope, again, send)

    def _record(self, scope: Scope, body: bytes) -> Response | None:
        """Note the request under its key, and refuse who has none or has not the version."""
        forms = {name: _named(scope, name) for name in ("x-api-key", "authorization")}
        bearers = [value.removeprefix("Bearer ") for value in forms["authorization"]]
        keys = forms["x-api-key"] or bearers
        versions = _named(scope, "anthropic-version")
        credentials = {name: found for name, found in forms.items() if found}
        asked = json.loads(body) if body else None
        for key in keys[:1]:
            self.received[key].append(Received(scope["path"], versions, credentials, asked))
        read = forms["x-api-key"] if self.road.old_keys else keys
        if len(read) != 1 or not read[0].startswith(KEYS):
            return _refused(401, "authentication_error", "invalid x-api-key")
        if versions != [self.road.version]:
            message = f'anthropic-version: "{", ".join(versions)}" is not a valid version'
            return _refused(400, "invalid_request_error", message)
        return None

    def _early(self, scope: Scope, body: bytes) -> Response | None:
        """What is answered before the app is asked."""
        if self.road.bridge and scope["path"] == "/v1/complete":
            return _refused(404, "not_found_error", "Not found")
        if AT_FIRST.encode() in body and _named(scope, "x-stainless-retry-count") == ["0"]:
            return _refused(529, "overloaded_error", "Overloaded", {"retry-after-ms": "1"})
        return None


def _named(scope: Scope, name: str) -> list[str]:
    return [value.decode() for value in values(scope["headers"], name.encode())]


def _refused(
    status: int, type_: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    told = {"type": "error", "error": {"type": type_, "message": message}}
    return JSONResponse(told, status, headers)


@contextmanager
def opened() -> Iterator[dict[Road, OpenRoad]]:
    """All roads, served in a thread with an event loop of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_opened()) as open_roads,
    ):
        yield open_roads


@asynccontextmanager
async def _opened() -> AsyncIterator[dict[Road, OpenRoad]]:
    """All servers stop at once: each takes a moment to."""
    closing = anyio.Event()
    async with anyio.create_task_group() as group:
        yield {road: await group.start(_serve, road, closing) for road in ROADS}
        closing.set()


async def _serve(road: Road, closing: anyio.Event, *, task_status: TaskStatus[OpenRoad]) -> None:
    old = road.version == "2023-01-01"
    app = service_of_2023.build(messages=road.messages) if old else sandbox.build(delay=0)
    strict = Strict(app, road)
    async with running(strict) as upstream:
        proxy = App(config.parse(json.dumps(_settings(road, upstream)), str(road), {}))
        async with running(proxy) as address:
            task_status.started(OpenRoad(address, upstream, strict.received))
            await closing.wait()


def _settings(road: Road, upstream: str) -> Json:
    complete = {"path": "/v1/complete", "methods": ["POST"], "upstream": "api"}
    speaks = {"speaks": [road.version], "credentials": road.credentials}
    settings: Json = {
        "server": {"port": 0},
        "upstreams": {"api": {"base_url": upstream} | speaks},
        "routes": [complete, {"path": "/{rest:path}", "upstream": "api"}],
    }
    if road.bridge:
        complete["bridge"] = "messages"
        settings["models"] = {"claude-*": "claude-haiku-4-5-20251001"}
    return settings
