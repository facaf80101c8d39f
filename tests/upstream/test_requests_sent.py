"""What is sent to the upstream: fields and target as they are, and the body as it takes it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator
from typing import Self

import pytest

from proxy.core import errors
from proxy.core.fields import Fields
from proxy.runtime.sockets import unacknowledged
from proxy.upstream.answer import Answer
from proxy.upstream.http1 import Connection
from proxy.upstream.request import PART
from support import PATIENCE, Certificate, Side, happened, raw_upstream, until
from upstream.harness import ask, connected, silent

pytestmark = pytest.mark.anyio


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
        await happened(ended)


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


@pytest.mark.skipif(sys.platform != "linux", reason="only there can the system be asked")
async def test_of_what_an_upstream_does_not_read_little_waits_in_the_system() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        answer = connection.call(bytes(16 << 20), "api", 60, 60, bodiless=False)
        opened = connection._socket
        await until(lambda: unacknowledged(opened) > 0)
        assert unacknowledged(opened) < 1 << 20
        answer.close()


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
        assert waits() < 256 << 10
        seen.set()
        with pytest.raises(errors.UpstreamUnreachable):
            await call
