"""A fault of ours cuts an answer visibly, and leaves nobody waiting."""

from __future__ import annotations

import asyncio
import logging

import pytest

from faults.answers import check_cut, check_good, endings
from faults.kinds import BYTES, STREAMS, Exchange
from faults.proxies import Proxy
from proxy.exchange.client import Client
from proxy.upstream import answer
from support import Side

pytestmark = pytest.mark.anyio


async def good_with_a_fault_of_ours(
    proxy: Proxy, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> bytes:
    """What a client gets of a good answer, if memory runs out there once it has begun."""
    head, first, *rest = exchange.parts
    begun = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(head + first)
        await begun.wait()
        await side.say(b"".join(rest))

    def fault(*_: object) -> None:
        raise MemoryError

    proxy.upstream.scripts.append(play)
    left = proxy.nothing_left(but_in_memory=True)  # the test has the fault with its traceback
    async with left, await proxy.client(exchange.request) as client:
        got = await client.until(exchange.begun or b"")
        monkeypatch.setattr(*where, fault)
        begun.set()
        return got + await client.rest()


@pytest.mark.parametrize("exchange", [*STREAMS, BYTES], ids=lambda exchange: exchange.name)
async def test_what_a_fault_of_ours_cuts_does_not_look_whole(
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    exchange: Exchange,
) -> None:
    caplog.set_level(logging.INFO, "proxy.exchanges")
    where = (Client, "_write_at_once")
    check_cut(await good_with_a_fault_of_ours(proxy, exchange, monkeypatch, where))
    assert endings(caplog) == ["ended=crashed"]


@pytest.mark.parametrize("exchange", [*STREAMS, BYTES], ids=lambda exchange: exchange.name)
async def test_a_fault_of_ours_where_an_answer_arrives_leaves_nobody_waiting(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, exchange: Exchange
) -> None:
    loop = asyncio.get_running_loop()
    untold, tell = [], loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: untold.append(context["exception"]))
    try:
        where = (answer.Answer, "_hand_over")
        check_good(exchange, await good_with_a_fault_of_ours(proxy, exchange, monkeypatch, where))
    finally:
        loop.set_exception_handler(tell)
    assert [type(error) for error in untold] == [MemoryError]
