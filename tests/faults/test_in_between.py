"""Faults while the proxy drains, and reloads at any moment: both change nothing for an exchange."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from faults.answers import (
    BROKE_OFF,
    CLOSED,
    FAILED,
    LATE,
    TOO_LATE,
    check_cut,
    check_finished,
    check_good,
    check_refused,
    endings,
)
from faults.kinds import AFTER_THE_HEAD, BYTES, EXCHANGES, UP_TO_BEGUN, Exchange, Moment
from faults.proxies import configuration, new_proxy
from faults.scripts import SOON, closes, half_closes, resets, scripted, stalls
from proxy.upstream.upstream import Upstream
from support import PATIENCE, Play, Side, happened, until

pytestmark = pytest.mark.anyio

FAULTS: dict[str, tuple[Play, str, str, int]] = {
    "closes": (closes, FAILED, BROKE_OFF, 502),
    "resets": (resets, FAILED, BROKE_OFF, 502),
    "half-closes": (half_closes, FAILED, BROKE_OFF, 502),
    "stalls": (stalls, LATE, TOO_LATE, 504),
}

KINDS = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
MOMENTS = pytest.mark.parametrize("moment", UP_TO_BEGUN, ids=lambda at: at.name)


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize("fault", FAULTS)
@KINDS
@MOMENTS
async def test_a_fault_in_a_drain_is_told_as_any(
    log: pytest.LogCaptureFixture, fault: str, exchange: Exchange, moment: Moment
) -> None:
    play, type_, message, status = FAULTS[fault]
    if moment is Moment.ASKED and type_ == FAILED:
        message = CLOSED
    impatient = {"first_byte": 4 * SOON, "idle": 4 * SOON} if type_ == LATE else {}
    draining, at = asyncio.Event(), asyncio.Event()

    async def begin(side: Side) -> None:
        at.set()
        await happened(draining)
        await play(side)

    there = asyncio.Event()
    there.set()
    async with new_proxy(PATIENCE, **impatient) as proxy:
        async with proxy.nothing_left():
            proxy.upstream.scripts.append(scripted(exchange, moment, there, begin))
            async with await proxy.client(exchange.request) as client:
                known = exchange.seen(moment)
                got = await client.until(known) if known else b""
                await happened(at)
                proxy.app.drain()
                draining.set()
                got += await client.rest()
        assert not proxy.app.ready
        assert proxy.upstream.connections == 1
    if exchange is BYTES and moment >= Moment.HEAD:
        check_cut(got)
    elif exchange.streams and moment is Moment.BEGUN:
        check_finished(got, type_, message)
    else:
        check_refused(got, status, type_, message)
    assert endings(log) == [f'ended="upstream failed" error="{type_}: {message}"']


@pytest.mark.usefixtures("anyio_backend")
@KINDS
@MOMENTS
async def test_a_client_that_leaves_in_a_drain_takes_its_call_along(
    log: pytest.LogCaptureFixture, exchange: Exchange, moment: Moment
) -> None:
    there, at, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    there.set()

    async def rests(side: Side) -> None:
        at.set()
        assert await side.rest() == b""
        closed.set()

    async with new_proxy(PATIENCE) as proxy, proxy.nothing_left():
        proxy.upstream.scripts.append(scripted(exchange, moment, there, rests))
        async with await proxy.client(exchange.request) as client:
            known = exchange.seen(moment)
            if known:
                await client.until(known)
            await happened(at)
            proxy.app.drain()
        await happened(closed)
    when = "mid-stream" if known else "before the first byte"
    assert endings(log) == [f'ended="client left {when}"']


@pytest.mark.usefixtures("anyio_backend")
@KINDS
@pytest.mark.parametrize("moment", [Moment.ASKED, *AFTER_THE_HEAD], ids=lambda at: at.name)
async def test_a_reload_at_any_moment_cuts_nothing(
    log: pytest.LogCaptureFixture, exchange: Exchange, moment: Moment
) -> None:
    """What was begun ends on the old configuration, whose connections go with it."""
    there, at, reloaded = asyncio.Event(), asyncio.Event(), asyncio.Event()
    there.set()

    async def goes_on(side: Side) -> None:
        at.set()
        await happened(reloaded)
        await side.say(b"".join(exchange.parts[moment - Moment.ASKED :]))
        assert await side.rest() == b""

    async with new_proxy() as proxy, proxy.nothing_left():
        upstream = proxy.upstream
        upstream.good = exchange.good
        upstream.scripts.append(scripted(exchange, moment, there, goes_on))
        async with await proxy.client(exchange.request) as client:
            known = exchange.seen(moment)
            got = await client.until(known) if known else b""
            await happened(at)
            (settings,) = proxy.app.config.upstreams.values()
            again = configuration(settings.base_url, {"idle": PATIENCE})
            await proxy.app.reload(again)
            check_good(exchange, await proxy.ask(exchange.request))
            reloaded.set()
            check_good(exchange, got + await client.rest())
        assert upstream.connections == 2
        await until(lambda: upstream.open == 1)  # that of the configuration in force
    assert endings(log) == ["ended=complete"] * 2


@pytest.mark.usefixtures("anyio_backend")
@KINDS
@MOMENTS
async def test_a_reload_that_fails_at_any_moment_cuts_nothing(
    log: pytest.LogCaptureFixture, exchange: Exchange, moment: Moment
) -> None:
    there, at, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
    there.set()

    async def goes_on(side: Side) -> None:
        at.set()
        await happened(tried)
        await side.say(b"".join(exchange.parts[moment - Moment.ASKED :]))
        await proxy.upstream.behave(side)

    def fails(_: object) -> Upstream:
        raise OSError("no certificates")

    async with new_proxy() as proxy, proxy.nothing_left():
        proxy.upstream.good = exchange.good
        proxy.upstream.scripts.append(scripted(exchange, moment, there, goes_on))
        async with await proxy.client(exchange.request) as client:
            known = exchange.seen(moment)
            got = await client.until(known) if known else b""
            await happened(at)
            proxy.app._connect = fails
            with pytest.raises(OSError, match="no certificates"):
                await proxy.app.reload(replace(proxy.app.config))
            tried.set()
            check_good(exchange, got + await client.rest())
            check_good(exchange, await proxy.ask(exchange.request))
        assert proxy.upstream.connections == 1
    assert endings(log) == ["ended=complete"] * 2
