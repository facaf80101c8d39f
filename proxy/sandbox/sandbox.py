"""The sandbox: an upstream that behaves as today's API does, to try everything without a key.

It is as strict as the API: a proxy that forgets to raise the version header, or passes on what only
the old API knew, is refused. It can fail on demand in every way that an upstream fails: by the
switch ``fail``, or by a marker in the prompt or the last user message, which wins over the switch:

    [sandbox:fail=overloaded]   one of ``FAILURES``
    [sandbox:delay=0.5]         seconds before each piece of a stream, or before a whole answer

No exchange outlives its client. ``rules`` decides what is refused, ``wire`` makes answers; here
they are sent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import rules, wire
from .rules import ApiError, Asked, Json
from .wire import Answer, Frame

FAILURES = {
    "overloaded": "529 overloaded_error, before anything else",
    "rate_limit": "429 rate_limit_error with retry-after",
    "error_first": "HTTP 200 whose only event is an error; 529 where nothing is streamed",
    "error_mid": "an error event after three pieces of text; 529 where nothing is streamed",
    "cut": "the connection breaks in the middle of the answer",
    "eof": "the body ends properly, but before the answer does",
    "hang": "the head and the first piece, then silence",
    "slow_head": "silence from the start",
    "html": "502 with an HTML page, as from a gateway in between",
    "nonsense": "HTTP 200 with what is not JSON: an event of the stream, or the whole body",
}
"""How the sandbox can fail, and what each way looks like."""

LARGEST_BODY = 32 << 20
"""The largest body that the API takes, in bytes."""

GATEWAY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>502</body></html>\n"
NONSENSE = b"this is not JSON"


def build(delay: float = 0.02, fail: str | None = None) -> Starlette:
    """The sandbox as an ASGI app; ``delay`` and ``fail`` are for requests without a marker."""
    usual = Switches(delay, fail)
    endpoints: list[tuple[str, str, Sequence[str], Handler]] = [
        ("POST", "/v1/messages", rules.VERSIONS, _generating(MESSAGES, usual)),
        ("POST", "/v1/messages/count_tokens", rules.VERSIONS, _count_tokens),
        ("POST", "/v1/complete", (rules.V2023_06_01,), _generating(COMPLETE, usual)),
        ("GET", "/v1/models", rules.VERSIONS, _list_models),
        ("GET", "/v1/models/{id}", rules.VERSIONS, _get_model),
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
class Switches:
    """How slowly to answer, in seconds, and how to fail, if at all: one of FAILURES."""

    delay: float
    fail: str | None

    def __post_init__(self) -> None:
        if self.fail is not None and self.fail not in FAILURES:
            raise ValueError(f"the sandbox cannot fail by {self.fail!r}, only by {list(FAILURES)}")
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"a delay is some seconds, not {self.delay!r}")

    def but(self, markers: dict[str, str]) -> Switches:
        """These switches, where the markers do not say otherwise."""
        try:
            delay = float(markers.get("delay", self.delay))
            return Switches(delay, markers.get("fail", self.fail))
        except ValueError as error:
            raise rules.invalid(f"sandbox marker: {error}") from error


# Endpoints.


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
        raise rules.invalid("anthropic-version: header is required")
    if version not in versions:
        raise rules.invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def _count_tokens(call: Call) -> ASGIApp:
    return _json({"input_tokens": rules.read_count_tokens(call.body)}, call.seed)


def _list_models(call: Call) -> ASGIApp:
    models = [model.info for model in rules.MODELS]
    page = {"has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return _json({"data": models} | page, call.seed)


def _get_model(call: Call) -> ASGIApp:
    return _json(rules.find_model(call.path["id"]).info, call.seed)


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


# Generating.


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an endpoint that generates text reads, answers and streams."""

    read: Callable[[bytes, str], Asked]
    body: Callable[[Asked, Answer, bytes], Json]
    frames: Callable[[Asked, Answer, bytes], list[Frame]]
    text_event: bytes
    """The name of the events that carry text."""
    eol: bytes
    lead: str
    """What stands before the first word of an answer."""


MESSAGES = Dialect(
    rules.read_messages, wire.message_body, wire.message_frames, b"content_block_delta", b"\n", ""
)
COMPLETE = Dialect(
    rules.read_complete, wire.completion_body, wire.completion_frames, b"completion", b"\r\n", " "
)


def _generating(dialect: Dialect, usual: Switches) -> Handler:
    def generate(call: Call) -> ASGIApp:
        asked = dialect.read(call.body, call.version)
        switches = usual.but(wire.switches(asked.question))
        match switches.fail:
            case "overloaded":
                raise _overloaded()
            case "rate_limit":
                raise _rate_limited()
            case "html":
                return Response(GATEWAY_PAGE, 502, media_type="text/html")
            case "slow_head":
                return Reply({}, wait=math.inf)
        said = wire.answer(asked, dialect.lead)
        if asked.stream:
            return _streamed(dialect, dialect.frames(asked, said, call.seed), switches, call.seed)
        return _whole(wire.compact(dialect.body(asked, said, call.seed)), switches, call.seed)

    return generate


def _overloaded() -> ApiError:
    return ApiError("overloaded_error", "Overloaded", headers={"x-should-retry": "true"})


def _rate_limited() -> ApiError:
    used_up = {"retry-after": "2", "anthropic-ratelimit-requests-remaining": "0"}
    message = "This request would exceed the rate limit of the sandbox. Please try again later."
    return ApiError("rate_limit_error", message, headers={"x-should-retry": "true"} | used_up)


def _streamed(dialect: Dialect, frames: list[Frame], switches: Switches, seed: bytes) -> Reply:
    """The frames as a stream, or as the failure that was asked for leaves them."""
    error = wire.error_frame(_overloaded(), dialect.eol, seed)
    end: End = "whole"
    match switches.fail:
        case "error_first":
            frames = [error]
        case "error_mid":
            frames = [*_first_texts(frames, 3), error]
        case "eof":
            frames = _unfinished(frames)
        case "nonsense":
            some = _first_texts(frames, 2)
            frames = [*some, _nonsense(dialect), *frames[len(some) :]]
        case "cut":
            frames, end = _first_texts(frames, 3), "cut"
        case "hang":
            frames, end = _first_texts(frames, 1), "hang"
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "request-id": wire.new_id("req", seed),
    }
    parts = [(switches.delay if frame.kind == "text" else 0, frame.wire) for frame in frames]
    return Reply(headers, parts, end=end)


def _unfinished(frames: Iterable[Frame]) -> list[Frame]:
    return list(takewhile(lambda frame: frame.kind != "end", frames))


def _first_texts(frames: list[Frame], count: int) -> list[Frame]:
    """The frames up to this many pieces of text, and never the end."""
    unfinished = _unfinished(frames)
    places = [place for place, frame in enumerate(unfinished) if frame.kind == "text"]
    return unfinished[: places[:count][-1] + 1] if places else unfinished


def _nonsense(dialect: Dialect) -> Frame:
    lines = b"event: " + dialect.text_event, b"data: " + NONSENSE, b"", b""
    return Frame("other", dialect.eol.join(lines))


def _whole(body: bytes, switches: Switches, seed: bytes) -> Reply:
    """The whole body, or as the failure that was asked for leaves it."""
    end: End = "whole"
    length, half = {"content-length": str(len(body))}, body[: len(body) // 2]
    match switches.fail:
        case "error_first" | "error_mid":
            raise _overloaded()
        case "nonsense":
            body, length = NONSENSE, {}
        case "eof":
            body, length = half, {}
        case "cut":
            body, end = half, "cut"
        case "hang":
            body, end = half, "hang"
    headers = {"content-type": "application/json", "request-id": wire.new_id("req", seed)}
    return Reply(headers | length, [(0, body)], wait=switches.delay, end=end)


# Sending.

End = Literal["whole", "cut", "hang"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that may be slow, or never end; it is over as soon as the client has left."""

    headers: dict[str, str]
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    """The pieces of the body, each after the seconds to wait for it."""
    wait: float = 0
    """Seconds before the head."""
    end: End = "whole"

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(send))
            leaving = group.create_task(_left(receive))
            writing.add_done_callback(lambda _: leaving.cancel())
            leaving.add_done_callback(lambda _: writing.cancel())

    async def _write(self, send: Send) -> None:
        await _pause(self.wait)
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for seconds, data in self.parts:
            await _pause(seconds)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if self.end == "hang":
            await _pause(math.inf)
        if self.end == "whole":  # a server drops the connection of a response left open
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pause(seconds: float) -> None:
    if seconds == math.inf:
        await asyncio.Event().wait()
    elif seconds:
        await asyncio.sleep(seconds)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
