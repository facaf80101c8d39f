"""The client's side of one exchange: it alone reads ``receive`` and calls ``send``.

That the client has left it hears from our server at once, by an extension; a task of its own that
waits for the message of the standard would cost every exchange as much as the exchange itself.
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from .errors import ProxyError, RequestError, RequestTooLarge
from .fields import Fields, by_name, has_body

CONNECTION = "anthropic-version-proxy"
"""The extension in the scope under which our server offers a Connection."""

EMPTY_QUERY = "anthropic-version-proxy.empty-query"
"""The extension in the scope of a request whose target ends in its question mark: the standard
cannot tell it from one without a query."""

FOLLOWED = "anthropic-version-proxy.followed"
"""What is true in the message that begins a response if a part of its body comes with it, so that
our server may send both at once."""

IN_A_TURN = 256 << 10
"""How much is written at a time, in bytes, before others have their turn: a client that takes as
fast as it is sent never makes anyone wait, and each of many events may repeat a long text."""

MUCH = 4 << 10
"""The same where it passes as it came. uvloop reads 256 KiB at a time and up to 32 times in a turn:
there may be a million chunks in that, and more than this is left of many."""


class ClientLeft(Exception):
    """The client closed its connection. No error: old SDKs do so once they saw the stop."""


class ClientStalled(ClientLeft):
    """The client took nothing for too long, and was left."""


_NOTHING: Iterator[bytes] = iter(())

Gone = ClientLeft | RequestError
"""Why there is nobody to answer any more."""


class Connection(Protocol):
    """What our server knows of a client, and the standard has no word for."""

    def when_left(self, tell: Callable[[Gone], None]) -> None:
        """Call ``tell`` when the client is gone, at once if it is already.

        A RequestError says that it still is there, and that its request will never be whole; it
        has its answer to that, unless the response has begun.
        """

    def write(self, data: bytes) -> bool:
        """Write a part of the body, if that can be done at once; says whether it was."""


class Client:
    """The client of one exchange."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions", {})
        self._connection: Connection | None = extensions.get(CONNECTION)
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes | None = scope["query_string"] or (
            b"" if EMPTY_QUERY in extensions else None
        )
        """What stands behind the question mark, None without one (RFC 3986 §6.2.3)."""
        self.fields: Fields = scope["headers"]
        self.named = by_name(self.fields)
        self.has_body = has_body(self.named)
        """Whether the request announces a body (RFC 9112 §6)."""
        self.announced = int(self.named.get(b"content-length", (0,))[0])
        """The length that the body is said to have, in bytes; 0 where none is said."""
        self.started = False
        """Whether the head of the response is out, so that the status can no longer change."""
        self.ending = False
        """Whether all but the end of the response is out."""
        self.complete = False
        """Whether the whole response is out."""
        self.unwritten = _NOTHING
        """What write_all was still to write when waiting for the client was interrupted."""
        self.bytes_received = 0
        """How much of the request's body has arrived."""
        self.bytes_sent = 0
        self.last_write = 0.0
        """When something was last sent, by the event loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._gone: Gone | None = None
        self._tell: Callable[[Gone], None] | None = None
        self._asked = False
        """Whether the body was asked for, and so whether a client that waits was told to go on."""
        self._expects = b"expect" in self.named
        self._receive = receive
        self._send = send

    @property
    def behind(self) -> bool:
        """Whether write_all is still to write something, for which it waits for the client."""
        return self.unwritten is not _NOTHING

    def forget_head(self) -> None:
        """Let go of the request's fields: a stream that is open for long has no use for them."""
        self.fields.clear()  # the server holds them, too
        self.named = {}

    async def body(self, limit: int) -> bytes:
        """The whole request body; raises RequestTooLarge, and what upload raises."""
        if self.announced > limit:
            raise RequestTooLarge(f"the request body is larger than {limit} bytes")
        body = bytearray()  # a list of its parts would take fifty bytes more for each
        async for part in self.upload():
            if self.bytes_received > limit:
                raise RequestTooLarge(f"the request body is larger than {limit} bytes")
            body += part
        return bytes(body)

    async def upload(self) -> AsyncIterator[bytes]:
        """The request body as it arrives.

        Raises ClientLeft, also for a body that is cut, or the RequestError for which it was.
        """
        self._asked = True
        missing = self.announced
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise self._gone or ClientLeft()
            if part := message.get("body", b""):
                missing -= len(part)
                self.bytes_received += len(part)
                yield part
            more = message.get("more_body", False)
        if missing > 0:  # or what follows would be taken for the rest of it upstream
            raise ClientLeft

    def when_left(self, tell: Callable[[Gone], None]) -> None:
        """Have it told if the client leaves before the response is complete; see Connection."""
        self._tell = tell
        if self._connection is not None:
            self._connection.when_left(self._left)

    @property
    def gone(self) -> bool:
        """Whether nobody takes the response any more."""
        return self._gone is not None

    def _left(self, how: Gone) -> None:
        self._gone = how
        if not self.complete and self._tell is not None:
            self._tell(how)

    async def start(self, status: int, fields: Fields, *, followed: bool = False) -> None:
        """Send the head of the response; ``followed`` says that a part of the body comes next.

        Without waiting for anything in between, that is: until then it may not be on its way.
        """
        message = {"type": "http.response.start", "status": status, "headers": fields}
        await self._send({**message, FOLLOWED: followed})
        self.started = True

    def write(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """Send a part of the body; returns what to wait for before the next, None for nothing."""
        if not self._write_at_once(data):
            return self._write(data)
        return asyncio.sleep(0) if len(data) > MUCH else None

    def write_all(self, blocks: Iterable[bytes]) -> Coroutine[Any, Any, None] | None:
        """Send parts of the body, each made when the one before it is sent; returns as write."""
        rest = iter(blocks)
        enough = self.bytes_sent + IN_A_TURN
        for block in rest:
            if not self._write_at_once(block):
                self.unwritten = chain((block,), rest)  # now, for waiting may never begin
                return self._write_rest(block, rest)
            if self.bytes_sent > enough:
                self.unwritten = rest
                return self._write_rest(None, rest)
        return None

    def _write_at_once(self, data: bytes) -> bool:
        self.bytes_sent += len(data)
        self.last_write = self._loop.time()
        return self._connection is not None and self._connection.write(data)

    async def _write(self, data: bytes) -> None:
        await self._send(_part(data))

    async def _write_rest(self, block: bytes | None, rest: Iterator[bytes]) -> None:
        """Send ``block`` and the rest, and let others go first behind each."""
        if block is not None:
            await self._send(_part(block))
            self.unwritten = rest
        await asyncio.sleep(0)
        for further in rest:
            if not self._write_at_once(further):
                self.unwritten = chain((further,), rest)
                await self._send(_part(further))
                self.unwritten = rest
            await asyncio.sleep(0)
        self.unwritten = _NOTHING

    async def end(self) -> None:
        """Say that the body is complete. Without this it is cut, and the client can tell."""
        self.ending = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.complete = True

    async def answer(self, status: int, fields: Fields, body: bytes) -> None:
        """Send a whole response, with a body of JSON."""
        framing = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.start(status, [*fields, *framing], followed=True)
        self.bytes_sent += len(body)
        self.ending = True  # who leaves while it waits for the client has not had all of it
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.complete = True

    async def refuse(self, error: ProxyError, fields: Fields) -> None:
        """Answer with an error."""
        fields = [*fields, *error.headers]
        if not self._asked and self._expects:
            # Its body may come or not (RFC 9110 §10.1.1): what follows cannot be told apart.
            fields.append((b"connection", b"close"))
        await self.answer(error.status, fields, error.body())


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
