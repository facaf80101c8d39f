"""The endpoints of our own, all under ``/-/``: nothing there ever goes upstream."""

from __future__ import annotations

from email.utils import formatdate
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
        return _answer("healthy")

    async def ready(_: Request) -> Response:
        return _answer("ready") if health.ready else _answer("not ready", 503)

    async def nothing(request: Request, _: Exception) -> Response:
        error = NoRoute(f"no such endpoint: {request.scope['path']}")
        return Response(error.body(), error.status, _date(), "application/json")

    probes = [Route("/-/healthy", healthy), Route("/-/ready", ready)]
    app = Starlette(
        routes=probes if enabled else [], exception_handlers={404: nothing, 405: nothing}
    )
    app.router.redirect_slashes = False
    return app


def _answer(text: str, status: int = 200) -> Response:
    return PlainTextResponse(f"{text}\n", status, _date())


def _date() -> dict[str, str]:
    """Of what we say ourselves, we say when (RFC 9110 §6.6.1)."""
    return {"date": formatdate(usegmt=True)}
