"""The only file that calls upstreams, and the one border where foreign errors become ours.

A call goes out as it is given: raw target, raw fields, raw body. No cookies are kept, no redirect
is followed, nothing is taken from the environment and nothing is decoded. Where it goes is the
configuration's business alone.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from .. import config
from ..core.errors import UpstreamTimeout, UpstreamUnreachable
from ..core.fields import Fields, alike, with_key
from .answer import Answer
from .http1 import Connection
from .pool import KEEP, Pool

FRESH = 1.0
"""Seconds that a connection may have been free for a body that cannot be sent again. Upstreams
close those that were free for longer, and may be about to."""

PART = 64 << 10
"""How much of a request is written at a time, in bytes. TLS encrypts all that it is given into a
buffer that grows by half as much again, and keeps that size as long as the connection is open."""

AT_ONCE = 1.0
"""Seconds within which a connection is lost that was closed while the request was on its way. One
that is lost later may have been lost by an upstream that was at work on the request."""


class _Request(NamedTuple):
    """A request as it goes out."""

    start: bytes
    """Its head, and its body if that is there as a whole."""
    parts: AsyncIterator[bytes] | None
    """Its body if that comes in parts, which cannot be sent again."""
    chunked: bool
    """Whether the parts are to be sent as chunks."""
    bodiless: bool
    """Whether the answer to it has no body, whatever its head announces."""


class Upstream:
    """One API to call, with its connections; used within one event loop."""

    def __init__(self, settings: config.Upstream) -> None:
        base = urlsplit(settings.base_url)
        self.name = settings.name
        self._timeouts = settings.timeouts
        self._credentials = settings.credentials
        self._prefix = base.path
        self._set = [
            (name.encode(), value.reveal().encode()) for name, value in settings.set_headers
        ]
        removed = (name.encode() for name in settings.remove_headers)
        self._unset = frozenset(map(alike, (*dict(self._set), *removed)))
        usual = {"http": 80, "https": 443}[base.scheme]
        authority = base.netloc.removesuffix(f":{usual}")
        self._host = (b"host", authority.encode())
        self._pool = Pool(settings.base_url, settings.timeouts.connect)

    def connections(self) -> tuple[int, int]:
        """How many connections are used, and how many are free."""
        return self._pool.count()

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        """Send a request and wait for the head of its response.

        ``target`` is the path and query as they shall stand on the wire, below the base URL. The
        ``content-length`` among ``fields`` is that of the body; without one, a body is given its
        own, or sent in chunks if it comes in parts, which cannot be sent again.
        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamNonsense.
        """
        fields = self._fields(fields)
        framing = _framing(fields, body)
        whole, parts = (body, None) if isinstance(body, bytes) else (b"", body)
        start = _head(method, self._prefix + target, [*fields, *framing]) + whole
        chunked = parts is not None and bool(framing)
        request = _Request(start, parts, chunked, method == "HEAD")
        del body, whole  # the answer may be long in coming
        return await self._answer(request)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    async def _answer(self, request: _Request) -> Answer:
        """The answer to ``request``, on a free connection or a new one; raises as call."""
        repeatable = request.parts is None
        used = self._pool.free(KEEP if repeatable else FRESH)
        if used is not None:
            answer = self._send(request, used)
            sent_at = used.loop.time()
            try:
                return await self._begun(answer)
            except UpstreamUnreachable:
                # The upstream closed it while the request was on its way. The API's own SDKs,
                # too, repeat a request of which nothing was heard.
                at_once = used.loop.time() - sent_at < AT_ONCE
                if not (repeatable and answer.untouched and at_once):
                    raise
        with self._connecting():
            new = await self._pool.new()
        return await self._begun(self._send(request, new))

    def _send(self, request: _Request, connection: Connection) -> Answer:
        """Send ``request``; returns the answer to it, of which nothing may have arrived yet."""
        time = self._timeouts
        try:
            start, parts = request.start, request.parts
            if parts is None and len(start) > PART:
                start, parts = start[:PART], _rest(start)
            answer = connection.call(
                start, self.name, time.idle, time.total, bodiless=request.bodiless
            )
            if parts is not None:
                answer.send(parts, time.first_byte, chunked=request.chunked)
        except BaseException:  # or it would stay open, with nobody to use it or to close it
            connection.close()
            raise
        return answer

    async def _begun(self, answer: Answer) -> Answer:
        try:
            await answer.head(self._timeouts.first_byte)
        except BaseException:
            answer.close()
            raise
        return answer

    def _fields(self, fields: Fields) -> Fields:
        credentials = self._credentials
        if credentials.form != "as_is":
            key = credentials.key.reveal().encode() if credentials.key else None
            fields = with_key(fields, credentials.form, key)
        if self._unset:
            fields = [pair for pair in fields if alike(pair[0]) not in self._unset]
        return [self._host, *fields, *self._set]

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """The border: what goes wrong beyond it, in our words.

        They name the upstream as the configuration does, not the host: that is nobody's business.
        """
        try:
            yield
        except TimeoutError as error:
            raise UpstreamTimeout(f"upstream {self.name} did not answer in time") from error
        except UnicodeError as error:  # from idna
            why = "it has a host that is no name"
            raise UpstreamUnreachable(f"upstream {self.name} cannot be reached: {why}") from error
        except OSError as error:
            why = _why(error)
            raise UpstreamUnreachable(f"upstream {self.name} cannot be reached: {why}") from error


def _framing(fields: Fields, body: bytes | AsyncIterator[bytes] | None) -> Fields:
    """What has yet to be said of where ``body`` ends (RFC 9112 §6)."""
    if body is None or b"content-length" in dict(fields):
        return []
    if isinstance(body, bytes):
        return [(b"content-length", str(len(body)).encode())]
    return [(b"transfer-encoding", b"chunked")]


def _head(method: str, target: str, fields: Fields) -> bytes:
    """The head of a request (RFC 9112 §3)."""
    first = f"{method} {target} HTTP/1.1".encode("ascii")
    return b"\r\n".join((first, *map(b": ".join, fields), b"", b""))


async def _rest(request: bytes) -> AsyncIterator[bytes]:
    """All of ``request`` but its first PART bytes, as many at a time."""
    for start in range(PART, len(request), PART):
        yield request[start : start + PART]


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return "no name server answers for its name"
        return "its name is not known"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    return os.strerror(error.errno).lower() if error.errno else "connecting failed"
