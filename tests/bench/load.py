"""The clients: one process that runs many streams at once, and checks each answer when it ends.

The starts of streams are spread by the golden ratio, so that no two run in step. What arrives is
counted and dropped, except for the end, which shows whether the answer is complete.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import httptools
import uvloop

from . import wire
from .wire import END, Play

_GOLDEN = 0.618033988749895
_DONE = b"data: [DONE]" + END
_GRACE = 0.02
"""Seconds for a proxy to clean up after the last byte, which are measured as well."""

_SHOWN = 3
"""How many faults of a run are reported."""


class RunFailed(Exception):
    """Not every stream was answered in full, so the measurement is void."""


@dataclass(frozen=True)
class Work:
    """What the clients do.

    ``connections`` clients make ``streams`` calls together. Each makes its first call within the
    first ``spread`` seconds, and ``settle`` seconds after it has connected. ``rate`` limits how
    fast a client reads, in bytes per second. With ``every``, no snapshot may be missing.
    """

    port: int
    play: Play
    connections: int
    streams: int
    path: str = "/v1/complete"
    version: str = "2023-01-01"
    headers: tuple[str, ...] = ()
    stream: bool = True
    stamped: bool = False
    spread: float = 0.0
    settle: float = 0.0
    rate: int | None = None
    every: bool = True
    patience: float = 60.0

    @property
    def translated(self) -> bool:
        return self.version == "2023-01-01"

    @cached_property
    def text(self) -> str:
        return wire.text(self.play.deltas)

    @cached_property
    def size(self) -> int:
        """The size of a stream that passes through."""
        return len(wire.stream_bytes(self.play.deltas))

    @cached_property
    def tail(self) -> int:
        """How many bytes at the end of an answer are sure to hold its last event."""
        return len(json.dumps(self.text)) + 4096

    def request(self, index: int) -> bytes:
        at = index * self.play.deltas if self.stamped else -1
        body = wire.prompt_body(replace(self.play, stamps=at), stream=self.stream)
        head = "\r\n".join(
            (
                f"POST {self.path} HTTP/1.1",
                "host: bench",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "x-api-key: bench",
                f"anthropic-version: {self.version}",
                *self.headers,
            )
        )
        return head.encode() + END + body

    def fault(self, events: int, size: int, end: bytes) -> str | None:
        """What is wrong with an answer of which ``end`` is the last part, if anything is."""
        if not self.stream:
            answer = json.loads(end)
            return None if answer["completion"] == self.text else "the text is not whole"
        if not self.translated:
            wanted = (self.play.deltas + 1, self.size)
            whole = (events, size) == wanted and end.endswith(wire.LAST_EVENT)
            return None if whole else f"{events} events of {size} bytes instead of {wanted}"
        if not end.endswith(_DONE):
            return f"ends with {end[-40:]!r}"
        if self.every and events != self.play.deltas + 2:
            return f"{events} events instead of {self.play.deltas + 2}"
        last = json.loads(end.split(END)[-3].removeprefix(b"data: "))
        if last["stop_reason"] != "stop_sequence" or last["exception"]:
            return f"ended by {last['stop_reason']}, {last['exception']}"
        return None if last["completion"] == self.text else "the last text is not whole"


@dataclass
class Outcome:
    """What came of it. Times are in microseconds, one for each stream or event."""

    answers: int = 0
    events: int = 0
    size: int = 0
    seconds: float = 0.0
    firsts: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Run:
    """All clients of one piece of work. ``full`` is called when each stream has begun."""

    def __init__(
        self, work: Work, stamps: memoryview, full: Callable[[], object] | None = None
    ) -> None:
        self.work = work
        self.stamps = stamps
        self.outcome = Outcome()
        self._full = full
        self._asked = 0
        self._over = asyncio.Event()

    def take(self) -> int | None:
        """The number of the next stream, if there is one left."""
        if self._asked == self.work.streams:
            return None
        self._asked += 1
        return self._asked - 1

    def begun(self, after: float) -> None:
        self.outcome.firsts.append(after)
        if self._full and len(self.outcome.firsts) == self.work.streams:
            self._full()

    def ended(self, fault: str | None) -> None:
        outcome = self.outcome
        outcome.answers += 1
        if fault:
            outcome.faults.append(fault)
        # a connection that failed does not ask again: with none left, nothing more will come
        if outcome.answers == self.work.streams or len(outcome.faults) == self.work.connections:
            self._over.set()

    async def go(self) -> Outcome:
        """Do the work; what is not done in time is a fault."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.work.patience):
                async with asyncio.TaskGroup() as clients:
                    for index in range(self.work.connections):
                        clients.create_task(self._client(index))
                await self._over.wait()
        except TimeoutError:
            left = self.work.streams - self.outcome.answers
            self.outcome.faults.append(f"{left} streams still open after {self.work.patience} s")
        self.outcome.seconds = time.monotonic() - began
        await asyncio.sleep(_GRACE)
        return self.outcome

    async def _client(self, index: int) -> None:
        await asyncio.sleep(index * _GOLDEN % 1 * self.work.spread)
        listener = socket.socket()
        listener.setblocking(False)
        if self.work.rate:  # or the kernel would do the reading for the client
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(listener, ("127.0.0.1", self.work.port))
        except OSError as error:
            self.ended(f"no connection: {error}")
            return
        _, client = await loop.create_connection(lambda: Client(self), sock=listener)
        await asyncio.sleep(self.work.settle)
        client.ask()


class Client(asyncio.Protocol):
    """One connection, which asks again as soon as it was answered."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = False
        self._index = 0
        self._asked = 0
        self._now = 0
        self._events = 0
        self._size = 0
        self._end: deque[bytes] = deque()
        self._kept = 0
        self._cut = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting:
            self._waiting = False
            self._run.ended(f"connection lost after {self._events} events: {error}")

    def ask(self) -> None:
        index = self._run.take()
        if index is None:
            self._transport.close()
            return
        self._index = index
        self._events = self._size = self._kept = 0
        self._end.clear()
        self._cut = b""
        self._waiting = True
        request = self._run.work.request(index)
        self._asked = time.monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error!r}")
        rate = self._run.work.rate
        if rate and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_later(len(data) / rate, self._read_on)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        found = body.count(END)
        if self._cut:  # an event's end may lie in two pieces
            found += (self._cut + body[:3]).count(END)
        self._cut = body[-3:] if len(body) > 2 else (self._cut + body)[-3:]
        self._end.append(body)
        self._kept += len(body)
        while self._kept - len(self._end[0]) > self._run.work.tail:
            self._kept -= len(self._end.popleft())
        if found:
            self._count(found)

    def on_message_complete(self) -> None:
        work = self._run.work
        status = self._parser.get_status_code()
        end = b"".join(self._end)
        if status != 200:
            self._fail(f"status {status}: {end[:200]!r}")
            return
        if not self._events:
            self._run.begun((time.monotonic_ns() - self._asked) / 1000)
        outcome = self._run.outcome
        outcome.events += self._events
        outcome.size += self._size
        try:
            fault = work.fault(self._events, self._size, end)
        except (ValueError, LookupError, TypeError) as error:
            fault = f"cannot be read: {error!r}"
        self._waiting = False
        self._run.ended(fault)
        self._loop.call_soon(self.ask)

    def _count(self, found: int) -> None:
        run = self._run
        if not self._events:
            run.begun((self._now - self._asked) / 1000)
        if run.work.stamped:
            deltas = run.work.play.deltas
            at = self._index * deltas
            for event in range(self._events, min(self._events + found, deltas)):
                run.outcome.lags.append((self._now - run.stamps[at + event]) / 1000)
        self._events += found

    def _fail(self, fault: str) -> None:
        if self._waiting:
            self._waiting = False
            self._run.ended(fault)
        self._transport.abort()

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


def run(work: Work, stamps: memoryview, full: Callable[[], object] | None = None) -> Outcome:
    """Do a piece of work; raises RunFailed unless every answer was whole."""
    if work.stamped and work.streams * work.play.deltas > wire.STAMPS:
        raise ValueError("more events than stamps")

    async def go() -> Outcome:
        return await Run(work, stamps, full).go()

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(go())
    finally:
        gc.enable()
    if outcome.faults:
        faults = "; ".join(list(dict.fromkeys(outcome.faults))[:_SHOWN])
        raise RunFailed(f"{len(outcome.faults)} of {work.streams} streams failed: {faults}")
    return outcome
