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
from urllib.parse import urlsplit

from .. import config
from ..core.errors import UpstreamTimeout, UpstreamUnreachable
from ..core.fields import Fields, alike, with_key
from .answer import Answer
from .http1 import Connection
from .pool import KEEP, Pool
from .request import Request, framed

FRESH = 1.0
"""Seconds that a connection may have been free for a body that cannot be sent again. Upstreams
close those that were free for longer, and may be about to."""

AT_ONCE = 1.0
"""Seconds within which a connection is lost that was closed while the request was on its way. One
that is lost later may have been lost by an upstream that was at work on the request."""


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
        request = framed(method, self._prefix + target, self._fields(fields), body)
        del body  # the answer may be long in coming
        return await self._answer(request)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    async def _answer(self, request: Request) -> Answer:
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

    def _send(self, request: Request, connection: Connection) -> Answer:
        """Send ``request``; returns the answer to it, of which nothing may have arrived yet."""
        time = self._timeouts
        try:
            first, rest = request.in_parts()
            answer = connection.call(
                first, self.name, time.idle, time.total, bodiless=request.bodiless
            )
            if rest is not None:
                answer.send(rest, time.first_byte)
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
        except (OSError, UnicodeError) as error:
            # Of a failed handshake asyncio leaves a reference cycle, by which its traceback would
            # keep in memory what TLS has buffered, and by frames of ours the whole request.
            error.__traceback__ = None
            raise self._failed(error) from error

    def _failed(self, error: OSError | UnicodeError) -> UpstreamTimeout | UpstreamUnreachable:
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(f"upstream {self.name} did not answer in time")
        why = _why(error) if isinstance(error, OSError) else "it has a host that is no name"
        return UpstreamUnreachable(f"upstream {self.name} cannot be reached: {why}")


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return "no name server answers for its name"
        return "its name is not known"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    return os.strerror(error.errno).lower() if error.errno else "connecting failed"
