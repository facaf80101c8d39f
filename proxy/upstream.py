"""The only file that sends, and the one border where foreign errors become ours.

A call goes out as it is given: raw target, raw fields, raw body. No cookies are kept, no redirect
is followed, nothing is taken from the environment and nothing is decoded. Where it goes is the
configuration's business alone.

aiohttp rather than httpx underneath: its pool survives cancelled calls, which an old SDK makes of
every stream, and a call costs it a fraction of the processor time.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from . import config
from .coding import Decode, decoding
from .errors import (
    InvalidRequest,
    UpstreamBrokeOff,
    UpstreamNonsense,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .fields import Fields, values, with_key, without

_NOT_ADDED = ("accept", "accept-encoding", "content-type", "user-agent")
"""Fields that the HTTP library would add by itself."""

_FIELD_SIZE = 64 << 10
_DRAIN = 0.25
"""How long the rest of a finished answer is waited for, in seconds, to keep its connection."""


class Answer:
    """The upstream's response: its head, and its body as it arrives, undecoded."""

    def __init__(self, name: str, response: aiohttp.ClientResponse, idle: float) -> None:
        self.status = response.status
        self.fields: Fields = list(response.raw_headers)
        self._name = name
        self._response = response
        self._idle = idle
        self._silent_at = self._in(idle)

    async def read(self) -> bytes:
        """The next part of the body as it arrived, b"" at its end.

        Raises UpstreamTimeout when the upstream was silent for too long and UpstreamBrokeOff when
        the body was cut, but not before what had arrived was read. A cancelled read loses nothing.
        """
        body = self._response.content
        with _foreign_errors(self._name):
            if body.exception() is not None and (arrived := body._read_nowait(-1)):  # noqa: SLF001
                return arrived  # which readany would keep to itself
            async with asyncio.timeout_at(self._silent_at):
                part = await body.readany()
        self._silent_at = self._in(self._idle)
        return part

    async def read_all(self, limit: int) -> bytes:
        """The whole body, decoded; raises UpstreamNonsense when it passes ``limit`` bytes."""
        decode = self.decoding()
        parts: list[bytes] = []
        size = 0
        while part := await self.read():
            for piece in decode(part):
                size += len(piece)
                if size > limit:
                    raise UpstreamNonsense(f"upstream's answer is larger than {limit} bytes")
                parts.append(piece)
        return b"".join(parts)

    def decoding(self) -> Decode:
        """What decodes the body, part by part; raises UpstreamNonsense."""
        return decoding(b", ".join(values(self.fields, b"content-encoding")))

    async def drain(self) -> None:
        """Read out what little follows a complete answer, so that its connection can be used on."""
        try:
            async with asyncio.timeout(_DRAIN):
                while await self._response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            return

    def close(self) -> None:
        """End the call; a connection whose answer was not read to its end is closed."""
        self._response.close()

    @staticmethod
    def _in(seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds


class _AsItIs(aiohttp.ClientRequest):
    """A request without a body is sent without a word about one, whatever its method."""

    GET_METHODS = aiohttp.ClientRequest.ALL_METHODS


class Upstream:
    """One API to call, with its connections; made and used within one event loop."""

    def __init__(self, settings: config.Upstream) -> None:
        base = URL(settings.base_url, encoded=True)
        self.name = settings.name
        self._settings = settings
        self._scheme = base.scheme
        self._authority = base.raw_authority
        self._prefix = base.raw_path.rstrip("/")
        self._set = [
            (name.encode(), value.reveal().encode()) for name, value in settings.set_headers
        ]
        self._replaced = [name for name, _ in self._set]
        self._removed = [name.encode() for name in settings.remove_headers]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # exchanges are bounded at the door
            request_class=_AsItIs,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_NOT_ADDED,
            trust_env=False,
            max_line_size=_FIELD_SIZE,
            max_field_size=_FIELD_SIZE,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.timeouts.connect, sock_read=None
            ),
        )

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        """Send a request and wait for the head of its response.

        ``target`` is the path and query as they shall stand on the wire, below the base URL.
        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamNonsense.
        """
        wait = _HeadWait(self._settings.timeouts.first_byte)
        url = URL.build(  # the target as the path: so not a byte of it is interpreted
            scheme=self._scheme,
            authority=self._authority,
            path=self._prefix + target,
            encoded=True,
        )
        with _foreign_errors(self.name):
            async with wait.begun():
                sent = body if body is None or isinstance(body, bytes) else wait.during(body)
                response = await self._session.request(
                    method, url, headers=self._fields(fields), data=sent, allow_redirects=False
                )
        return Answer(self.name, _checked(response), self._settings.timeouts.idle)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _fields(self, fields: Fields) -> CIMultiDict[str]:
        credentials = self._settings.credentials
        key = credentials.key.reveal().encode() if credentials.key else None
        kept = without(with_key(fields, credentials.form, key), *self._removed, *self._replaced)
        try:
            return CIMultiDict(
                (name.decode("ascii"), value.decode()) for name, value in (*kept, *self._set)
            )
        except UnicodeDecodeError as error:
            raise InvalidRequest("a header field is neither ASCII nor UTF-8") from error


class _HeadWait:
    """How long a head is waited for; each part of an upload gives the upstream its time again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: asyncio.Timeout | None = None

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """Wait at most so long; raises TimeoutError."""
        async with asyncio.timeout(self._seconds) as deadline:
            self._deadline = deadline
            try:
                yield
            finally:
                self._deadline = None

    async def during(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The upload, which may go on after the head has come."""
        async for part in body:
            yield part
            if self._deadline is not None and not self._deadline.expired():
                now = asyncio.get_running_loop().time()
                self._deadline.reschedule(now + self._seconds)


def _checked(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """Let a head through that a client can be sent; raises UpstreamNonsense."""
    if not 200 <= response.status <= 599:  # noqa: PLR2004
        response.close()
        raise UpstreamNonsense(f"upstream answered with status {response.status}")
    if any(_CONTROL.search(value) for _, value in response.raw_headers):
        response.close()
        raise UpstreamNonsense("upstream sent a control character in its header")
    return response


_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@contextmanager
def _foreign_errors(name: str) -> Iterator[None]:
    """The border: what goes wrong beyond it, in our words.

    They name the upstream as the configuration does, not the host: that is nobody's business.
    """
    try:
        yield
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise UpstreamTimeout(f"upstream {name} did not answer in time") from error
    except aiohttp.ClientPayloadError as error:
        raise UpstreamBrokeOff(f"upstream {name} broke off its answer") from error
    except aiohttp.ClientConnectorError as error:
        raise UpstreamUnreachable(f"upstream {name} cannot be reached: {_why(error)}") from error
    except aiohttp.ClientResponseError as error:
        raise UpstreamNonsense(f"upstream {name} did not answer in HTTP") from error
    except UnicodeError as error:  # from idna
        raise UpstreamUnreachable(f"upstream {name} has a host that is no name") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamUnreachable(f"upstream {name} closed the connection") from error


def _why(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS failed"
    return os.strerror(error.errno).lower() if error.errno else "connecting failed"
