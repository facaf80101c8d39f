"""``POST /-/playground`` and ``POST /-/explain``: requests to try out, from the proxy's own page.

Both take a request with the fields and the body of an old client's, and the path that it would
call as ``?path=``. The first plays it and answers with JSON lines, see play.Play; the second
answers with what would go upstream, and why.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from email.utils import formatdate
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..bridge.models import Learned
from ..config import Config
from ..core import jsontext
from ..core.errors import Busy, ForeignOrigin, InvalidRequest, ProxyError, RequestTooLarge
from ..exchange.exchanges import OpenExchanges
from ..exchange.explain import check_path, explain
from ..runtime.offload import offload
from .counted import Counted
from .play import Play, Sample

LARGEST_BODY = 1 << 20
"""The largest request that can be tried, in bytes."""

AT_ONCE = 4
"""How many can be played or explained at a time: what a viewer has not taken is kept in memory."""

PART = 64 << 10
"""How much of an explanation is sent at once, in bytes."""

NO_KEY = b"no-key-needed"
"""The key of a request without one: the sandbox takes any, the API will refuse it."""

MakeParts = Callable[[Sample, dict[str, Any]], AsyncGenerator[bytes]]
"""Makes the parts of an answer from a request and its explanation."""


def routes(config: Config, exchanges: OpenExchanges, learned: Learned) -> list[Route]:
    """The endpoints, which are open to AT_ONCE together."""
    playground = _Playground(config, exchanges, learned)
    return [
        Route("/-/playground", playground.play, methods=["POST"]),
        Route("/-/explain", playground.explain, methods=["POST"]),
    ]


class _Playground:
    def __init__(self, config: Config, exchanges: OpenExchanges, learned: Learned) -> None:
        self._config = config
        self._exchanges = exchanges
        self._learned = learned
        self._arriving = 0
        self._answers: set[Counted] = set()

    async def play(self, request: Request) -> Response:
        return await self._answer(request, self._played, "application/x-ndjson")

    async def explain(self, request: Request) -> Response:
        return await self._answer(request, _in_parts, "application/json")

    def _played(self, sample: Sample, explained: dict[str, Any]) -> AsyncGenerator[bytes]:
        return Play(self._config, self._exchanges, self._learned).lines(sample, explained)

    async def _answer(self, request: Request, parts: MakeParts, media_type: str) -> Response:
        # Counted from the first byte of the request to the last of the answer, for all of it is in
        # memory. What is explained queues with the large requests of clients, even if its viewer
        # has left.
        if self._arriving + len(self._answers) >= AT_ONCE:
            raise Busy(f"{AT_ONCE} others are served, try again shortly")
        self._arriving += 1
        try:
            sample = await _read_request(request)
            explained = await offload(partial(_explained, self._config, sample, self._learned))
            fields = _fields() | {"content-type": media_type, "x-accel-buffering": "no"}
            return Counted(self._answers, parts(sample, explained), fields)
        finally:
            self._arriving -= 1


async def _in_parts(sample: Sample, explained: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The explanation as JSON; sent whole, it would be copied for a client that takes none."""
    text = jsontext.dumps(explained)
    del sample, explained  # they are as large, and a client may be slow
    for start in range(0, len(text), PART):
        yield text[start : start + PART]


async def _read_request(request: Request) -> Sample:
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
    return Sample(
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


def _explained(config: Config, sample: Sample, learned: Learned) -> dict[str, Any]:
    """What would go upstream, and why; or the error that the client would get."""
    try:
        sent = explain(config, sample.path, sample.version, sample.body, learned=learned)
    except ProxyError as error:
        return error.envelope() | {"status": error.status}
    return {
        "path": urlsplit(sent.url).path,
        "version": sent.version,
        "body": sent.body.decode("utf-8", "replace"),
        "dropped": sent.dropped,
        "notes": sent.notes,
    }


def _fields() -> dict[str, str]:
    return {"cache-control": "no-store", "date": formatdate(usegmt=True)}
