"""The sandbox: an upstream that behaves as today's API does, to try everything without a key.

It is as strict as the API: a proxy that forgets to raise the version header, or passes on what only
the old API knew, is refused. It can fail on demand in every way that an upstream fails: by the
switch ``fail``, or by a marker in the prompt or the last user message, which wins over the switch:

    [sandbox:fail=overloaded]   one of ``generating.FAILURES``
    [sandbox:delay=0.5]         seconds before each piece of a stream, or before a whole answer

``rules`` decides what is taken, ``wire`` makes answers, ``generating`` makes the failures that were
asked for of them, and ``reply`` sends either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import rules, wire
from .errors import ApiError, invalid
from .fields import V2023_06_01, VERSIONS, Json
from .generating import COMPLETE, MESSAGES, Dialect, Switches, generate
from .models import MODELS, find_model

LARGEST_BODY = 32 << 20
"""The largest body that the API takes, in bytes."""


def build(delay: float = 0.02, fail: str | None = None) -> Starlette:
    """The sandbox as an ASGI app; ``delay`` and ``fail`` are for requests without a marker."""
    usual = Switches(delay, fail)
    endpoints: list[tuple[str, str, Sequence[str], Handler]] = [
        ("POST", "/v1/messages", VERSIONS, _generating(MESSAGES, usual)),
        ("POST", "/v1/messages/count_tokens", VERSIONS, _count_tokens),
        ("POST", "/v1/complete", (V2023_06_01,), _generating(COMPLETE, usual)),
        ("GET", "/v1/models", VERSIONS, _list_models),
        ("GET", "/v1/models/{id}", VERSIONS, _get_model),
    ]
    app = Starlette(
        routes=[
            Route(path, _admitting(versions, handler), methods=[method])
            for method, path, versions, handler in endpoints
        ],
        exception_handlers={HTTPException: _no_such_endpoint, ClientDisconnect: _unheard},
    )
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True, slots=True)
class Call:
    """An admitted request."""

    version: str
    body: bytes
    seed: bytes
    path: dict[str, str]


Handler = Callable[[Call], ASGIApp]
"""Answers an admitted request; raises ApiError."""


def _admitting(
    versions: Sequence[str], handler: Handler
) -> Callable[[Request], Awaitable[ASGIApp]]:
    """An endpoint that checks the key, then the version, then what its handler checks."""

    async def endpoint(request: Request) -> ASGIApp:
        path = request.method.encode(), request.url.path.encode()
        seed = wire.seed_of(*path)
        try:
            body = await _body(request)
            seed = wire.seed_of(*path, body)
            _require_key(request)
            version = _require_version(request, versions)
            return handler(Call(version, body, seed, request.path_params))
        except ApiError as error:
            return _refusal(error, seed)

    return endpoint


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LARGEST_BODY:
            raise ApiError("request_too_large", "Request exceeds the maximum size")
    return b"".join(parts)


def _require_key(request: Request) -> None:
    if not (request.headers.get("x-api-key") or request.headers.get("authorization")):
        raise ApiError("authentication_error", "x-api-key header is required")


def _require_version(request: Request, versions: Sequence[str]) -> str:
    version = ", ".join(request.headers.getlist("anthropic-version"))
    if not version:
        raise invalid("anthropic-version: header is required")
    if version not in versions:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def _generating(dialect: Dialect, usual: Switches) -> Handler:
    return lambda call: generate(dialect, call.body, call.version, call.seed, usual)


def _count_tokens(call: Call) -> ASGIApp:
    return _json({"input_tokens": rules.read_count_tokens(call.body)}, call.seed)


def _list_models(call: Call) -> ASGIApp:
    models = [model.info for model in MODELS]
    page = {"has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return _json({"data": models} | page, call.seed)


def _get_model(call: Call) -> ASGIApp:
    return _json(find_model(call.path["id"]).info, call.seed)


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    seed = wire.seed_of(request.method.encode(), request.url.path.encode())
    if isinstance(error, HTTPException) and error.status_code == 405:
        message = f"{request.method} is not allowed on this path"
        wrong = ApiError("invalid_request_error", message, status=405, headers=error.headers)
        return _refusal(wrong, seed)
    return _refusal(ApiError("not_found_error", "Not found"), seed)


async def _unheard(_: Request, __: Exception) -> Response:
    return Response()  # to a client that left before it had sent all


def _refusal(error: ApiError, seed: bytes) -> Response:
    headers = {"x-should-retry": "false"} | error.headers
    return _json(wire.error_body(error, seed), seed, error.status, headers)


def _json(
    body: Json, seed: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    named = {"request-id": wire.new_id("req", seed)} | (headers or {})
    return Response(wire.compact(body), status, named, media_type="application/json")
