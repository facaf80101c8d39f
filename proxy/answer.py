"""The upstream's answer to one call: its head, and its body as it arrives.

An answer is whole only when its framing says so; whatever came before a failure is read before the
failure is told. https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import httptools

from .coding import Decoding, decoding
from .errors import (
    UpstreamBrokeOff,
    UpstreamNonsense,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .fields import LENGTH_DIGITS, Fields, Named, by_name, controls

HEAD_SIZE = 64 << 10
"""The most that may arrive without a part of a body, in bytes: a head with the interim ones before
it, a trailer, what stands beside the size of a chunk. None of it is handed on before it is over."""

UNREAD_SIZE = 64 << 10
"""How much of an answer may wait to be read before its upstream is made to wait, in bytes."""

_LEFT_ALONE = 0.25
"""How long an answer that was left may take to end, in seconds."""

Take = Callable[[bytes], Awaitable[None] | None]
"""Takes a part of a body; returns what to wait for before the next, None for nothing."""

Enough = Callable[[], bool]
"""Says whether no more is wanted."""


class Connection(Protocol):
    """What an answer needs of the connection on which it arrives; see http1."""

    loop: asyncio.AbstractEventLoop

    async def write(self, data: bytes) -> None:
        """Send more of the request."""

    def end(self, answer: Answer, *, reusable: bool) -> None:
        """Be told that the call is over."""

    def pause_reading(self) -> None:
        """Make the upstream wait."""

    def resume_reading(self) -> None:
        """Let it go on."""

    def close(self) -> None:
        """Close it without another word."""


def never() -> bool:
    """When it is enough for one who wants everything."""
    return False


class Answer:
    """The upstream's response: its head, and its body as it arrives, undecoded.

    ``status``, ``fields`` and ``named`` are there once ``head`` has returned. ``idle`` is how long
    the upstream may be silent within its answer, ``total`` how long all of it may take, in seconds.
    """

    __slots__ = (
        "_bodiless",
        "_complete",
        "_connection",
        "_due",
        "_ear",
        "_ends_at",
        "_enough",
        "_error",
        "_framing",
        "_has_head",
        "_idle",
        "_left",
        "_loop",
        "_name",
        "_parser",
        "_parts",
        "_paused",
        "_reusable",
        "_sending",
        "_silent_at",
        "_take",
        "_timer",
        "_unread",
        "_until_closed",
        "_upload",
        "_wait",
        "_waiter",
        "fields",
        "named",
        "received",
        "status",
        "untouched",
    )

    def __init__(
        self, connection: Connection, name: str, idle: float, total: float, *, bodiless: bool
    ) -> None:
        self.status = 0
        self.fields: Fields = []
        self.named: Named = {}
        self.received = 0
        """How much of the body has arrived, as it stands on the wire, in bytes."""
        self.untouched = True
        """Whether nothing at all has arrived yet."""
        self._name = name
        self._idle = idle
        self._bodiless = bodiless
        self._connection = connection
        self._loop = connection.loop
        self._parser: Any = httptools.HttpResponseParser(self)
        self._has_head = False
        self._framing = 0
        """How much has arrived of the head, or since the last part of the body, in bytes."""
        self._until_closed = False
        self._reusable = True
        self._complete = False
        self._error: Exception | None = None
        self._parts: list[bytes] = []
        self._unread = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._silent_at = self._ends_at = self._due = self._loop.time() + total
        """When the silence is too long, when all of it is, and when that is looked at next."""
        self._timer: asyncio.TimerHandle | None = None
        self._upload: asyncio.Task[None] | None = None
        self._sending = False
        """Whether any of the request's body is missing upstream."""
        self._take: Take | None = None
        self._ear: Callable[[bytes], None] | None = None
        self._wait: Awaitable[None] | None = None
        self._enough: Enough = never
        self._left = False

    # For the one who called.

    async def head(self, patience: float) -> None:
        """Wait for the head, for at most ``patience`` seconds in which nothing is sent, either.

        Raises UpstreamTimeout, UpstreamUnreachable, UpstreamNonsense, or what the upload raised.
        """
        self._silent_at = self._loop.time() + patience
        self._wake_at(min(self._silent_at, self._ends_at))
        while not self._has_head:
            await self._news()
        self._silent_at = self._loop.time() + self._idle

    def forget_head(self) -> None:
        """Let go of the fields, once whoever reads the body knows all that they say."""
        self.fields, self.named = [], {}

    async def read(self) -> bytes:
        """The next part of the body, as much as has arrived, or b"" at its end.

        Raises UpstreamTimeout when the upstream was silent for too long and UpstreamBrokeOff when
        the body was cut. A cancelled read loses nothing.
        """
        while not self._parts:
            if self._complete:
                return b""
            await self._news()
        return self._taken()

    async def forward(self, take: Take, enough: Enough = never) -> None:
        """Hand each part of the body to ``take`` at once, until the end or until it is ``enough``.

        That spares each part the waking of a task. While what ``take`` returned is waited for,
        the upstream waits, too. Raises as read does, and what ``take`` raises.
        """
        self._enough = enough
        while True:
            if self._wait is not None:  # the last part is waited for, too
                wait, self._wait = self._wait, None
                await wait
                del wait  # or a coroutine that has ended stays in memory until the next one
            elif enough():
                return
            elif self._parts:
                self._wait = take(self._taken())
            elif self._complete:
                return
            else:
                self._take = take
                try:
                    await self._news()
                finally:
                    self._take = None

    def overhear(self, ear: Callable[[bytes], None]) -> None:
        """Have each part of the body told to ``ear``, too, when it is read."""
        self._ear = ear

    def _taken(self) -> bytes:
        self._silent_at = self._loop.time() + self._idle
        self._framing = 0
        parts, self._parts, self._unread = self._parts, [], 0
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._ear is not None:
            self._ear(taken)
        return taken

    async def read_all(self, limit: int) -> bytes:
        """The whole body, decoded; raises UpstreamNonsense when it passes ``limit`` bytes.

        Raises as read and what decodes it do, too.
        """
        decode = self.decoding()
        body = bytearray()  # a list of its parts would take fifty bytes more for each
        while part := await self.read():
            for piece in (part,) if decode is None else decode(part):
                body += piece
                if len(body) > limit:
                    raise UpstreamNonsense(f"upstream's answer is larger than {limit} bytes")
                if decode is not None:  # a part may have very many, and others want their turn
                    await asyncio.sleep(0)
        if decode is not None:
            decode.end()
        return bytes(body)

    def decoding(self) -> Decoding | None:
        """What decodes the body, part by part, None if it is plain; raises UpstreamNonsense."""
        return decoding(b", ".join(self.named.get(b"content-encoding", ())))

    def leave(self) -> None:
        """Wait for nothing more; the call ends with its answer, or a little later without that.

        Often only the framing's end is missing, and then the connection can be used on.
        """
        if self._complete or self._error is not None or self._sending:
            self.close()
            return
        self._stop_timer()
        self._drop_wait()
        self._timer = self._loop.call_later(_LEFT_ALONE, self.close)
        self._left = True
        self._take = _let_go
        if self._parts:
            self._taken()

    def close(self) -> None:
        """End the call; the connection is kept if question and answer are both over."""
        self._stop_timer()
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None  # what it is cancelled with holds us, too
        if self._paused:  # with parts that nobody wanted; the next call will want its own
            self._connection.resume_reading()
        self._drop_wait()
        reusable = self._complete and self._reusable and not self._sending
        self._connection.end(self, reusable=reusable)
        # They hold us, and would wait for the garbage collector.
        self._parser = self._error = None
        self._enough = never

    def _drop_wait(self) -> None:
        if inspect.iscoroutine(self._wait):
            self._wait.close()  # or it would complain that nobody waited for it

    def send(self, body: AsyncIterator[bytes], patience: float, *, chunked: bool) -> None:
        """Send the body of the request as it comes, during which the answer may already begin.

        Each part gives the upstream ``patience`` seconds again. What ``body`` raises, the reader
        of the answer gets to see.
        """
        self._sending = True
        self._upload = self._loop.create_task(self._send(body, patience, chunked=chunked))

    async def _send(self, body: AsyncIterator[bytes], patience: float, *, chunked: bool) -> None:
        connection = self._connection
        try:
            async for part in body:
                await connection.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                wait = self._idle if self._has_head else patience
                self._silent_at = self._loop.time() + wait
            if chunked:
                await connection.write(b"0\r\n\r\n")
            self._sending = False
        except Exception as error:  # noqa: BLE001  (whatever it is, the reader gets to see it)
            self._fail(error)

    def _news(self) -> Awaitable[None]:
        """What is done when something has changed; raises what has gone wrong."""
        if self._error is not None:
            raise self._error
        if self._silent_at < self._due:
            self._wake_at(self._silent_at)
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake_at(self, due: float) -> None:
        """One timer for all waits: most are so short that one for each would cost more."""
        self._stop_timer()
        self._due = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._ends_at:
            self._outlast()
        elif self._waiter is None or self._waiter.done():  # the next may want to be woken sooner
            self._wake_at(self._ends_at)
        elif now >= self._silent_at:
            self._fail(UpstreamTimeout(f"upstream {self._name} did not answer in time"))
        else:
            self._wake_at(min(self._silent_at, self._ends_at))

    def _outlast(self) -> None:
        """Hear no more of an answer that has no end; what has arrived is still read."""
        if not self._complete:
            self._fail(UpstreamTimeout(f"upstream {self._name} did not finish in time"))
            self._connection.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self._complete:
            self._error = error
            self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self._left and (self._complete or self._error is not None):
            self.close()

    # For the connection.

    def greeted(self, data: bytes) -> None:
        """Take what came from the wire before anything was asked: the answer is yet to come."""
        self._reusable = False
        self.arrived(data)

    def arrived(self, data: bytes) -> None:
        """Take what came from the wire."""
        self.untouched = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reusable = False
            self._fail(UpstreamNonsense(f"upstream {self._name} did not answer in HTTP"))
        except Exception as error:  # noqa: BLE001  (what comes behind the hole is no answer)
            self._reusable = False
            self._fail(error)
        if self._parts:
            if self._take is not None:
                self._hand_over(self._take)
                return
            self._keep(len(data))
        else:
            self._framing += len(data)
            if self._framing > HEAD_SIZE:
                self._fail(UpstreamNonsense(f"upstream {self._name} sent {self._excess}"))
        self._tell()

    def _keep(self, size: int) -> None:
        """Let what has arrived wait, and the upstream, too, once that is much."""
        self._unread += size
        if self._unread > UNREAD_SIZE and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    @property
    def _excess(self) -> str:
        return "too much beside its answer" if self._has_head else "too large a head"

    def _hand_over(self, take: Take) -> None:
        try:
            self._wait = take(self._taken())
        except Exception as error:  # noqa: BLE001  (forward raises it, whatever else it finds)
            self._wait = _raised(error)
        if self._wait or self._complete or self._error or self._enough():
            self._take = None  # until forward has seen to it
            self._tell()

    def lost(self, *, clean: bool) -> None:
        """The connection is gone; ``clean`` says that the upstream itself ended it."""
        self._reusable = False
        if self._until_closed and clean:
            self._complete = self._error is None
        elif self._has_head:
            self._fail(UpstreamBrokeOff(f"upstream {self._name} broke off its answer"))
        else:
            self._fail(UpstreamUnreachable(f"upstream {self._name} closed the connection"))
        self._tell()

    # For the parser.

    def on_message_begin(self) -> None:
        if self._has_head:  # nobody asked for a second answer
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # what comes later is a trailer
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._has_head:
            return
        if 100 <= status < 200 and status != 101:  # noqa: PLR2004  (interim, RFC 9110 §15.2)
            self.fields.clear()
        elif not 200 <= status <= 599:  # noqa: PLR2004
            self._fail(UpstreamNonsense(f"upstream answered with status {status}"))
        elif controls(self.fields):
            self._fail(UpstreamNonsense("upstream sent a control character in its header"))
        else:
            self._begin(status)

    def on_body(self, part: bytes) -> None:
        if self._has_head and not self._complete:  # nobody asked for more
            self._parts.append(part)
            self.received += len(part)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete:
            self._reusable &= self._parser.should_keep_alive()
            self._complete = self._error is None

    def _begin(self, status: int) -> None:
        self.named = by_name(self.fields)
        codings = self.named.get(b"transfer-encoding")
        # The parser, too, takes blanks off (RFC 9110 §5.5), but with a tab it reads no chunks.
        if codings and [coding.strip(b" ").lower() for coding in codings] != [b"chunked"]:
            self._fail(UpstreamNonsense("upstream sent a transfer-encoding that nobody asked for"))
            return
        length = self.named.get(b"content-length")
        if length and len(length[0]) > LENGTH_DIGITS:
            self._fail(UpstreamNonsense("upstream sent a content-length with too many digits"))
            return
        self.status = status
        self._has_head = True
        if self._bodiless or status in (204, 304):
            self._reusable = False  # some servers send a body, perhaps behind the next request
            self.on_message_complete()
        else:  # RFC 9112 §6.3
            framed = b"content-length" in self.named or b"transfer-encoding" in self.named
            if codings and self._parser.get_http_version() == "1.0":
                self._reusable = False  # it knew no chunks, so who passed them on did not either
            self._until_closed = not framed


async def _raised(error: Exception) -> None:
    raise error


def _let_go(_: bytes) -> None:
    """Take a part that nobody wants."""
