"""Answers whose content-length is wrong: what is missing is told, and no more is taken for more."""

from __future__ import annotations

import pytest

from faults.answers import (
    BROKE_OFF,
    FAILED,
    check_cut,
    check_finished,
    check_good,
    check_refused,
    endings,
    parsed,
    unchunked,
)
from faults.kinds import BYTES, END, EXCHANGES, WHOLE, Exchange
from faults.proxies import Proxy

pytestmark = pytest.mark.anyio

FAILURE = 'ended="upstream failed" error="api_error: '


def begun_with(exchange: Exchange, length: int) -> tuple[bytes, bytes]:
    """The head of a good answer that announces ``length`` bytes, and the first part of its body."""
    head, _ = unchunked(exchange)
    first = parsed(b"".join(exchange.parts[:2]) + END).body
    return head[:-2] + b"content-length: %d\r\n\r\n" % (length or len(first)), first


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_what_is_shorter_than_its_length_was_cut(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    upstream = proxy.upstream
    upstream.good = exchange.good
    async with proxy.nothing_left():
        upstream.scripts.append(
            lambda side: upstream.answer(side, b"".join(begun_with(exchange, 9999)))
        )
        got = await proxy.ask(exchange.request)
        check_good(exchange, await proxy.ask(exchange.request))
    if exchange is BYTES:
        check_cut(got)
        assert got.endswith(b"first part")
    elif exchange is WHOLE:
        check_refused(got, 502, FAILED, BROKE_OFF)
    else:
        check_finished(got, FAILED, BROKE_OFF)
    assert endings(log) == [f'{FAILURE}{BROKE_OFF}"', "ended=complete"]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_a_stream_that_is_whole_but_for_its_length_is_whole(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    """Its last event says so; nothing does of other answers."""
    upstream = proxy.upstream
    head, body = unchunked(exchange)
    said = head[:-2] + b"content-length: %d\r\n\r\n" % (len(body) + 1) + body
    async with proxy.nothing_left():
        upstream.scripts.append(lambda side: upstream.answer(side, said))
        got = await proxy.ask(exchange.request)
    if exchange.streams:
        check_good(exchange, got)
        assert endings(log) == ["ended=complete"]
    else:
        if exchange is BYTES:
            check_cut(got)
        else:
            check_refused(got, 502, FAILED, BROKE_OFF)
        assert endings(log) == [f'{FAILURE}{BROKE_OFF}"']


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_what_is_longer_than_its_length_ends_there(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    """And what stands behind it is nobody's answer."""
    upstream = proxy.upstream
    upstream.good = exchange.good
    head, first = begun_with(exchange, 0)
    rest = unchunked(exchange)[1].removeprefix(first)
    async with proxy.nothing_left():
        connections = upstream.connections
        upstream.scripts.append(lambda side: upstream.answer(side, head + first + rest))
        got = await proxy.ask(exchange.request)
        check_good(exchange, await proxy.ask(exchange.request))
        assert upstream.connections == connections + 2
    if exchange is BYTES:
        assert parsed(got).whole
        assert parsed(got).body == b"first part"
        assert endings(log) == ["ended=complete"] * 2
        return
    if exchange is WHOLE:
        told = "upstream's answer is not JSON"
        check_refused(got, 502, FAILED, told)
    else:
        told = "upstream stopped before the end of its answer"
        check_finished(got, FAILED, told)
    assert endings(log) == [f'{FAILURE}{told}"', "ended=complete"]
