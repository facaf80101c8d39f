"""Answers with bytes that are no UTF-8: an odd byte costs no client its answer."""

from __future__ import annotations

import json

import pytest

from faults.answers import endings, parsed, unchunked
from faults.kinds import BYTES, EXCHANGES, Exchange
from faults.proxies import Proxy

pytestmark = pytest.mark.anyio

ODD = b"\xffi\xc3"
"""A byte that no character has, and half of one."""

READ_AS = b"\xef\xbf\xbdi\xef\xbf\xbd"


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_a_byte_that_is_no_text_costs_nobody_an_answer(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    """What is translated is text again; what passes is what it was."""
    head, body = unchunked(exchange)
    body = body.replace(b"part" if exchange is BYTES else b"Hi", ODD)
    proxy.upstream.good = head[:-2] + b"content-length: %d\r\n\r\n" % len(body) + body
    async with proxy.nothing_left():
        got = parsed(await proxy.ask(exchange.request))
    assert got.whole
    assert (ODD if exchange is BYTES else READ_AS) in got.body
    if exchange.streams:
        *_, last, done = got.events
        assert json.loads(last)["completion"] == " " + READ_AS.decode()
        assert json.loads(last)["stop_reason"] == "stop_sequence"
        assert done == b"[DONE]"
    assert endings(log) == ["ended=complete"]
