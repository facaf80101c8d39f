"""The client's side of one exchange: it alone calls ASGI's ``receive`` and ``send``.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ..core.errors import ProxyError, RequestTooLarge
from ..core.fields import Fields, by_name, has_body
from .extensions import CONNECTION, EMPTY_QUERY, FOLLOWED, ClientLeft, Connection, Gone

IN_A_TURN = 256 << 10
"""How much write_all writes in one turn of the event loop, in bytes: a client that reads fast never
makes it wait, and each of many events may repeat a long text."""

MUCH = 4 << 10
"""How much may pass through before others have a turn, in bytes. In one turn of its own uvloop
reads up to 32 times 256 KiB, which may be a million chunks of the body."""

MOST_APART = 4000
"""How many parts that arrived together pass through in chunks of their own. If a read of 256 KiB
has more, they are too small to be events, and to frame each would take as long as to read it."""

BLOCK = 64 << 10
"""The size up to which events are written together, in bytes. Those of one chunk of 64 KiB can be
25 MB: together, they would all be in memory at once; one by one, each would cost a system call."""

Block = Sequence[bytes]
"""Events that are written together."""

_NOTHING: Iterator[bytes] = iter(())


class Client:
    """The client of one exchange."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_connection",
        "_expects",
        "_gone",
        "_loop",
        "_on_gone",
        "_ping",
        "_receive",
        "_send",
        "announced",
        "bytes_received",
        "bytes_sent",
        "complete",
        "ending",
        "fields",
        "has_body",
        "last_write",
        "method",
        "named",
        "path",
        "query",
        "started",
        "unwritten",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions", {})
        self._connection: Connection | None = extensions.get(CONNECTION)
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes | None = scope["query_string"] or (
            b"" if EMPTY_QUERY in extensions else None
        )
        """What follows the question mark; None where there is none (RFC 3986 §6.2.3)."""
        self.fields: Fields = scope["headers"]
        self.named = by_name(self.fields)
        self.has_body = has_body(self.named)
        """Whether the request announces a body (RFC 9112 §6)."""
        self.announced = int(self.named.get(b"content-length", (0,))[0])
        """Its content-length in bytes; 0 where it has none."""
        self.started = False
        """Whether the head of the response was sent, so that the status can no longer change."""
        self.ending = False
        """Whether all of the response was sent but its end."""
        self.complete = False
        """Whether all of the response was sent."""
        self.unwritten = _NOTHING
        """What write_all has still to write; after an interruption it is still owed."""
        self.bytes_received = 0
        """Of the request's body, as far as it was read."""
        self.bytes_sent = 0
        self.last_write = 0.0
        """When something was last sent, by the event loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._ping: asyncio.Task[None] | None = None
        """Sends a ping, once the client takes more."""
        self._gone: Gone | None = None
        self._on_gone: Callable[[Gone], None] | None = None
        self._asked = False
        """Whether the body was asked for, upon which our server sends any 100 Continue."""
        self._expects = b"expect" in self.named
        self._receive = receive
        self._send = send

    @property
    def behind(self) -> bool:
        """Whether something is still to be written, once the client takes more."""
        ping_waits = self._ping is not None and not self._ping.done()
        return ping_waits or self.unwritten is not _NOTHING

    def forget_head(self) -> None:
        """Free the request's fields, which a long stream would keep in memory."""
        self.fields.clear()  # not only our reference: the server has the same list
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

        Raises ClientLeft, also for a body that is cut, or the ProxyError for which it was.
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

    def when_left(self, call: Callable[[Gone], None]) -> None:
        """Make this ``call`` if the client is gone before all was sent; see Connection."""
        self._on_gone = call
        if self._connection is not None:
            self._connection.when_left(self._set_gone)

    @property
    def gone(self) -> bool:
        """Whether nobody takes the response any more."""
        return self._gone is not None

    def _set_gone(self, how: Gone) -> None:
        self._gone = how
        if not self.complete and self._on_gone is not None:
            self._on_gone(how)

    async def start(self, status: int, fields: Fields, *, followed: bool = False) -> None:
        """Send the head of the response.

        ``followed`` promises that a part of the body is sent next, without waiting for anything in
        between: the server may keep the head back until then.
        """
        message = {"type": "http.response.start", "status": status, "headers": fields}
        await self._send({**message, FOLLOWED: followed})
        self.started = True

    def write(self, parts: Sequence[bytes]) -> Coroutine[Any, Any, None] | None:
        """Send parts of the body, as write_all does; returns what to await before the next.

        None stands for nothing.
        """
        if len(parts) > MOST_APART:
            parts = (b"".join(parts),)
        before = self.bytes_sent
        if self._write_at_once(parts):
            return asyncio.sleep(0) if self.bytes_sent - before > MUCH else None
        return self._write(parts[0]) if len(parts) == 1 else self._write_rest(parts, iter(()))

    def write_all(self, events: Iterable[bytes]) -> Coroutine[Any, Any, None] | None:
        """Send events, each as a part of the body of its own; returns as write.

        Some programs of 2023 take each part that they read for exactly one event. The events of a
        block are made once the block before was sent.
        """
        rest = _blocks(events)
        enough = self.bytes_sent + IN_A_TURN
        for block in rest:
            late = None if self._write_at_once(block) else block
            if late is not None or self.bytes_sent > enough:
                self._owe(late, rest)  # now: the coroutine may never be started
                return self._write_rest(late, rest)
        return None

    def ping(self, data: bytes) -> None:
        """Send ``data`` once the client takes more, unless something else is sent before that."""
        if not self._write_at_once((data,)):
            self._ping = self._loop.create_task(self._write(data))

    def drop_ping(self) -> None:
        """Do not send the ping that still waits, if there is one."""
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None

    def _write_at_once(self, parts: Sequence[bytes]) -> bool:
        if self._ping is not None:  # it would come after this, which may be the end of a stream
            self.drop_ping()
        self.bytes_sent += sum(map(len, parts))
        self.last_write = self._loop.time()
        return self._connection is not None and self._connection.write(parts)

    async def _write(self, data: bytes) -> None:
        await self._send(_part(data))

    async def _write_rest(self, late: Block | None, rest: Iterator[Block]) -> None:
        """Send ``late``, which could not be written at once, and the rest, each in its own turn."""
        if late is not None:
            await self._write_late(late, rest)
        await asyncio.sleep(0)
        for block in rest:
            if not self._write_at_once(block):
                await self._write_late(block, rest)
            await asyncio.sleep(0)
        self.unwritten = _NOTHING

    async def _write_late(self, block: Block, rest: Iterator[Block]) -> None:
        while block:
            self._owe(block, rest)
            await self._send(_part(block[0]))
            block = block[1:]
            if block and self._connection is not None and self._connection.write(block):
                break
        self._owe(None, rest)

    def _owe(self, late: Block | None, rest: Iterator[Block]) -> None:
        self.unwritten = chain.from_iterable(rest if late is None else chain((late,), rest))

    async def end(self) -> None:
        """Send the end of the body. Without this the client can tell that it was cut."""
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
        if self.method != "HEAD":  # or our server sends the head alone
            self.bytes_sent += len(body)
        self.ending = True  # but not complete: the client may leave before it has taken all
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.complete = True

    async def refuse(self, error: ProxyError, fields: Fields) -> None:
        """Answer with an error."""
        fields = [*fields, *error.headers]
        if not self._asked and self._expects:
            # Its body may still come or not (RFC 9110 §10.1.1), so nobody knows what comes next.
            fields.append((b"connection", b"close"))
        await self.answer(error.status, fields, error.body())


def _blocks(events: Iterable[bytes]) -> Iterator[Block]:
    """The events in blocks of up to BLOCK bytes; an error waits until they were returned."""
    block: list[bytes] = []
    size = 0
    failed: ProxyError | None = None
    try:
        for event in events:
            if block and size + len(event) > BLOCK:
                yield block
                block = []
                size = 0
            if not block and len(event) > BLOCK // 2:
                yield (event,)
                continue
            block.append(event)
            size += len(event)
    except ProxyError as error:
        failed = error
    if block:
        yield block
    if failed is not None:
        raise failed


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
