"""One exchange to look at: what goes over both wires, shown while it happens.

It takes the same routes as any other, but on a relay and connections of its own, so that those of
real clients are never tapped. It counts as an open exchange and is logged, but not in the ledger
and the metrics, for nobody depends on it. What it shows is bounded in size and time, and contains
no key.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope

from . import config, jsontext, observe
from .answer import Answer
from .client import CONNECTION, ClientLeft, Gone
from .config import Config
from .counted import Counted
from .errors import Busy, ForeignOrigin, InvalidRequest, ProxyError, RequestTooLarge
from .exchanges import OpenExchanges
from .explain import check_path, explain
from .fields import VERSION, Fields
from .observe import Record
from .offload import offload
from .relay import Relay
from .upstream import Upstream
from .versions.models import Learned

log = logging.getLogger("proxy")

LARGEST_BODY = 1 << 20
"""The largest request that can be tried, in bytes."""

LARGEST_SHOW = 8 << 20
"""The most that is shown of an exchange, in bytes; then it is ended."""

AT_ONCE = 16
"""How many can be played or explained at a time: what a viewer has not taken is kept in memory."""

PART = 64 << 10
"""How much of an explanation is sent at once, in bytes."""

LONGEST = 120.0
"""The most seconds that an exchange may take; then it is ended."""

NO_KEY = b"no-key-needed"
"""The key of a request without one: the sandbox takes any, the API will refuse it."""

_SHOWN = (b"content-type", VERSION, b"x-proxy-", b"retry-after", b"request-id")
"""The beginnings of the fields that are shown; others may hold secrets."""

_KEYS = (b"x-api-key", b"authorization")

Tell = Callable[[dict[str, Any]], None]
"""Takes what has happened, to make a line of it."""

Answering = Callable[["Asked", dict[str, Any]], AsyncGenerator[bytes]]
"""Makes the parts of an answer from what was asked and its explanation."""


def routes(config: Config, exchanges: OpenExchanges, learned: Learned) -> list[Route]:
    """``POST /-/playground`` and ``POST /-/explain``.

    Both take a request with the fields and the body of an old client's, and the path that it would
    call as ``?path=``. The first answers with JSON lines, see Play; the second with what would go
    upstream, and why.
    """
    answers: set[Counted] = set()
    arriving = 0

    async def answer(request: Request, parts: Answering, media_type: str) -> Response:
        # Counted from the first byte of the request to the last of the answer, for all of it is in
        # memory. What is explained queues with the large requests of clients, even if its viewer
        # has left.
        nonlocal arriving
        if arriving + len(answers) >= AT_ONCE:
            raise Busy(f"{AT_ONCE} others are served, try again shortly")
        arriving += 1
        try:
            asked = await _read_request(request)
            told = await offload(partial(_explained, config, asked, learned))
            fields = _fields() | {"content-type": media_type, "x-accel-buffering": "no"}
            return Counted(answers, parts(asked, told), fields)
        finally:
            arriving -= 1

    def played(asked: Asked, told: dict[str, Any]) -> AsyncGenerator[bytes]:
        return Play(config, exchanges, learned).lines(asked, told)

    async def playground(request: Request) -> Response:
        return await answer(request, played, "application/x-ndjson")

    async def explanation(request: Request) -> Response:
        return await answer(request, _in_parts, "application/json")

    return [
        Route("/-/playground", playground, methods=["POST"]),
        Route("/-/explain", explanation, methods=["POST"]),
    ]


async def _in_parts(asked: Asked, told: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The explanation as JSON; sent whole, it would be copied for a client that takes none."""
    text = jsontext.dumps(told)
    del asked, told  # they are as large, and a client may be slow
    for start in range(0, len(text), PART):
        yield text[start : start + PART]


class Play:
    """One exchange, told as JSON lines.

    Each is an object with ``ms`` since the beginning, and one of: ``explain``, as /-/explain says
    it; a ``wire`` (``client`` or ``upstream``) with ``sent``, ``fields`` and ``body`` for a
    request, ``status`` and ``fields`` for the head of an answer, or ``text`` for what has come of
    its body; ``ended``, which comes last, with ``error`` where something went wrong.
    """

    def __init__(self, config: Config, exchanges: OpenExchanges, learned: Learned) -> None:
        self._settings = config.upstreams
        self._upstreams: dict[str, TappedUpstream] = {}
        self._relay = Relay(config, self._upstreams, exchanges, self._finish)
        self._relay.learned |= learned
        self._began = time.monotonic()
        self._lines: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._left_to_show = LARGEST_SHOW
        self._viewer = Viewer(self._tell)
        self._ended: dict[str, Any] = {"ended": "crashed", "error": "a fault of the proxy's"}
        self._stopped_why = ""

    async def lines(self, asked: Asked, explained: dict[str, Any]) -> AsyncGenerator[bytes]:
        """The lines, as they come into being; closing the generator ends the exchange."""
        try:
            await offload(partial(self._tell_asked, asked, explained))
            del explained  # it may be megabytes, and a viewer may be slow
            playing = asyncio.create_task(self._play(asked))
            try:
                while not playing.done() or self._lines:
                    while self._lines:
                        yield self._lines.popleft()
                    self._changed.clear()
                    if not playing.done():
                        await self._changed.wait()
            finally:
                self._viewer.leave()
                await asyncio.wait([playing])
        finally:  # they refer to us: a reference cycle, with all the lines that were not taken
            del self._relay, self._viewer

    def _tell_asked(self, asked: Asked, explained: dict[str, Any]) -> None:
        """Make the first lines, which may be long: in a thread, as nothing else makes any yet."""
        self._tell({"explain": explained})
        sent = {"sent": f"POST {asked.path}", "fields": _shown_fields(asked.fields)}
        self._tell({"wire": "client", **sent, "body": asked.body.decode("utf-8", "replace")})

    async def _play(self, asked: Asked) -> None:
        limit = asyncio.get_running_loop().call_later(
            LONGEST, self._stop, f"it took longer than {LONGEST:g} seconds"
        )
        try:
            for name, settings in self._settings.items():
                # Off the loop, as it reads the trusted certificates.
                self._upstreams[name] = await offload(partial(TappedUpstream, settings, self._tell))
            await self._relay(asked.scope(self._viewer), _receive(asked.body), self._viewer.take)
        except Exception:
            log.exception("a fault of ours in the playground")
        finally:
            limit.cancel()
            for upstream in self._upstreams.values():
                await upstream.close()
            # Now: the trusted certificates are a megabyte, and the viewer may be slow.
            self._upstreams.clear()
            self._left_to_show = LARGEST_SHOW
            self._tell(self._ended)

    def _tell(self, line: dict[str, Any]) -> None:
        ms = round((time.monotonic() - self._began) * 1000, 1)
        told = jsontext.dumps({"ms": ms, **line}) + b"\n"
        self._left_to_show -= len(told)
        if self._left_to_show >= 0:
            self._lines.append(told)
            self._changed.set()
        else:
            self._stop(f"it is longer than the {LARGEST_SHOW >> 20} MiB that are shown")

    def _stop(self, why: str) -> None:
        self._stopped_why = self._stopped_why or why
        self._viewer.leave()

    def _finish(self, record: Record) -> None:
        self._ended = {"ended": record.ended, "error": self._stopped_why or record.error}
        observe.write(record)


class Viewer:
    """The client of a play, which shows what it gets; see client.Connection."""

    def __init__(self, tell: Tell) -> None:
        self._show = tell
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._tell_left: Callable[[Gone], None] | None = None
        self._left = False

    def when_left(self, tell: Callable[[Gone], None]) -> None:
        if self._left:
            tell(ClientLeft())
        else:
            self._tell_left = tell

    def leave(self) -> None:
        """End the exchange, as when a client leaves."""
        if not self._left and self._tell_left is not None:
            self._tell_left(ClientLeft())
        self._left = True
        self._tell_left = None  # it refers to us: a reference cycle, with the request in it

    def write(self, data: bytes) -> bool:
        if text := self._decode(data):
            self._show({"wire": "client", "text": text})
        return True

    async def take(self, message: Message) -> None:
        """Take what is sent: ASGI's ``send``."""
        if message["type"] == "http.response.start":
            fields = _shown_fields(message["headers"])
            self._show({"wire": "client", "status": message["status"], "fields": fields})
        else:
            self.write(message["body"])


class TappedUpstream(Upstream):
    """An upstream whose wire is shown with ``tell``."""

    def __init__(self, settings: config.Upstream, tell: Tell) -> None:
        super().__init__(settings)
        self._tell = tell

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        """As any upstream; a ``body`` is shown if it is whole, as all translated ones are."""
        # Fields that the configuration sets may be secret, whatever their names.
        shown = [field for field in self._fields(fields) if field not in self._set]
        sent = {"sent": f"{method} {target}", "fields": _shown_fields(shown)}
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else None
        self._show(sent | {"body": text, "upstream": self.name})
        answer = await super().call(method, target, fields, body)
        self._show({"status": answer.status, "fields": _shown_fields(answer.fields)})
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        answer.tap(lambda part: self._show({"text": decode(part)}))
        return answer

    def _show(self, line: dict[str, Any]) -> None:
        self._tell({"wire": "upstream", **line})


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that is tried."""

    path: str
    version: str | None
    key: bytes
    body: bytes

    @property
    def fields(self) -> Fields:
        fields = [
            (b"host", b"playground"),
            (b"user-agent", b"playground"),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            (b"x-api-key", self.key),
        ]
        if self.version is not None:
            fields.append((VERSION, self.version.encode("latin-1")))
        return fields

    def scope(self, viewer: Viewer) -> Scope:
        """The request as an ASGI scope."""
        return {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode("latin-1"),
            "query_string": b"",
            "headers": self.fields,
            "extensions": {CONNECTION: viewer},
        }


async def _read_request(request: Request) -> Asked:
    """The request to try; raises RequestError.

    This keeps other pages out: JSON from another origin takes a CORS preflight, which we refuse.
    https://fetch.spec.whatwg.org/#http-cors-protocol
    """
    origin = request.headers.get("origin")
    host = request.headers.get("host")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise ForeignOrigin("this is for the page of the proxy alone")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type.lower() != "application/json":  # in any case (RFC 9110 §8.3.1)
        raise InvalidRequest("the content-type must be application/json")
    path = request.query_params.get("path", "/v1/complete")
    check_path(path)
    return Asked(
        path=path,
        version=request.headers.get("anthropic-version"),
        key=request.headers.get("x-api-key", "").encode("latin-1") or NO_KEY,
        body=await _body(request),
    )


async def _body(request: Request) -> bytes:
    body = bytearray()  # a list of its parts would take fifty bytes more for each
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise RequestTooLarge(f"what is tried is at most {LARGEST_BODY} bytes long")
    return bytes(body)


def _explained(config: Config, asked: Asked, learned: Learned) -> dict[str, Any]:
    """What would go upstream, and why; or the error that the client would get."""
    try:
        told = explain(config, asked.body, version=asked.version, path=asked.path, learned=learned)
    except ProxyError as error:
        return error.envelope() | {"status": error.status}
    return {
        "path": urlsplit(told.url).path,
        "version": told.version,
        "body": told.body.decode("utf-8", "replace"),
        "dropped": told.dropped,
        "notes": told.notes,
    }


def _receive(body: bytes) -> Receive:
    """ASGI's ``receive`` for a client that has sent ``body``, and waits."""
    rest = [body]

    async def receive() -> Message:
        if not rest:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": rest.pop(), "more_body": False}

    return receive


def _shown_fields(fields: Fields) -> list[tuple[str, str]]:
    """The fields to show, by name and value; of a key only that there is one."""
    return [
        (name.decode("latin-1"), "…" if name in _KEYS else value.decode("latin-1"))
        for name, value in fields
        if name.startswith(_SHOWN) or name in _KEYS
    ]


def _fields() -> dict[str, str]:
    return {"cache-control": "no-store", "date": formatdate(usegmt=True)}
