"""Plays a case: in process with a scripted upstream, and over real sockets on both sides.

In process no time is spent waiting: when all tasks wait for a deadline, the clock jumps to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Self

import h11
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conformance.case import SILENCE, Asked, Case, Script, Seen
from proxy.app import App
from proxy.core.errors import (
    UpstreamBrokeOff,
    UpstreamNonsense,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.core.fields import Fields, by_name
from proxy.server.server import running
from proxy.upstream.answer import Answer, Take, never
from proxy.upstream.upstream import Upstream

HELD = "/held"
"""The path of an exchange that does not end while the case lasts."""


class Part:
    """The upstream in one play: what it answers, and the requests that it received."""

    def __init__(self, case: Case, play: str) -> None:
        self.answers = case.answers
        self.script = case.answers.script(play)
        self.asked: list[Asked] = []
        self.held = asyncio.Event()
        self.open_answers = 0
        self.drain: Callable[[], None] = lambda: None
        self.fall_silent: Callable[[], None] = lambda: None

    @property
    def fields(self) -> Fields:
        return [(name.encode(), value.encode()) for name, value in self.answers.fields]


# In process.


def play_in_process(case: Case, play: str) -> Seen:
    """Play ``case`` through the whole application, the upstream's body split as ``play`` says."""
    with asyncio.Runner(loop_factory=_TimelessLoop) as runner:
        return runner.run(_play_in_process(case, play))


async def _play_in_process(case: Case, play: str) -> Seen:
    part = Part(case, play)
    config = case.config("http://upstream.test")
    app = App(config, connect=lambda settings: ScriptedUpstream(settings, part))
    part.drain = app.drain
    other = _under_way(app, part) if case.busy else contextlib.nullcontext()
    async with _living(app), other:
        seen = await _exchange(app, case, part, play)
    assert part.open_answers == 0, "an upstream's answer was not closed"
    seen.asked = part.asked
    return seen


async def _exchange(app: App, case: Case, part: Part, play: str) -> Seen:
    seen = Seen()
    if case.marks_silences:
        part.fall_silent = partial(seen.mark, SILENCE)
    body = case.sends.body or b""
    size = 1 if play == "drip" else len(body)
    pieces = iter([body[at : at + size] for at in range(0, len(body), size)] if body else [b""])
    left = len(body)

    async def receive() -> Message:
        nonlocal left
        piece = next(pieces, None)
        if piece is None:
            await asyncio.Event().wait()
        assert piece is not None
        left -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": left > 0}

    async def send(message: Message) -> None:
        assert not seen.complete, "something was sent after the end"
        if message["type"] == "http.response.start":
            assert seen.status == 0, "the head was sent twice"
            seen.status = message["status"]
            seen.fields = [(name.decode(), value.decode()) for name, value in message["headers"]]
        else:
            assert seen.status, "a body was sent before its head"
            seen.body += message.get("body", b"")
            seen.complete = not message.get("more_body", False)

    fields = [(name.lower().encode(), value.encode()) for name, value in case.sends.fields]
    await app(_scope(case.sends.method, case.sends.target, fields), receive, send)
    return seen


def _scope(method: str, target: str, fields: Fields) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": fields,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


@asynccontextmanager
async def _living(app: App) -> AsyncIterator[None]:
    """An application, started before the block and shut down after it."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await received.put({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await life


@asynccontextmanager
async def _under_way(app: App, part: Part) -> AsyncIterator[None]:
    """Another exchange, open during the whole block."""

    async def nothing(*_: Message) -> Any:
        await asyncio.Event().wait()

    scope = _scope("GET", HELD, [(b"host", b"proxy.test"), (b"anthropic-version", b"2023-06-01")])
    other = asyncio.create_task(app(scope, nothing, nothing))
    await part.held.wait()
    try:
        yield
    finally:
        other.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await other


class ScriptedUpstream(Upstream):
    """Prepares a call as the real one does, but answers from the case instead of sending it."""

    def __init__(self, settings: Any, part: Part) -> None:
        super().__init__(settings)
        self._part = part

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        part = self._part
        if target == HELD:
            part.held.set()
            await asyncio.Event().wait()
        sent = body or b""
        if not isinstance(sent, bytes):
            sent = b"".join([piece async for piece in sent])
        lowered = [
            (name.decode().lower(), value.decode()) for name, value in self._fields(fields)[1:]
        ]
        match part.answers.fails:
            case "unreachable":
                raise UpstreamUnreachable("upstream api cannot be reached: connection refused")
            case "not_http":
                raise UpstreamNonsense("upstream api did not answer in HTTP")
        part.asked.append(Asked(method, self._prefix + target, lowered, sent))
        if part.answers.fails == "timeout":
            raise UpstreamTimeout("upstream api did not answer in time")
        return ScriptedAnswer(part)


class ScriptedAnswer(Answer):
    """An answer that arrives in scripted pieces."""

    def __init__(self, part: Part) -> None:
        self.status = part.answers.status
        self.fields = part.fields
        self.named = by_name(part.fields)
        self.received = 0
        self._part = part
        self._rest: Script = list(part.script)
        self._silent_until: float | None = None
        part.open_answers += 1
        self._open = True

    async def read(self) -> bytes:
        if not self._rest:
            return await self._end()
        piece = self._rest[0]
        if isinstance(piece, float):
            await self._pass(piece)
        piece = self._rest.pop(0)
        assert isinstance(piece, bytes)
        self.received += len(piece)
        return piece

    async def forward(self, take: Take, enough: Callable[[], bool] = never) -> None:
        while not enough() and (part := await self.read()):
            if (wait := take((part,))) is not None:
                await wait

    async def _pass(self, silence: float) -> None:
        """Wait for the rest of a silence, even if readers have been cancelled during it."""
        loop = asyncio.get_running_loop()
        if self._silent_until is None:
            self._part.fall_silent()
            self._silent_until = loop.time() + silence
        await asyncio.sleep(max(0, self._silent_until - loop.time()))
        self._silent_until = None
        self._rest.pop(0)

    async def _end(self) -> bytes:
        match self._part.answers.ending:
            case "cut_off":
                raise UpstreamBrokeOff("upstream api broke off its answer")
            case "silent":
                raise UpstreamTimeout("upstream api did not answer in time")
            case "drained":
                self._part.drain()
                await asyncio.Event().wait()
        return b""

    def close_soon(self) -> None:
        self._rest.clear()
        self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._part.open_answers -= 1


class _TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__(_Skipping(self._skip))

    def time(self) -> float:
        return super().time() + self._skipped

    def run_in_executor(  # type: ignore[override]  # what is given is not compared
        self, _: object, func: Callable[..., object], *given: object
    ) -> asyncio.Future[object]:
        """Run it at once: a thread would take real time, while none passes on this loop."""
        done = self.create_future()
        try:
            done.set_result(func(*given))
        except Exception as error:  # noqa: BLE001  (it is for whoever waits)
            done.set_exception(error)
        return done

    def _skip(self, seconds: float) -> None:
        self._skipped += seconds


class _Skipping(selectors.SelectSelector):
    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        if not events and timeout:
            self._skip(timeout)
        return events


# Over the wire.


class Wire:
    """A proxy and an upstream behind real sockets, shared by all cases.

    Both are told the case by the field ``x-case``, which passes through as any other.
    """

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self._parts: dict[str, Part] = {}
        self._loop: AbstractEventLoop
        self._proxy_url = ""
        self._upstream_urls: dict[str | None, str] = {}

    @classmethod
    @contextmanager
    def up(cls) -> Iterator[Self]:
        """Both servers, on an event loop in a thread of its own."""
        wire = cls()
        ready, stop = threading.Event(), threading.Event()

        async def live() -> None:
            wire._loop = asyncio.get_running_loop()
            async with wire._serving():
                ready.set()
                await asyncio.to_thread(stop.wait)

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(live())

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait(30)
        try:
            yield wire
        finally:
            stop.set()
            thread.join()

    def play(self, case: Case) -> Seen:
        """Play ``case`` over sockets."""
        playing = asyncio.wait_for(self._play(case), 30)
        return asyncio.run_coroutine_threadsafe(playing, self._loop).result(60)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, but nobody listens: connecting is refused
            speaks_no_http = await asyncio.start_server(_answer_in_no_http, "127.0.0.1", 0)
            both = running(_application(self._proxy)), running(_application(self._upstream))
            async with speaks_no_http, both[0] as proxy, both[1] as up:
                self._proxy_url = proxy
                self._upstream_urls = {
                    "unreachable": "http://{}:{}".format(*unused.getsockname()),
                    "not_http": "http://{}:{}".format(*speaks_no_http.sockets[0].getsockname()),
                }
                self._upstream_urls |= {None: up, "timeout": up}
                yield

    async def _play(self, case: Case) -> Seen:
        part = self._parts[case.name] = Part(case, "wire")
        impatient = case.answers.fails == "timeout" or case.answers.ending == "silent"
        config = case.config(self._upstream_urls[case.answers.fails], impatient=impatient)
        app = self._apps[case.name] = App(config)
        other = self._under_way(case, part) if case.busy else contextlib.nullcontext()
        async with _living(app), other:
            seen = await self._exchange(case)
        seen.asked = part.asked
        return seen

    async def _proxy(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[_case_of(scope)](scope, receive, send)

    async def _upstream(self, scope: Scope, receive: Receive, send: Send) -> None:
        part = self._parts[_case_of(scope)]
        if scope["path"].endswith(HELD):
            part.held.set()
            await _disconnected(receive)
            return
        body = b""
        message: Mapping[str, Any] = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        fields = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        part.asked.append(Asked(scope["method"], target, fields, body))
        if part.answers.fails == "timeout":
            await _disconnected(receive)
            return
        status = part.answers.status
        await send({"type": "http.response.start", "status": status, "headers": part.fields})
        for piece in part.script:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        match part.answers.ending:
            case "complete":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            case "silent":
                await _disconnected(receive)

    async def _exchange(self, case: Case) -> Seen:
        async with self._connected() as (reader, writer):
            writer.write(_request(case))
            return await _response(reader, case.sends.method)

    @asynccontextmanager
    async def _under_way(self, case: Case, part: Part) -> AsyncIterator[None]:
        async with self._connected() as (_, writer):
            head = f"GET {HELD} HTTP/1.1\r\nhost: proxy.test\r\nx-case: {case.name}\r\n"
            writer.write(head.encode() + b"anthropic-version: 2023-06-01\r\n\r\n")
            await part.held.wait()
            yield

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host, port = self._proxy_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _application(answer: ASGIApp) -> ASGIApp:
    """The application as uvicorn takes it: a function, here without start-up and shut-down."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(scope, receive, send)

    return application


def _case_of(scope: Scope) -> str:
    fields: Fields = scope["headers"]
    return next(value.decode() for name, value in fields if name == b"x-case")


def _request(case: Case) -> bytes:
    """The request as bytes, written without the help of a library."""
    sends = case.sends
    lines = [f"{sends.method} {sends.target} HTTP/1.1", f"x-case: {case.name}"]
    lines += (f"{name}: {value}" for name, value in sends.fields)
    body = sends.body or b""
    if sends.chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return "\r\n".join((*lines, "", "")).encode() + body


async def _response(reader: asyncio.StreamReader, method: str) -> Seen:
    """The response, read by a strict parser that distinguishes a cut one from a complete one."""
    seen = Seen()
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "proxy.test")]))
    parser.send(h11.EndOfMessage())
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            return seen
        if event is h11.NEED_DATA:
            try:
                parser.receive_data(await reader.read(1 << 16))
            except ConnectionError:
                parser.receive_data(b"")
        elif isinstance(event, h11.Response):
            seen.status, seen.reason = event.status_code, event.reason.decode()
            seen.fields = [(name.decode(), value.decode()) for name, value in event.headers]
        elif isinstance(event, h11.Data):
            seen.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            seen.complete = True
            return seen


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_in_no_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    writer.close()
