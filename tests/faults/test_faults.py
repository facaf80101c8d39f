"""Whatever fails, the client gets an error, the log says why, and nothing is left open.

The tests are a table: each fault, the moments at which it can happen, and its effect on each kind
of exchange. Each case runs over real sockets; afterwards the proxy must have open what it had
before, hold nothing of it in memory, and must serve the next request. Beside these there are used
connections (test_reuse), drains and reloads (test_in_between). Signals need a process of their own:
test_cli and test_reload have SIGTERM, once and twice, and SIGHUP with a good and a broken file.
"""

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
    TOO_LONG,
    TOO_MUCH,
    check_cut,
    check_finished,
    check_good,
    check_refused,
    endings,
)
from faults.kinds import (
    AFTER_THE_HEAD,
    BEFORE_THE_HEAD,
    BRIDGED,
    BYTES,
    COMPLETION,
    END,
    EXCHANGES,
    JSON_HEAD,
    NATIVE,
    STREAMS,
    TRANSLATED,
    UP_TO_BEGUN,
    WHOLE,
    Exchange,
    Moment,
)
from faults.proxies import EVENT_LIMIT, Proxies, Proxy
from faults.scripts import (
    LONG,
    closes,
    drips,
    goes_on,
    half_closes,
    resets,
    says,
    says_last,
    scripted,
    stalls,
)
from support import STREAM_HEAD, Play, chunk

pytestmark = pytest.mark.anyio


def check_told(fault: Fault, moment: Moment, exchange: Exchange, got: bytes) -> str:
    """Check that the client of an exchange was told of a fault; returns what the log must say."""
    if exchange.streams and moment is Moment.ALL_BUT_THE_END:
        check_good(exchange, got)  # it was all there, and no byte that is missing is one of ours
        return "ended=complete"
    if exchange is BYTES and moment >= Moment.HEAD:
        check_cut(got)
    elif exchange.streams and moment is Moment.BEGUN:
        check_finished(got, fault.type, fault.message)
    else:
        check_refused(got, fault.status, fault.type, fault.message)
    return f'ended="upstream failed" error="{fault.type}: {fault.message}"'


@dataclass(frozen=True)
class Fault:
    """What an upstream does, when, and what is told of it; ``patience`` names what runs out."""

    name: str
    moments: tuple[Moment, ...]
    play: Play
    message: str
    status: int = 502
    type: str = FAILED
    exchanges: tuple[Exchange, ...] = EXCHANGES
    patience: str = ""


FAULTS = (
    Fault("closes", BEFORE_THE_HEAD, closes, CLOSED),
    Fault("closes", AFTER_THE_HEAD, closes, BROKE_OFF),
    Fault("resets", BEFORE_THE_HEAD, resets, CLOSED),
    Fault("resets", AFTER_THE_HEAD, resets, BROKE_OFF),
    Fault("half-closes", BEFORE_THE_HEAD, half_closes, CLOSED),
    Fault("half-closes", AFTER_THE_HEAD, half_closes, BROKE_OFF),
    Fault("stalls", BEFORE_THE_HEAD, stalls, TOO_LATE, 504, LATE, patience="first_byte"),
    Fault("stalls", AFTER_THE_HEAD, stalls, TOO_LATE, 504, LATE, patience="idle"),
    Fault(
        "goes on for ever",
        (Moment.HEAD, Moment.BEGUN),
        goes_on,
        TOO_LONG,
        504,
        LATE,
        patience="total",
    ),
    Fault("no HTTP", (Moment.ASKED,), says(b"SSH-2.0-OpenSSH_9.2\r\n"), NO_HTTP),
    Fault("HTTP/2", (Moment.ASKED,), says(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), NO_HTTP),
    Fault("half a head", (Moment.ASKED,), says_last(b"HTTP/1.1 200 OK\r\nx-a"), CLOSED),
    Fault(
        "half a head, then silence",
        (Moment.ASKED,),
        says(b"HTTP/1.1 200 OK\r\nx-a"),
        TOO_LATE,
        504,
        LATE,
        patience="first_byte",
    ),
    Fault(
        "an endless field",
        (Moment.ASKED,),
        says(b"HTTP/1.1 200 OK\r\nx-a: " + LONG),
        "upstream api sent too large a head",
    ),
    Fault(
        "an endless reason",
        (Moment.ASKED,),
        says(b"HTTP/1.1 200 " + LONG),
        "upstream api sent too large a head",
    ),
    Fault(
        "interim heads without end",
        (Moment.ASKED,),
        drips,
        "upstream api sent too large a head",
    ),
    Fault(
        "another protocol",
        (Moment.ASKED,),
        says(b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
        "upstream answered with status 101",
    ),
    Fault(
        "two framings",
        (Moment.ASKED,),
        says(STREAM_HEAD[:-2] + b"content-length: 3\r\n\r\n"),
        NO_HTTP,
    ),
    Fault(
        "two lengths",
        (Moment.ASKED,),
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
        NO_HTTP,
    ),
    Fault(
        "a control character",
        (Moment.ASKED,),
        says(b"HTTP/1.1 200 OK\r\nx-a: a\x01b\r\ncontent-length: 0\r\n\r\n"),
        NO_HTTP,
    ),
    Fault("no size of a chunk", AFTER_THE_HEAD, says(b"zz\r\n"), NO_HTTP),
    Fault("too large a size", AFTER_THE_HEAD, says(b"f" * 17 + b"\r\n"), NO_HTTP),
    Fault("a negative size", AFTER_THE_HEAD, says(b"-1\r\n"), NO_HTTP),
    Fault(
        "half a size, then silence",
        AFTER_THE_HEAD,
        says(b"4"),
        TOO_LATE,
        504,
        LATE,
        EXCHANGES,
        "idle",
    ),
    Fault("half a chunk", (Moment.HEAD, Moment.BEGUN), says_last(b"40\r\ndata: x"), BROKE_OFF),
    Fault(
        "no end of a chunk", (Moment.HEAD,), says(b"3\r\n:\n\nxx"), NO_HTTP, exchanges=TRANSLATED
    ),
    Fault("an endless extension", AFTER_THE_HEAD, says(b"5;" + LONG), TOO_MUCH),
    Fault("an endless trailer", (Moment.ALL_BUT_THE_END,), says(b"0\r\nx-a: " + LONG), TOO_MUCH),
    Fault(
        "an oversized event",
        (Moment.HEAD, Moment.BEGUN),
        says(chunk(b"data: x\n" * EVENT_LIMIT)),
        f"upstream sent an event of more than {EVENT_LIMIT} bytes",
        exchanges=STREAMS,
    ),
    Fault(
        "an endless line",
        (Moment.HEAD, Moment.BEGUN),
        says(chunk(LONG)),
        f"upstream sent an event of more than {EVENT_LIMIT} bytes",
        exchanges=STREAMS,
    ),
    *(
        Fault(
            "no JSON, then the end",  # in one read, which ends the answer with the fault
            (Moment.HEAD, Moment.BEGUN),
            says_last(chunk(b"event: %b\ndata: {\n\n" % event) + END),
            "upstream sent an event that is not JSON",
            exchanges=(exchange,),
        )
        for exchange, event in ((NATIVE, b"completion"), (BRIDGED, b"content_block_delta"))
    ),
    Fault(
        "the end before the first event",
        (Moment.HEAD,),
        says_last(END),
        "upstream's stream ended before its first event",
        exchanges=STREAMS,
    ),
    Fault(
        "the end in the middle",
        (Moment.BEGUN,),
        says_last(END),
        "upstream's answer is not JSON",
        exchanges=(WHOLE,),
    ),
    Fault(
        "too short a length",
        (Moment.ASKED,),
        says(JSON_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 20") + COMPLETION),
        "upstream's answer is not JSON",
        exchanges=(WHOLE,),
    ),
    Fault(
        "too long a length",
        (Moment.ASKED,),
        says_last(
            JSON_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 999") + COMPLETION
        ),
        BROKE_OFF,
        exchanges=(WHOLE,),
    ),
    Fault(
        "an unknown coding",
        (Moment.ASKED,),
        says_last(STREAM_HEAD[:-2] + b"content-encoding: br\r\n\r\n" + chunk(LONG) + END),
        "upstream sent content-encoding 'br' though asked not to",
        exchanges=STREAMS,
    ),
    Fault(
        "an unknown coding",
        (Moment.ASKED,),
        says_last(JSON_HEAD[:-2] + b"content-encoding: br\r\n\r\n" + chunk(LONG) + END),
        "upstream sent content-encoding 'br' though asked not to",
        exchanges=(WHOLE,),
    ),
    Fault(
        "gzip that is none",
        (Moment.ASKED,),
        says_last(
            STREAM_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(b"data: {}\n\n") + END
        ),
        "upstream's answer is not in its content-encoding",
        exchanges=STREAMS,
    ),
    Fault(
        "gzip that is none",
        (Moment.ASKED,),
        says_last(JSON_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(COMPLETION) + END),
        "upstream's answer is not in its content-encoding",
        exchanges=(WHOLE,),
    ),
    Fault(
        "a redirection",
        (Moment.ASKED,),
        says_last(
            b"HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        ),
        "upstream answered with status 307",
        exchanges=TRANSLATED,
    ),
    Fault(
        "another status",
        (Moment.ASKED,),
        says_last(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "upstream answered with status 204",
        exchanges=TRANSLATED,
    ),
)

CASES = [
    pytest.param(fault, moment, exchange, id=f"{fault.name}-{moment.name.lower()}-{exchange.name}")
    for fault in FAULTS
    for moment in fault.moments
    for exchange in fault.exchanges
]


@pytest.mark.parametrize(("fault", "moment", "exchange"), CASES)
async def test_a_fault_of_the_upstream(
    fault: Fault,
    moment: Moment,
    exchange: Exchange,
    proxies: Proxies,
    log: pytest.LogCaptureFixture,
) -> None:
    proxy = proxies[fault.patience]
    seen = asyncio.Event()
    proxy.upstream.good = exchange.good
    proxy.upstream.scripts.clear()
    async with proxy.nothing_left():
        proxy.close_free()
        connections = proxy.upstream.connections
        proxy.upstream.scripts.append(scripted(exchange, moment, seen, fault.play))
        async with await proxy.client(exchange.request) as client:
            known = exchange.seen(moment)
            got = await client.until(known) if known else b""
            seen.set()
            got += await client.rest()
        ended = check_told(fault, moment, exchange, got)
        assert proxy.upstream.connections == connections + 1  # it is not asked once more
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == [ended, "ended=complete"]


OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
REFUSED = 'ended="upstream refused" error=overloaded_error'


ERRORS = [(exchange, moment) for exchange in STREAMS for moment in UP_TO_BEGUN]
ERRORS += [(WHOLE, Moment.ASKED)]


@pytest.mark.parametrize(("exchange", "moment"), ERRORS, ids=lambda each: each.name)
async def test_an_error_of_the_upstream_itself(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange, moment: Moment
) -> None:
    error = chunk(b"event: error\ndata: " + OVERLOADED + b"\n\n") + END
    if moment is Moment.ASKED:
        error = b"HTTP/1.1 529 \r\ncontent-length: %d\r\n\r\n" % len(OVERLOADED) + OVERLOADED
    proxy.upstream.good = b"".join(exchange.parts[: moment - Moment.ASKED]) + error
    async with proxy.nothing_left():
        got = await proxy.ask(exchange.request)
    if moment is Moment.BEGUN:
        check_finished(got, "overloaded_error", "Overloaded")
    else:
        check_refused(got, 529, "overloaded_error", "Overloaded")
    assert endings(log) == [REFUSED]


@pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.name)
async def test_an_error_behind_the_last_event_spoils_nothing(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    error = chunk(b"event: error\ndata: " + OVERLOADED + b"\n\n") + END
    proxy.upstream.good = b"".join(exchange.parts[:3]) + error
    async with proxy.nothing_left():
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == ["ended=complete"]
