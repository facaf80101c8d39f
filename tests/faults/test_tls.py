"""Upstreams over TLS: what fails before an answer, and how its end must be told."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from faults.answers import (
    BROKE_OFF,
    CLOSED,
    FAILED,
    TOO_LATE,
    check_cut,
    check_good,
    check_refused,
    check_unreachable,
    endings,
    parsed,
    unchunked,
    unreachable,
)
from faults.kinds import BYTES, END, EXCHANGES
from faults.proxies import ScriptedUpstream, paused, proxied
from faults.scripts import (
    LONG,
    SOON,
    closes,
    closes_at_reuse,
    hears_and_closes,
    resets,
    says,
    stalls,
)
from support import Certificate, Play, Side, chunk, raw_upstream

pytestmark = pytest.mark.anyio

TLS_FAULTS: dict[str, tuple[str, str, Play | None, str, int]] = {
    "untrusted": ("wrong", "right", None, unreachable("TLS failed"), 502),
    "another host": ("wrong", "wrong", None, unreachable("TLS failed"), 502),
    "plain text": ("right", "", says(b"220 what?\r\n"), unreachable("TLS failed"), 502),
    "closes": ("right", "", hears_and_closes, unreachable("connecting failed"), 502),
    "stalls": ("right", "", stalls, TOO_LATE, 504),
}
"""What is trusted, what is shown, or what is said instead of TLS; and what is told of it."""


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize("fault", TLS_FAULTS)
async def test_an_upstream_whose_tls_fails(
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    certificates: dict[str, Certificate],
    fault: str,
) -> None:
    trusted, shown, play, message, status = TLS_FAULTS[fault]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[trusted].file))
    tls = certificates[shown].serve() if shown else None
    timeouts = {"connect": SOON} if status == 504 else {}
    upstream = ScriptedUpstream()
    upstream.scripts.extend([play] * len(EXCHANGES) if play else [])
    async with (
        raw_upstream(upstream.play, tls) as url,
        proxied(upstream, url.replace("http:", "https:"), timeouts) as proxy,
    ):
        await check_unreachable(proxy, log, message, status)


def says_no_more(side: Side) -> None:
    """Close one direction of the connection, of which TLS knows nothing."""
    opened: socket.socket = side.writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(opened.fileno())) as same:
        same.shutdown(socket.SHUT_WR)


async def says_what_nobody_can_decipher(side: Side) -> None:
    opened: socket.socket = side.writer.get_extra_info("socket")
    os.write(opened.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await side.rest()


async def closes_without_goodbye(side: Side) -> None:
    says_no_more(side)
    await side.rest()


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize(
    ("play", "tries"),
    [(says_what_nobody_can_decipher, 1), (closes_without_goodbye, 2), (closes, 2), (resets, 2)],
    ids=["says what nobody can decipher", "closes without a goodbye", "closes", "resets"],
)
async def test_over_tls_a_request_is_repeated_if_nothing_was_heard_of_it(
    monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Certificate], play: Play, tries: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    upstream = ScriptedUpstream()
    upstream.good = BYTES.good
    async with (
        raw_upstream(upstream.play, certificates["right"].serve()) as url,
        proxied(upstream, url, {}) as proxy,
        proxy.nothing_left(),
    ):
        upstream.scripts.append(closes_at_reuse(upstream, play))
        check_good(BYTES, await proxy.ask(BYTES.request))
        requests = upstream.requests
        got = await proxy.ask(BYTES.request)
        if tries == 1:
            check_refused(got, 502, FAILED, CLOSED)
        else:
            check_good(BYTES, got)
        assert upstream.requests - requests == tries


@pytest.mark.usefixtures("anyio_backend")
async def test_over_tls_an_end_must_be_told(
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    certificates: dict[str, Certificate],
) -> None:
    """Else anyone between could cut an answer that lasts until the connection does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    upstream = ScriptedUpstream()
    answer = b"".join(unchunked(BYTES))

    async def says_goodbye(side: Side) -> None:
        await upstream.answer(side, answer)

    async def is_cut(side: Side) -> None:
        await upstream.answer(side, answer)
        says_no_more(side)
        await side.rest()

    async with (
        raw_upstream(upstream.play, certificates["right"].serve()) as url,
        proxied(upstream, url, {}) as proxy,
        proxy.nothing_left(),
    ):
        upstream.scripts.extend([says_goodbye, is_cut])
        check_good(BYTES, await proxy.ask(BYTES.request))
        check_cut(await proxy.ask(BYTES.request))
        for exchange in EXCHANGES:
            upstream.good = exchange.good
            check_good(exchange, await proxy.ask(exchange.request))
    failed = f'ended="upstream failed" error="api_error: {BROKE_OFF}"'
    assert endings(log) == ["ended=complete", failed, *["ended=complete"] * len(EXCHANGES)]


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize(
    ("framed", "goodbye"),
    [(False, True), (True, True), (True, False)],
    ids=["until closed", "chunked", "chunked, without a goodbye"],
)
async def test_over_tls_an_end_is_heard_behind_all_that_a_slow_client_has_not_taken(
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    certificates: dict[str, Certificate],
    *,
    framed: bool,
    goodbye: bool,
) -> None:
    """It arrives while the upstream is made to wait, with the last of its answer."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    upstream = ScriptedUpstream()
    sent = 0
    closes = asyncio.Event()

    async def play(side: Side) -> None:
        nonlocal sent
        await side.request()
        await side.say(BYTES.parts[0] if framed else unchunked(BYTES)[0])
        while not paused(slow):
            await side.say(chunk(LONG) if framed else LONG)
            sent += len(LONG)
            for _ in range(9):  # or more were on its way than the proxy has room for
                await asyncio.sleep(0)
        await side.say(chunk(b"last") + END if framed else b"last")
        if not goodbye:
            says_no_more(side)
        closes.set()
        if not goodbye:
            await side.rest()

    async with (
        raw_upstream(upstream.play, certificates["right"].serve()) as url,
        proxied(upstream, url, {}) as slow,
        slow.nothing_left(),
    ):
        upstream.scripts.append(play)
        async with await slow.client(BYTES.request) as client:
            await closes.wait()
            for _ in range(99):
                await asyncio.sleep(0)
            answer = parsed(await client.rest())
    assert answer.whole
    assert (len(answer.body), answer.body[-4:]) == (sent + 4, b"last")
    assert endings(log) == ["ended=complete"]


@pytest.mark.usefixtures("anyio_backend")
async def test_no_other_protocol_is_offered(
    monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Certificate]
) -> None:
    """Whoever offers HTTP/2 gets it from most servers."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    tls = certificates["right"].serve()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    agreed: list[str | None] = []
    upstream = ScriptedUpstream()
    upstream.good = BYTES.good

    async def play(side: Side) -> None:
        agreed.append(side.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await upstream.play(side)

    async with raw_upstream(play, tls) as url, proxied(upstream, url, {}) as proxy:
        check_good(BYTES, await proxy.ask(BYTES.request))
    assert agreed in ([None], ["http/1.1"])
