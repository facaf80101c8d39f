"""The proxy's own endpoints, all under ``/-/``: nothing there ever goes upstream.

Their paths are compared undecoded, as those of routes are, so that no encoded path is taken for
another. Health and metrics say nothing of anybody, and are answered under any host name; all else
only under a name of ours, see core.hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core import hosts
from ..core.errors import InvalidRequest, NoRoute, ProxyError
from ..observe.metrics import CONTENT_TYPE

PREFIX = b"/-/"

LONGEST_QUERY = 4 << 10
"""The longest query that is read, in bytes: of many parameters each takes 3 us, all at once."""

NO_FIGURES = "figures of several workers cannot be added up: there is no folder that they can share"


class Proxy(Protocol):
    """What the endpoints ask of the proxy."""

    ready: bool

    async def metrics_page(self) -> bytes | None:
        """The page of metrics; None where there is none."""


def build(
    proxy: Proxy, *, enabled: bool, names: Collection[str] = (), more: Sequence[Route] = ()
) -> ASGIApp:
    """The admin application: liveness, readiness while work is taken, metrics, and ``more``.

    ``more`` shows who calls or acts for them, so it is answered only under a name of ours or one in
    ``names``. If not ``enabled``, every request is answered with 404.
    """
    routes = [*_probes(proxy), *(_by_our_names(route, names) for route in more)]
    app = Starlette(
        routes=routes if enabled else [],
        exception_handlers={
            404: _nothing,
            405: _nothing,
            ProxyError: _refused,
            ClientDisconnect: _unheard,
        },
    )
    app.router.redirect_slashes = False

    async def as_written(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await app(scope, receive, send)

    return as_written


def _probes(proxy: Proxy) -> Iterator[BaseRoute]:
    """What probes and Prometheus ask for."""

    async def healthy(_: Request) -> Response:
        return answer("healthy")

    async def ready(_: Request) -> Response:
        return answer("ready") if proxy.ready else answer("not ready", 503)

    async def metrics(_: Request) -> Response:
        text = await proxy.metrics_page()
        if text is None:
            return answer(NO_FIGURES, 503)
        return Response(text, media_type=CONTENT_TYPE)

    yield Route("/-/healthy", healthy)
    yield Route("/-/ready", ready)
    yield Route("/-/metrics", metrics)


async def _nothing(request: Request, _: Exception) -> Response:
    error = NoRoute(f"no such endpoint: {request.scope['path']}")
    return Response(error.body(), error.status, None, "application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)  # noqa: S101  (registered for no other)
    fields = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body(), error.status, fields, "application/json")


async def _unheard(_: Request, __: Exception) -> Response:
    return Response()  # to a client that left before it had sent all


def _by_our_names(route: Route, names: Collection[str]) -> Route:
    """The same route, but only under a name of ours."""

    async def answered(request: Request) -> Response:
        hosts.check(request.scope["headers"], names, "admin.hosts")
        if len(request.scope["query_string"]) > LONGEST_QUERY:
            raise InvalidRequest(f"the query is longer than {LONGEST_QUERY} bytes")
        response: Response = await route.endpoint(request)
        return response

    return Route(route.path, answered, methods=route.methods)


def answer(text: str, status: int = 200) -> Response:
    """A line of text."""
    return PlainTextResponse(f"{text}\n", status)
