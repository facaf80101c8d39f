"""Connections to the upstream that are kept: which are used again, and which are closed."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref

import pytest

from proxy.core import errors
from proxy.runtime.sockets import readable
from proxy.upstream import pending, pool
from proxy.upstream.answer import Answer
from support import STREAM_HEAD, Certificate, Side, chunk, raw_upstream, reset, until
from upstream.harness import ask, connected, said, says_nothing_and_stays, silent

pytestmark = pytest.mark.anyio


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


async def test_an_answer_that_was_left_may_end_with_what_its_connection_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop reads no more of it once a write has failed. What follows its end is nobody's."""
    monkeypatch.setattr(pending, "UNREAD_SIZE", 16)
    stops, has_stopped = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(b"all that is wanted"))
        await stops.wait()
        await side.say(chunk(b"more") + chunk(b"") + b"x" * 99)
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


async def test_of_what_a_connection_leaves_not_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed in one turn of the loop."""
    monkeypatch.setattr(pending, "UNREAD_SIZE", 4)
    monkeypatch.setattr(pending, "LEFT_OVER", 10)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        theirs.send(b"0123456789abcdef")
        assert b"".join(pending.left_over(ours, None)) == b"0123456789ab"


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


async def test_a_connection_that_is_lost_before_its_call_is_told_at_once() -> None:
    async with raw_upstream(silent) as url, connected(url) as upstream:
        connection = await upstream._pool.new()
        connection.close()
        await until(lambda: upstream.connections() == (0, 0))
        answer = connection.call(b"GET / HTTP/1.1\r\n\r\n", "api", 60, 60, bodiless=False)
        with pytest.raises(errors.UpstreamUnreachable):
            await answer.head(60)


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


async def test_a_connection_that_is_about_to_be_closed_is_not_used() -> None:
    """What arrived unasked has been read by then: the socket itself tells no more of it."""
    async with raw_upstream(says_nothing_and_stays) as url, connected(url) as upstream:
        (await ask(upstream)).close()
        (connection,) = upstream._pool._all
        connection.data_received(b"HTTP/1.1 408 Too late\r\n\r\n")
        assert upstream._pool.free() is None
