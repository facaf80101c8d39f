"""A connection that was used before, and is not what it was."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from faults.answers import (
    BROKE_OFF,
    CLOSED,
    FAILED,
    LATE,
    NO_HTTP,
    TOO_LATE,
    check_cut,
    check_finished,
    check_good,
    check_refused,
    endings,
    with_length,
)
from faults.kinds import BYTES, END, EXCHANGES, LARGE, NATIVE, WHOLE, Exchange, Moment
from faults.proxies import Proxies, Proxy
from faults.scripts import (
    closes,
    closes_at_reuse,
    half_closes,
    resets,
    says,
    says_last,
    scripted,
    stalls,
)
from support import Play, Side, chunk, happened, until

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Reuse:
    """What an upstream does when it is asked again; ``tries`` is how often it is then."""

    play: Play
    tries: int
    message: str = ""
    and_then: tuple[Play, ...] = ()


async def asked_and_closes(side: Side) -> None:
    await side.request()


REUSES = {
    "closes": Reuse(closes, 2),
    "resets": Reuse(resets, 2),
    "half-closes": Reuse(half_closes, 2),
    "closes again": Reuse(closes, 1, CLOSED, (asked_and_closes,)),
    "begins to answer": Reuse(says_last(b"HTTP/1.1 2"), 1, CLOSED),
    "answers with garbage": Reuse(says(b"garbage"), 1, NO_HTTP),
}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
@pytest.mark.parametrize("reuse", REUSES.values(), ids=REUSES.keys())
async def test_a_request_is_repeated_once_if_nothing_was_heard_of_it(
    proxy: Proxy, log: pytest.LogCaptureFixture, reuse: Reuse, exchange: Exchange
) -> None:
    upstream = proxy.upstream
    upstream.good = exchange.good
    async with proxy.nothing_left():
        upstream.scripts.extend((closes_at_reuse(upstream, reuse.play), *reuse.and_then))
        check_good(exchange, await proxy.ask(exchange.request))
        requests = upstream.requests
        got = await proxy.ask(exchange.request)
        if reuse.message:
            check_refused(got, 502, FAILED, reuse.message)
        else:
            check_good(exchange, got)
        assert upstream.requests - requests == reuse.tries
        assert not upstream.scripts
        check_good(exchange, await proxy.ask(exchange.request))
    assert len(endings(log)) == 3


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_a_request_that_nothing_is_heard_of_is_not_repeated(
    proxies: Proxies, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    """As long as the connection is there, somebody may be at work on it."""
    proxy = proxies["first_byte"]
    upstream = proxy.upstream
    upstream.good = exchange.good
    async with proxy.nothing_left():
        upstream.scripts.append(closes_at_reuse(upstream, stalls))
        check_good(exchange, await proxy.ask(exchange.request))
        requests = upstream.requests
        check_refused(await proxy.ask(exchange.request), 504, LATE, TOO_LATE)
        assert upstream.requests - requests == 1
        check_good(exchange, await proxy.ask(exchange.request))
    failed = f'ended="upstream failed" error="{LATE}: {TOO_LATE}"'
    assert endings(log) == ["ended=complete", failed, "ended=complete"]


BREAKS = {
    "closes": (closes, "", FAILED, BROKE_OFF, 502),
    "resets": (resets, "", FAILED, BROKE_OFF, 502),
    "half-closes": (half_closes, "", FAILED, BROKE_OFF, 502),
    "stalls": (stalls, "idle", LATE, TOO_LATE, 504),
    "says what is no chunk": (says(b"zz\r\n"), "", FAILED, NO_HTTP, 502),
}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
@pytest.mark.parametrize("breaks", BREAKS)
async def test_an_answer_that_breaks_off_on_a_used_connection_is_not_asked_for_again(
    proxies: Proxies, log: pytest.LogCaptureFixture, breaks: str, exchange: Exchange
) -> None:
    play, patience, type_, message, status = BREAKS[breaks]
    proxy = proxies[patience]
    upstream = proxy.upstream
    upstream.good = exchange.good
    seen = asyncio.Event()

    async def used(side: Side) -> None:
        await upstream.answer(side)
        await scripted(exchange, Moment.BEGUN, seen, play)(side)

    async with proxy.nothing_left():
        connections = upstream.connections
        upstream.scripts.append(used)
        check_good(exchange, await proxy.ask(exchange.request))
        async with await proxy.client(exchange.request) as client:
            got = await client.until(exchange.begun) if exchange.begun else b""
            seen.set()
            got += await client.rest()
        assert upstream.connections == connections + 1
        check_good(exchange, await proxy.ask(exchange.request))
    if exchange is BYTES:
        check_cut(got)
    elif exchange.streams:
        check_finished(got, type_, message)
    else:
        check_refused(got, status, type_, message)
    failed = f'ended="upstream failed" error="{type_}: {message}"'
    assert endings(log) == ["ended=complete", failed, "ended=complete"]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_a_request_that_was_perhaps_worked_on_is_not_repeated(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, exchange: Exchange
) -> None:
    monkeypatch.setattr("proxy.upstream.upstream.AT_ONCE", 0.0)
    upstream = proxy.upstream
    upstream.good = exchange.good
    async with proxy.nothing_left():
        upstream.scripts.append(closes_at_reuse(upstream, closes))
        check_good(exchange, await proxy.ask(exchange.request))
        requests = upstream.requests
        check_refused(await proxy.ask(exchange.request), 502, FAILED, CLOSED)
        assert upstream.requests - requests == 1


UNKNOWN = (
    b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n"
    b"anthropic-version: 2023-06-01\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"abc") + END
)


@pytest.mark.parametrize("rested", [False, True], ids=["fresh", "rested"])
@pytest.mark.parametrize("request_", [LARGE, UNKNOWN], ids=["large", "of unknown size"])
async def test_a_body_that_is_not_kept_avoids_connections_that_may_be_about_to_close(
    proxy: Proxy, log: pytest.LogCaptureFixture, request_: bytes, *, rested: bool
) -> None:
    upstream = proxy.upstream
    upstream.good = BYTES.good
    async with proxy.nothing_left():
        upstream.scripts.append(closes_at_reuse(upstream, closes))
        check_good(BYTES, await proxy.ask(BYTES.request))
        await until(lambda: len(proxy.pool._free) == 1)
        if rested:
            for connection in proxy.pool._free:
                proxy.pool._free[connection] -= 1.1
        got = await proxy.ask(request_)
        if rested:
            check_good(BYTES, got)
        else:
            check_refused(got, 502, FAILED, CLOSED)
    assert len(endings(log)) == 2


async def test_what_comes_unasked_on_a_free_connection_is_no_answer(proxy: Proxy) -> None:
    upstream = proxy.upstream
    upstream.good = WHOLE.good
    closed = asyncio.Event()

    async def play(side: Side) -> None:
        await upstream.answer(side)
        await until(lambda: len(proxy.pool._free) == 1)
        await side.say(with_length(NATIVE))
        assert await side.rest() == b""
        closed.set()

    async with proxy.nothing_left():
        upstream.scripts.append(play)
        check_good(WHOLE, await proxy.ask(WHOLE.request))
        await happened(closed)
        check_good(WHOLE, await proxy.ask(WHOLE.request))
