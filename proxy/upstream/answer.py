"""The upstream's answer to one call, for whoever waits for it.

All that came before a failure can be read before the failure is raised. What is not read makes the
upstream wait, and no wait is without end.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from ..core.errors import UpstreamNonsense, UpstreamTimeout
from ..runtime.alarm import Alarm
from .response import Response

UNREAD_SIZE = 64 << 10
"""How much of an answer may wait to be read before reading from its upstream stops, in bytes."""

CLOSE_SOON = 0.25
"""Seconds that an answer of which nothing more is wanted may take to end by itself."""

Take = Callable[[Sequence[bytes]], Awaitable[None] | None]
"""Takes parts of a body; returns what to wait for before the next, None for nothing."""

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


def joined(parts: Sequence[bytes]) -> bytes:
    """``parts`` as one; the only one, as there mostly is, is not copied."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def never() -> bool:
    """The Enough of one who wants everything."""
    return False


class Answer(Response):
    """The upstream's response to one call: its head, and its body as it arrives, undecoded.

    ``status``, ``fields`` and ``named`` are there once ``head`` has returned. ``idle`` is how long
    the upstream may be silent within its answer, ``total`` how long all of it may take, in seconds.
    """

    __slots__ = (
        "_alarm",
        "_closes_soon",
        "_connection",
        "_enough",
        "_idle",
        "_loop",
        "_paused",
        "_sending",
        "_silence_due",
        "_take",
        "_tap",
        "_total_due",
        "_unread",
        "_upload",
        "_wait",
        "_waiter",
        "untouched",
    )

    def __init__(
        self, connection: Connection, name: str, idle: float, total: float, *, bodiless: bool
    ) -> None:
        super().__init__(name, bodiless=bodiless)
        self.untouched = True
        """Whether nothing at all has arrived yet."""
        self._idle = idle
        self._connection = connection
        self._loop = connection.loop

        self._upload: asyncio.Task[None] | None = None
        self._sending = False
        """Whether some of the request is still to be sent."""

        self._unread = 0
        """How much has arrived together with the parts that nobody has taken yet, in bytes."""
        self._paused = False
        """Whether the upstream is made to wait until they are."""
        self._take: Take | None = None
        """Takes the next part as it arrives, while forward waits for one."""
        self._enough: Enough = never
        self._wait: Awaitable[None] | None = None
        """What the last take returned, for forward to await."""
        self._tap: Callable[[bytes], None] | None = None
        self._closes_soon = False

        self._waiter: asyncio.Future[None] | None = None
        """What the reader waits for: any change of the above."""
        self._silence_due = self._total_due = self._loop.time() + total
        self._alarm = Alarm(self._loop, self._expire)
        """For the first of the two while the reader waits, else for the second."""

    # For the caller.

    def send(self, parts: AsyncIterator[bytes], patience: float) -> None:
        """Send ``parts``, the rest of the request, as they come; the answer may already begin.

        With each the upstream has ``patience`` seconds anew. What ``parts`` raises is raised to the
        reader of the answer.
        """
        self._sending = True
        self._upload = self._loop.create_task(self._send(parts, patience))

    async def _send(self, parts: AsyncIterator[bytes], patience: float) -> None:
        try:
            async for part in parts:
                await self._connection.write(part)
                del part  # the next may be long in coming
                wait = self._idle if self._has_head else patience
                self._silence_due = self._loop.time() + wait
            self._sending = False
        except Exception as error:  # noqa: BLE001  (raised to the reader of the answer)
            self._fail(error)

    async def head(self, patience: float) -> None:
        """Wait for the head, at most ``patience`` seconds, begun anew with each part that is sent.

        Raises UpstreamTimeout, UpstreamUnreachable, UpstreamNonsense, or what the upload raised.
        """
        self._silence_due = self._loop.time() + patience
        self._alarm.due = min(self._silence_due, self._total_due)
        self._alarm.arm()
        while not self._has_head:
            await self._change()
        self._silence_due = self._loop.time() + self._idle

    async def read(self) -> bytes:
        """The next part of the body, as much as has arrived, or b"" at its end.

        Raises UpstreamTimeout when the upstream was silent for too long and UpstreamBrokeOff when
        the body was cut. A cancelled read loses nothing.
        """
        while not self._parts:
            if self._complete:
                return b""
            await self._change()
        return joined(self._taken())

    async def forward(self, take: Take, enough: Enough = never) -> None:
        """Call ``take`` with the parts as they arrive, until the end or until it is ``enough``.

        That saves waking a task for each. A part holds no more than one chunk of a chunked body.
        While what ``take`` returned is awaited, parts are kept, and the upstream waits once they
        are many. Raises as read does, and what ``take`` raises.
        """
        self._enough = enough
        while True:
            if self._wait is not None:  # even after the last part
                wait, self._wait = self._wait, None
                await wait
                del wait  # frees the coroutine before the next part, which may take long to come
            elif enough():
                return
            elif self._parts:
                self._wait = take(self._taken())
            elif self._complete:
                return
            else:
                self._take = take
                try:
                    await self._change()
                finally:
                    self._take = None

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
                if decode is not None:  # a part may unpack to very many: others get a turn
                    await asyncio.sleep(0)
        if decode is not None:
            decode.end()
        return bytes(body)

    def tap(self, tap: Callable[[bytes], None]) -> None:
        """Have ``tap`` called with all that is read of the body, too, when it is read."""
        self._tap = tap

    def close_soon(self) -> None:
        """End the call once the answer is complete, or after CLOSE_SOON seconds.

        Often only the end of the framing is missing, and then the connection can be kept.
        """
        if self._over or self._sending:
            self.close()
            return
        self._drop_wait()
        self._closes_soon = True
        self._alarm.due = self._loop.time() + CLOSE_SOON
        self._alarm.arm()
        self._take = _discard
        if self._parts:
            self._taken()

    def close(self) -> None:
        """End the call; the connection is kept if request and answer are both complete."""
        self._alarm.stop()
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None  # the traceback of its CancelledError refers to us
        if self._paused:  # the parts kept are of no use, the next call's will be
            self._connection.resume_reading()
        self._drop_wait()
        reusable = self._complete and self._reusable and not self._sending
        self._connection.end(self, reusable=reusable)
        # These refer to us: reference cycles, which only the garbage collector would free.
        self._parser = self._error = None
        self._enough = never

    def _drop_wait(self) -> None:
        if inspect.iscoroutine(self._wait):
            self._wait.close()  # or Python warns that it was never awaited

    # For the connection.

    def greeted(self, data: bytes) -> None:
        """Parse what arrived before the request was sent, so that it cannot be the answer to it."""
        self._reusable = False
        self.arrived(data)

    def arrived(self, data: bytes) -> None:
        """Parse what arrived, and hand it on or keep it."""
        self.untouched = False
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  (also a fault of ours)
            self._misread(error)
        if self._parts:
            if self._take is not None:
                self._hand_over(self._take)
                return
            self._keep_unread(len(data))
        else:
            self._bound_framing(len(data))
        self._wake()

    def _keep_unread(self, size: int) -> None:
        """Keep what has arrived until it is read, and stop reading once that is much."""
        self._unread += size
        if self._unread > UNREAD_SIZE and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def _hand_over(self, take: Take) -> None:
        try:
            self._wait = take(self._taken())
        except Exception as error:  # noqa: BLE001  (forward is to raise it, before anything else)
            self._wait = _raise(error)
        if self._wait or self._complete or self._error or self._enough():
            self._take = None  # until forward has gone on
            self._wake()

    def lost(self, *, clean: bool) -> None:
        """The connection is gone; ``clean`` says that the upstream itself ended it."""
        super().lost(clean=clean)
        self._wake()

    def _taken(self) -> Sequence[bytes]:
        """All parts that have arrived; the upstream may go on."""
        self._silence_due = self._loop.time() + self._idle
        self._framing = 0
        parts, self._parts, self._unread = self._parts, [], 0
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        if self._tap is not None:
            self._tap(joined(parts))
        return parts

    # Waits and their deadlines.

    def _change(self) -> Awaitable[None]:
        """A future that is done when anything has changed; raises the error, if there is one."""
        if self._error is not None:
            raise self._error
        if self._silence_due < self._alarm.due:
            self._alarm.due = self._silence_due
            self._alarm.arm()
        self._waiter = self._loop.create_future()
        return self._waiter

    def _expire(self) -> None:
        """The alarm rings: end what is late, or set the alarm anew."""
        now = self._loop.time()
        if self._closes_soon:
            self.close()
        elif now >= self._total_due:
            self._cut_off()
        elif self._waiter is None or self._waiter.done():  # nobody waits: _change sets it anew
            self._alarm.due = self._total_due
        elif now >= self._silence_due:
            self._fail(UpstreamTimeout(f"upstream {self._name} did not answer in time"))
        else:
            self._alarm.due = min(self._silence_due, self._total_due)

    def _cut_off(self) -> None:
        """Fail, as the answer takes longer than ``total``; what has arrived can still be read."""
        if not self._complete:
            self._fail(UpstreamTimeout(f"upstream {self._name} did not finish in time"))
            self._connection.close()

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self._closes_soon and self._over:
            self.close()


async def _raise(error: Exception) -> None:
    raise error


def _discard(_: Sequence[bytes]) -> None:
    """Take parts that nobody wants."""
