"""Calls to the upstream, over real sockets: what arrives, and how it fails."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from proxy.config import Timeouts
from proxy.core import errors
from proxy.core.fields import Fields
from proxy.runtime.sockets import unacknowledged
from proxy.upstream import addresses, pool
from proxy.upstream.answer import Answer
from proxy.upstream.http1 import Connection
from proxy.upstream.lookup import look_up as look_up_truly
from proxy.upstream.pending import readable
from proxy.upstream.request import PART
from proxy.upstream.upstream import Upstream
from support import (
    PATIENCE,
    STREAM_HEAD,
    Certificate,
    Play,
    Side,
    chunk,
    raw_upstream,
    reset,
    settings,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def said(data: bytes) -> Play:
    """An upstream that answers any request with ``data`` and then closes."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(data)

    return play


@asynccontextmanager
async def connected(url: str, **timeouts: float) -> AsyncIterator[Upstream]:
    """The upstream at ``url``, as the proxy sees it."""
    api = replace(settings(url).upstreams["api"], timeouts=Timeouts(**timeouts))
    upstream = Upstream(api)
    try:
        yield upstream
    finally:
        upstream.close()


async def ask(upstream: Upstream) -> Answer:
    """Ask for something."""
    return await upstream.call("GET", "/v1/models", [], None)


async def test_what_arrived_before_the_cut_is_read_before_the_cut_is_told() -> None:
    stream = said(STREAM_HEAD + chunk(b"all of") + chunk(b" this"))
    async with raw_upstream(stream) as url, connected(url) as upstream:
        answer = await ask(upstream)
        async with asyncio.timeout(PATIENCE):
            while answer._error is None:  # noqa: ASYNC110
                await asyncio.sleep(0)  # nothing tells when the library has seen the cut
        assert await answer.read() == b"all of this"
        with pytest.raises(errors.UpstreamBrokeOff):
            await answer.read()
        answer.close()


async def silent(side: Side) -> None:
    """Begin to answer, and say no more."""
    await side.request()
    await side.say(STREAM_HEAD + chunk(b"so far"))
    await side.rest()


async def test_a_silent_upstream_is_given_up() -> None:
    async with raw_upstream(silent) as url, connected(url, idle=0.05) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"so far"
        with pytest.raises(errors.UpstreamTimeout):
            await answer.read()
        answer.close()


async def says_nothing_and_stays(side: Side) -> None:
    """Answer with an empty body, on a connection that can be used on."""
    await side.request()
    await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await side.rest()


async def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEP", 0.05)
    async with raw_upstream(says_nothing_and_stays) as url, connected(url) as upstream:
        for _ in range(2):
            for answer in await asyncio.gather(ask(upstream), ask(upstream)):
                answer.close()
                await asyncio.sleep(0.02)  # the second is not yet old when the first is
            await until(lambda: upstream.connections() == (0, 0))


async def test_a_connection_that_is_too_old_for_an_upload_stays_free_for_others() -> None:
    async with raw_upstream(says_nothing_and_stays) as url, connected(url) as upstream:
        (await ask(upstream)).close()
        assert upstream._pool.free(within=-1) is None
        assert upstream.connections() == (0, 1)


async def test_an_answer_that_is_over_is_kept_by_nobody() -> None:
    gc.collect()
    async with raw_upstream(says_nothing_and_stays) as url, connected(url) as upstream:
        (await ask(upstream)).close()
        assert upstream.connections() == (0, 1)
        assert not any(isinstance(each, Answer) for each in gc.get_objects())


async def test_connections_that_are_closed_for_good_are_kept_by_nobody() -> None:
    """The certificates to trust are a megabyte, and those of each reload would stay."""
    freed = asyncio.Event()
    gc.disable()
    try:
        async with raw_upstream(says_nothing_and_stays) as url, connected(url) as upstream:
            (await ask(upstream)).close()
            weakref.finalize(upstream._pool, freed.set)
        del upstream
        await until(freed.is_set)
    finally:
        gc.enable()


async def test_each_part_gives_as_much_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)

    async def nearly_too_long() -> None:
        nonlocal ahead
        ahead += 3
        for _ in range(3):  # for what is due by now
            await asyncio.sleep(0)

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"?"
            await nearly_too_long()

    read = asyncio.Event()

    async def play(side: Side) -> None:
        await side.until(b"0\r\n\r\n")
        await nearly_too_long()
        await side.say(STREAM_HEAD)
        for _ in range(3):
            await side.say(chunk(b"!"))
            await read.wait()
            read.clear()

    async with raw_upstream(play) as url, connected(url, first_byte=5, idle=5) as upstream:
        answer = await upstream.call("POST", "/v1/messages", [], upload())
        for _ in range(3):
            assert await answer.read() == b"!"
            await nearly_too_long()
            read.set()
        answer.close()


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.rest()

    async with raw_upstream(play) as url, connected(url, first_byte=0.05) as upstream:
        with pytest.raises(errors.UpstreamTimeout):
            await ask(upstream)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", errors.UpstreamUnreachable),
        (b"HTTP/1.1 200", errors.UpstreamUnreachable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", errors.UpstreamNonsense),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", errors.UpstreamNonsense),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: " + b"0" * 5000 + b"\r\n\r\n",
            errors.UpstreamNonsense,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            errors.UpstreamNonsense,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\t\r\n\r\n0\r\n\r\n",
            errors.UpstreamNonsense,
        ),
    ],
)
async def test_what_is_no_answer_is_told_so(
    answer: bytes, error: type[errors.UpstreamError]
) -> None:
    async with raw_upstream(said(answer)) as url, connected(url) as upstream:
        with pytest.raises(error):
            await ask(upstream)


async def test_blanks_around_a_coding_mean_nothing() -> None:
    head = STREAM_HEAD.replace(b"chunked", b" Chunked  ")
    assert head != STREAM_HEAD
    stream = said(head + chunk(b"all") + b"0\r\n\r\n")
    async with raw_upstream(stream) as url, connected(url) as upstream:
        assert await (await ask(upstream)).read_all(9) == b"all"


async def test_nobody_there_is_told_without_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with connected(url) as upstream:
        with pytest.raises(errors.UpstreamUnreachable) as refused:
            await ask(upstream)
    assert refused.value.message == "upstream api cannot be reached: connection refused"


async def test_a_name_that_nobody_knows_is_told() -> None:
    async with connected("http://no-such-host.invalid") as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="its name is not known"):
            await ask(upstream)


async def test_an_upstream_that_does_not_speak_tls_is_told_so() -> None:
    async def play(side: Side) -> None:
        await side.say(b"what?\r\n")

    async with raw_upstream(play) as url, connected(url.replace("p:", "ps:")) as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="TLS failed"):
            await ask(upstream)


async def test_a_handshake_has_all_the_time_to_connect_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event loops give it a minute, and then say that the connection was lost."""
    monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 0.01)

    async def play(side: Side) -> None:
        await side.rest()

    async with raw_upstream(play) as url, connected(url.replace("p:", "ps:"), connect=0.1) as slow:
        with pytest.raises(errors.UpstreamTimeout):
            await ask(slow)


async def test_fields_and_target_go_out_as_they_are() -> None:
    heads: list[bytes] = []

    async def play(side: Side) -> None:
        heads.append(await side.head())
        await side.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    fields: Fields = [(b"x-a", b"1"), (b"x-b", b"\xc3\xa9"), (b"x-a", b"2")]
    async with raw_upstream(play) as url, connected(f"{url}/base") as upstream:
        answer = await upstream.call("PATCH", "//a/../b%2F?x=%20&&x=1?", fields, None)
        assert answer.status == 204
    head = heads[0].split(b"\r\n")
    assert head[0] == b"PATCH /base//a/../b%2F?x=%20&&x=1? HTTP/1.1"
    assert [line for line in head if line.startswith(b"x-")] == [
        b"x-a: 1",
        b"x-b: \xc3\xa9",
        b"x-a: 2",
    ]
    assert not {line.partition(b":")[0].lower() for line in head[1:]} & {
        b"accept",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"user-agent",
    }


@pytest.mark.parametrize(
    ("framing", "sent"),
    [([], b"4\r\nsome\r\n4\r\nbody\r\n0\r\n\r\n"), ([(b"content-length", b"8")], b"somebody")],
)
async def test_behind_a_large_head_a_body_in_parts_goes_out_as_behind_any(
    monkeypatch: pytest.MonkeyPatch, framing: Fields, sent: bytes
) -> None:
    """The rest of the head went out in its place, as a chunk where the body was to be chunked."""
    monkeypatch.setattr("proxy.upstream.request.PART", 20)

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        yield b"body"

    arrived: list[bytes] = []

    async def play(side: Side) -> None:
        arrived.append(await side.head())
        arrived.append(await side.until(sent))
        await side.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_upstream(play) as url, connected(url) as upstream:
        answer = await upstream.call("POST", "/", [(b"x-a", b"1"), *framing], body())
        assert answer.status == 204
    head, received = arrived
    assert b"\r\nx-a: 1\r\n" in head
    assert received == sent


async def test_an_answer_that_nobody_read_does_not_stop_the_next() -> None:
    """It had made its upstream wait, which nobody would have ended."""
    size = 200 << 10
    arrived = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(arrived)
        assert not connection._transport.is_reading()
        answer.close()
        assert upstream._pool.free() is connection
        assert connection._transport.is_reading()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("read", [1, PART + 1, 1 << 20])
async def test_a_large_request_is_sent_again_whole_wherever_its_connection_ends(
    read: int, *, reset: bool
) -> None:
    body = bytes(range(256)) * (4 << 10)
    received: list[bytes] = []

    async def play(side: Side) -> None:
        request, content = await side.request()
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        if request.startswith(b"POST "):
            received.append(content)
            return
        await side.reader.readexactly(read)
        if reset:
            side.writer.transport.abort()

    async with raw_upstream(play) as url, connected(url) as upstream:
        (await ask(upstream)).close()
        answer = await upstream.call("POST", "/v1/messages", [], body)
        assert answer.status == 200
        answer.close()
    assert received == [body]


async def test_an_upload_that_fails_after_its_answer_ends_the_connection() -> None:
    """Else the next request would be taken for the rest of it."""
    gone = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        await gone.wait()
        raise errors.InvalidRequest("the client has left")

    ended = asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        assert await side.reader.readexactly(4) == b"some"
        await side.say(b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n")
        assert await side.rest() == b""
        ended.set()

    async with raw_upstream(play) as url, connected(url) as upstream:
        answer = await upstream.call("POST", "/", [(b"content-length", b"9")], body())
        assert await answer.read() == b""
        gone.set()
        await until(lambda: answer._upload is not None and answer._upload.done())
        answer.close()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_an_upload_that_fails_before_its_answer_is_not_waited_for() -> None:
    """Servers other than ours report a disconnect only in this way."""

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        raise errors.InvalidRequest("the client has left")

    async def play(side: Side) -> None:
        await side.head()
        await side.rest()

    async with raw_upstream(play) as url, connected(url) as upstream, asyncio.timeout(PATIENCE):
        with pytest.raises(errors.InvalidRequest):
            await upstream.call("POST", "/", [(b"content-length", b"9")], body())


async def test_an_upload_is_as_slow_as_its_upstream() -> None:
    """Or all of it would be in memory, however large."""
    part, parts = b"x" * (256 << 10), 200
    waiting: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        (connection,) = upstream._pool._all
        for _ in range(parts):
            yield part
            waiting.append(connection._transport.get_write_buffer_size())

    async def play(side: Side) -> None:
        await side.head()
        await side.reader.readexactly(parts * len(part))
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with raw_upstream(play) as url, connected(url) as upstream:
        length = b"%d" % (parts * len(part))
        answer = await upstream.call("POST", "/", [(b"content-length", length)], body())
        assert len(waiting) == parts
        assert max(waiting) < len(part)
        answer.close()


class Refusing:
    """An upstream in a thread of its own that answers a head, reads no more and resets.

    ``answer`` is said in two parts, the last of it with the reset.
    """

    def __init__(self, answer: bytes, last: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._last = last
        self._tls = tls
        self._may_reset = threading.Event()
        self._has_reset = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_reset.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        opened, _ = self._listener.accept()
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a reset discards it
        with self._tls.wrap_socket(opened, server_side=True) if self._tls else opened as side:
            side.recv(1 << 10)
            side.sendall(self._answer)
            self._may_reset.wait(PATIENCE)
            side.sendall(self._last)
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._has_reset.set()

    def reset(self) -> None:
        """Have it reset, while the event loop cannot look."""
        self._may_reset.set()
        assert self._has_reset.wait(PATIENCE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.made(tmp_path_factory.mktemp("tls") / "upstream", "IP:127.0.0.1")


@pytest.mark.parametrize(
    ("secure", "paused"),
    [(False, False), (False, True), (True, False)],
    ids=["plain", "plain, paused", "tls"],
)
async def test_an_early_answer_is_read_though_the_upload_is_reset(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, *, secure: bool, paused: bool
) -> None:
    """The next write is what finds out."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    size = (100 << 10) if paused else 2
    said = b"HTTP/1.1 413 Large\r\ncontent-length: %d\r\n\r\n" % (size + 4)

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        for _ in range(3):
            await asyncio.sleep(0)  # uvloop sends what was written a turn later
        if paused:
            (connection,) = upstream._pool._all
            await until(lambda: not connection._transport.is_reading())
        here.reset()
        yield b"more"
        yield b"last"

    parts = (said + b"x" * size, b"last") if paused else (b"", said + b"x" * size + b"last")
    with Refusing(*parts, certificate.serve() if secure else None) as here:
        async with connected(here.url) as upstream:
            answer = await upstream.call("POST", "/", [(b"content-length", b"12")], body())
            assert answer.status == 413
            await until(lambda: answer._upload is not None and answer._upload.done())
            assert (await answer.read_all(1 << 20)).endswith(b"last")
            answer.close()


async def test_an_answer_that_was_left_may_end_with_what_its_connection_leaves() -> None:
    """The loop reads no more of it once a write has failed."""
    stops, has_stopped = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(b"all that is wanted"))
        await stops.wait()
        await side.say(chunk(b"more") + chunk(b""))
        reset(side)
        has_stopped.set()

    untold: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))
    async with raw_upstream(play) as url, connected(url) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"all that is wanted"
        answer.close_soon()
        (connection,) = upstream._pool._all
        connection.pause_reading()
        stops.set()
        await has_stopped.wait()
        await until(lambda: readable(connection._socket))
        while not connection.closed:
            await connection.write(b"x")
            await asyncio.sleep(0)
        assert upstream.connections() == (0, 0)
    assert not untold


class Forgetful:
    """A parser that has no memory for some of what it is fed."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def feed_data(self, data: bytes) -> None:
        if b"lost" in data:
            raise MemoryError
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


async def test_an_answer_that_lacks_a_part_of_its_middle_is_not_whole() -> None:
    heard = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(b"first"))
        await heard.wait()
        await side.say(chunk(b"last") + chunk(b""))
        await side.rest()

    async with raw_upstream(play) as url, connected(url) as upstream:
        answer = await ask(upstream)
        assert await answer.read() == b"first"
        answer._parser = Forgetful(answer._parser)
        (connection,) = upstream._pool._all
        with suppress(MemoryError):  # which has event loops close it, and the rest is read
            connection.data_received(chunk(b"lost"))
        heard.set()
        with pytest.raises(MemoryError):
            await answer.read_all(99)
        answer.close()
        assert connection.closed


@pytest.mark.parametrize("where", [(Answer, "send"), (Connection, "call")])
async def test_a_call_that_cannot_be_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"nothing"

    def fault(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(*where, fault)
    async with raw_upstream(silent) as url, connected(url) as upstream:
        with pytest.raises(MemoryError):
            await upstream.call("POST", "/", [], body())
        await until(lambda: upstream.connections() == (0, 0))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_request_that_is_not_all_sent_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, *, tls: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))

    async def play(side: Side) -> None:
        await side.head()
        await side.say(b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n")
        await ended.wait()

    ended = asyncio.Event()
    shown = certificate.serve() if tls else None
    async with raw_upstream(play, shown) as url, connected(url) as upstream:
        answer = await upstream.call("POST", "/", [], b"x" * (64 << 20))
        assert answer.status == 413
        answer.close()
        assert upstream._pool.free() is None
        ended.set()


async def test_an_answer_to_nothing_is_not_the_last_on_its_connection() -> None:
    """The one to the request is still to come, and must not be the next request's."""
    greeting = b"HTTP/1.1 503 Full\r\ncontent-length: 0\r\n\r\n"

    async with raw_upstream(said(b"")) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        connection.data_received(greeting)
        answer = connection.call(b"GET / HTTP/1.1\r\n\r\n", "api", 9, 99, bodiless=False)
        await answer.head(9)
        assert answer.status == 503
        answer.close()
        assert connection.closed


def open_now() -> tuple[int, int]:
    """Tasks and files that are open."""
    return len(asyncio.all_tasks()), sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_that_is_cancelled_while_it_connects_leaves_nothing(scheme: str) -> None:
    """Over TLS, it is cancelled in the handshake."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        asked.set()
        await side.rest()
        gone.set()

    async with raw_upstream(play) as url, connected(url.replace("http", scheme)) as upstream:
        before = open_now()
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        async with asyncio.timeout(PATIENCE):
            await gone.wait()
        await until(lambda: open_now() == before)


async def cancelled_after(steps: int, upstream: Upstream) -> None:
    """Ask, and give up so many turns of the loop later."""
    call = asyncio.create_task(ask(upstream))
    for _ in range(steps):
        await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        (await call).close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_call_can_be_cancelled_at_every_step(steps: int) -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        before = open_now()
        await cancelled_after(steps, upstream)
        await until(lambda: open_now() == before)
        assert not upstream._pool._all


@pytest.mark.parametrize("steps", range(12))
async def test_over_tls_a_call_can_be_cancelled_at_every_step(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, steps: int
) -> None:
    """What was made for TLS until then is let go of, and the certificates to trust with it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    freed = asyncio.Event()
    async with raw_upstream(silent, certificate.serve()) as url:
        before = open_now()
        async with connected(url) as upstream:
            weakref.finalize(upstream._pool._tls, freed.set)
            await cancelled_after(steps, upstream)
            await until(lambda: open_now() == before)
        del upstream
        gc.collect()
        await until(freed.is_set)
    assert not complaints


def lookups(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have a name resolve to these addresses, one list per look-up; returns the look-ups."""
    asked: list[str] = []
    left = list(answers)

    def known(host: str) -> list[str]:
        if host in (DEAD, ALIVE):  # as loops ask, too
            return [host]
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    async def look_up(host: str, port: int) -> list[Any]:
        addresses = known(host)
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(addresses, "look_up", look_up)
    return asked


ANSWER = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
DEAD, ALIVE = "127.0.0.2", "127.0.0.1"


async def test_the_next_address_serves_where_the_first_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups(monkeypatch, [DEAD, ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        answer = await ask(upstream)
        assert answer.status == 204
        answer.close()


async def test_an_address_that_failed_is_not_believed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = lookups(monkeypatch, [DEAD], [ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        with pytest.raises(errors.UpstreamUnreachable):
            await ask(upstream)
        for _ in range(3):
            (await ask(upstream)).close()
    assert len(asked) == 2


async def test_a_burst_asks_for_a_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lookups(monkeypatch, [ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        for answer in await asyncio.gather(*(ask(upstream) for _ in range(20))):
            answer.close()
    assert len(asked) == 1


async def hangs() -> None:
    await asyncio.Event().wait()


async def fails(error: int) -> None:
    raise socket.gaierror(error, "as the system says it")


@pytest.mark.parametrize("asked_again", [hangs, partial(fails, socket.EAI_AGAIN)])
async def test_a_host_is_where_it_was_while_no_name_server_answers(
    monkeypatch: pytest.MonkeyPatch, asked_again: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(addresses, "TTL", 0.0)
    monkeypatch.setattr(addresses, "STALE_AFTER", 0.01)

    async def look_up(host: str, port: int) -> Any:
        await asked_again()
        return await look_up_truly(host, port)

    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", look_up)
        for _ in range(2):
            (await ask(upstream)).close()


async def test_asking_where_a_host_is_leaves_time_to_connect_to_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sandbox has a second for both."""
    monkeypatch.setattr(addresses, "TTL", 0.0)
    async with (
        raw_upstream(said(ANSWER)) as url,
        connected(by_name(url), connect=addresses.STALE_AFTER) as upstream,
    ):
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", lambda *_: hangs())
        (await ask(upstream)).close()


async def test_a_host_whose_name_is_gone_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "TTL", 0.0)
    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", lambda *_: fails(socket.EAI_NONAME))
        for _ in range(2):
            with pytest.raises(errors.UpstreamUnreachable, match="its name is not known"):
                await ask(upstream)


async def test_where_a_host_was_but_is_no_more_it_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it takes to find where it is."""
    lookups(monkeypatch, [DEAD])
    monkeypatch.setattr(addresses, "STALE_AFTER", 0.0)

    async def look_up(_: str, port: int) -> Any:
        for _turn in range(20):
            await asyncio.sleep(0)
        return await look_up_truly(ALIVE, port)

    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        with pytest.raises(errors.UpstreamUnreachable):
            await ask(upstream)
        monkeypatch.setattr(addresses, "look_up", look_up)
        (await ask(upstream)).close()


@pytest.mark.parametrize("asked_again", [hangs, partial(fails, socket.EAI_AGAIN)])
async def test_an_upstream_that_was_down_is_found_again_while_no_name_server_answers(
    monkeypatch: pytest.MonkeyPatch, asked_again: Callable[[], Awaitable[None]]
) -> None:
    lookups(monkeypatch, [DEAD])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url), connect=0.1) as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="connection refused"):
            await ask(upstream)
        monkeypatch.setattr(addresses, "look_up", lambda *_: asked_again())
        for _ in range(2):
            with pytest.raises(errors.UpstreamUnreachable, match="connection refused"):
                await ask(upstream)


async def test_a_name_server_that_is_down_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "look_up", lambda *_: fails(socket.EAI_AGAIN))
    async with connected("http://api.example") as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="no name server answers"):
            await ask(upstream)


async def test_a_name_that_is_not_known_when_nobody_waits_any_more_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    asked, down = asyncio.Event(), asyncio.Event()
    faults: list[dict[str, Any]] = []

    async def look_up(*_: object) -> list[Any]:
        asked.set()
        await down.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(addresses, "look_up", look_up)
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    async with connected("http://api.example") as upstream:
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        down.set()
        await until(lambda: upstream._pool._addresses._lookup is None)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not faults


async def test_a_pool_that_is_closed_asks_for_no_name_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asyncio.Event()

    async def look_up(*_: object) -> list[Any]:
        asked.set()
        return await asyncio.Event().wait() and []

    monkeypatch.setattr(addresses, "look_up", look_up)
    async with connected("http://api.example") as upstream:
        call = asyncio.create_task(ask(upstream))
        await asked.wait()
        call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    await until(lambda: upstream._pool._addresses._lookup is None)


async def test_a_pool_that_is_closed_keeps_no_connection_that_was_on_its_way() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        before = open_now()
        call = asyncio.create_task(ask(upstream))
        upstream.close()
        with pytest.raises(errors.UpstreamUnreachable):
            await call
        await until(lambda: open_now() == before)


async def test_a_connection_that_is_lost_before_its_call_is_told_at_once() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        connection.close()
        await until(lambda: upstream.connections() == (0, 0))
        answer = connection.call(b"GET / HTTP/1.1\r\n\r\n", "api", 60, 60, bodiless=False)
        with pytest.raises(errors.UpstreamUnreachable):
            await answer.head(60)


@pytest.mark.skipif(sys.platform != "linux", reason="only there can the system be asked")
async def test_of_what_an_upstream_does_not_read_little_waits_in_the_system() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(bytes(16 << 20), "api", 60, 60, bodiless=False)
        opened = connection._socket
        await until(lambda: unacknowledged(opened) > 0)
        assert unacknowledged(opened) < 1 << 20
        answer.close()


def named(url: str) -> str:
    """The same place, by a name."""
    return url.replace("127.0.0.1", "api.example")


async def test_a_connection_with_something_unread_is_not_used_again() -> None:
    async def play(side: Side) -> None:
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await side.rest()

    async with raw_upstream(play) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        connection.pause_reading()
        upstream._pool.keep(connection)
        await until(lambda: not connection.usable())
        assert upstream._pool.free() is None
        assert connection.closed


async def test_over_tls_a_connection_with_something_undeciphered_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    """Event loops read on while they are not to hand on, so that the socket does not show it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    connects, paused = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        connects.set()
        await paused.wait()
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await side.rest()

    async with (
        raw_upstream(play, certificate.serve()) as url,
        connected(url) as upstream,
    ):
        connection = await upstream._pool.new()
        await connects.wait()
        await until(connection.usable)  # TLS itself has more to say at first
        connection.pause_reading()
        paused.set()
        await until(lambda: not connection.usable())
        await until(lambda: not readable(connection._socket))
        upstream._pool.keep(connection)
        assert upstream._pool.free() is None
        assert connection.closed


async def test_over_tls_a_request_is_encrypted_as_the_upstream_takes_it(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    """TLS keeps a buffer of the size of the most that ever waited in it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    seen = asyncio.Event()

    async def play(side: Side) -> None:
        await side.reader.readexactly(1)
        await seen.wait()

    async with raw_upstream(play, certificate.serve()) as url, connected(url) as upstream:
        body = bytes(16 << 20)
        call = asyncio.create_task(upstream.call("POST", "/v1/messages", [], body))
        await until(lambda: upstream.connections() == (1, 0))
        (connection,) = upstream._pool._all
        layers = (connection._transport, connection._plain)

        def waits() -> int:
            return sum(layer.get_write_buffer_size() for layer in layers)

        await until(lambda: connection._writable is not None or waits() > 1 << 20)
        assert waits() < 1 << 20
        seen.set()
        with pytest.raises(errors.UpstreamUnreachable):
            await call


async def test_a_connection_can_be_asked_at_every_turn_while_it_is_lost(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    """Over TLS it is told a turn after its socket was closed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    async with (
        raw_upstream(silent, certificate.serve()) as url,
        connected(url) as upstream,
    ):
        connection = await upstream._pool.new()
        assert connection.usable()
        connection._transport.abort()
        while not connection.closed:
            connection.usable()
            await asyncio.sleep(0)
        assert not connection.usable()


async def test_what_stands_beside_the_parts_of_a_body_is_counted_from_each() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(b"", "api", 9, 99, bodiless=False)
        connection.data_received(STREAM_HEAD)
        for _ in range(30_000):  # of which each is cut behind its size
            connection.data_received(b"1\r\n")
            connection.data_received(b"x\r\n")
            assert await answer.read() == b"x"
        connection.data_received(chunk(b""))
        assert await answer.read() == b""
        answer.close()


async def test_the_last_part_is_waited_for_like_any_other() -> None:
    sent: list[bytes] = []
    taken: list[bytes] = []

    async def send(part: bytes) -> None:
        sent.append(part)

    def take(part: bytes) -> Awaitable[None]:
        taken.append(part)
        return send(part)

    async with raw_upstream(silent) as url, connected(url) as upstream:
        answer = await ask(upstream)
        await answer.forward(take, enough=lambda: bool(taken))
        answer.close()
    assert sent == taken == [b"so far"]


def by_name(url: str) -> str:
    """The same place, by a name that the system knows."""
    return url.replace("127.0.0.1", "localhost")


async def test_names_that_nobody_answers_for_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor the end of a process, which waits for the threads of a loop and not for these."""
    answered = threading.Event()
    looked_for: list[threading.Thread] = []
    ask_system = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        if host.endswith(".example") and not more.get("flags"):
            looked_for.append(threading.current_thread())
            answered.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ask_system(host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with raw_upstream(said(ANSWER)) as url, AsyncExitStack() as silent:
        calls = []
        for number in range(40):
            upstream = await silent.enter_async_context(connected(f"http://{number}.example"))
            calls.append(asyncio.create_task(ask(upstream)))
        await until(lambda: len(looked_for) == len(calls))
        async with connected(by_name(url)) as upstream:
            (await ask(upstream)).close()
        answered.set()
        told = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in told} == {errors.UpstreamUnreachable}
    assert all(thread.daemon for thread in looked_for)


async def test_a_name_that_is_not_known_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left: weakref.WeakSet[OSError] = weakref.WeakSet()

    class Unknown(socket.gaierror):
        def __init__(self) -> None:
            super().__init__(socket.EAI_AGAIN, "Temporary failure in name resolution")
            left.add(self)

    def getaddrinfo(*_: object, **__: object) -> Any:
        raise Unknown

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    gc.disable()
    try:
        async with connected("http://api.example") as upstream:
            with suppress(Unknown):
                await upstream._pool.new()
            await until(lambda: not left)
    finally:
        gc.enable()


async def test_a_look_up_that_fails_itself_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all would wait for it, for as long as the proxy runs."""

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no address") if flags else MemoryError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with connected("http://api.example") as upstream:
        for _ in range(2):
            with pytest.raises(MemoryError):
                await upstream._pool.new()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_a_name_is_looked_for_where_no_thread_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    await asyncio.get_running_loop().getaddrinfo(None, 0)
    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        monkeypatch.setattr(threading.Thread, "start", start)
        (await ask(upstream)).close()
