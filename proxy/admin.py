"""The endpoints of our own, all under ``/-/``: nothing there ever goes upstream."""

from __future__ import annotations

from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .errors import NoRoute

PREFIX = b"/-/"


class Health(Protocol):
    """What the probes ask of the proxy."""

    ready: bool


def build(health: Health, *, enabled: bool) -> Starlette:
    """The admin application: liveness while the process lives, readiness while it takes work."""

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("healthy\n")

    async def ready(_: Request) -> Response:
        if health.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", status_code=503)

    async def nothing(request: Request, _: Exception) -> Response:
        error = NoRoute(f"no such endpoint: {request.scope['path']}")
        return Response(error.body(), error.status, media_type="application/json")

    probes = [Route("/-/healthy", healthy), Route("/-/ready", ready)]
    return Starlette(routes=probes if enabled else [], exception_handlers={404: nothing})
