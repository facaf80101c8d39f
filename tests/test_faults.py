"""Whatever fails, the client gets an error, the log says why, and nothing is left open.

The tests are a table: each fault, the moments at which it can happen, and its effect on each kind
of exchange. Each case runs over real sockets; afterwards the proxy must have open what it had
before, and must serve the next request. Signals need a process of their own: test_cli and
test_reload have SIGTERM, once and twice, and SIGHUP with a good and with a broken file.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import socket
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from unittest.mock import AsyncMock

import pytest
from starlette.types import Message

from proxy.core.jsontext import MOST_AT_ONCE
from proxy.exchange.client import Client
from proxy.exchange.exchange import RESENDABLE
from proxy.exchange.exchanges import OpenExchanges
from proxy.exchange.extensions import ClientLeft
from proxy.exchange.relay import Relay
from proxy.exchange.streaming import IN_A_TURN
from proxy.translation.stream import StreamTranslation
from proxy.upstream import answer, http1
from proxy.upstream.coding import PIECE, SLICE, Decoding
from proxy.upstream.upstream import Upstream
from stage import (
    BRIDGED,
    BYTES,
    COMPLETION,
    END,
    EVENT_LIMIT,
    JSON_HEAD,
    NATIVE,
    ROADS,
    STREAMS,
    TRANSLATED,
    WHOLE,
    Moment,
    Proxy,
    Road,
    Stage,
    proxied,
    staged,
)
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Certificate,
    Play,
    Side,
    chunk,
    completion,
    post,
    raw_upstream,
    reset,
    settings,
    until,
)

pytestmark = pytest.mark.anyio

SOON = 0.05
"""Seconds that a proxy waits which is to run out of patience."""


@pytest.fixture(
    scope="module", params=[False, True], ids=["asyncio", "uvloop"]
)  # the one runs on every machine, the other is what runs in earnest
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


Proxies = dict[str, Proxy]


@pytest.fixture(scope="module")
async def proxies(anyio_backend: object) -> AsyncIterator[Proxies]:
    """Proxies in front of one stage that differ in what they have no patience for."""
    stage = Stage()
    impatient = {
        "": {},
        "first_byte": {"first_byte": SOON},
        "idle": {"idle": SOON},
        "total": {"total": 3 * SOON},
    }
    async with raw_upstream(stage.play) as upstream, AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(proxied(stage, upstream, timeouts))
            for name, timeouts in impatient.items()
        }
        for proxy in proxies.values():
            proxy.before = proxy.open_now()
        yield proxies


@pytest.fixture
def proxy(proxies: Proxies) -> Proxy:
    """A proxy with all the patience that proxies have."""
    return proxies[""]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of exchanges; a warning of any other logger fails the test."""
    caplog.set_level(logging.INFO, "proxy.exchanges")
    yield caplog
    others = {record.name for record in caplog.records} - {"proxy.exchanges"}
    assert others <= {"uvicorn.error"}  # of responses that are cut
    assert not [record for record in caplog.records if record.exc_info]


def endings(log: pytest.LogCaptureFixture) -> list[str]:
    """How the exchanges ended according to the log, and by which error."""
    lines = [record.getMessage() for record in log.records if record.name == "proxy.exchanges"]
    return [line[line.index("ended=") : line.index(" bytes_received=")] for line in lines]


# What a client can be told.

FAILED = "api_error"
LATE = "timeout_error"


@dataclass(frozen=True)
class Answer:
    """What a client got, taken apart."""

    status: int
    body: bytes
    whole: bool

    @property
    def events(self) -> list[bytes]:
        """The data of its events."""
        return [event.partition(b"data: ")[2] for event in self.body.split(b"\r\n\r\n")[:-1]]


def parsed(got: bytes) -> Answer:
    """An answer that ended with its connection."""
    head, _, body = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    lower = head.lower() + b"\r\n"
    if b"content-length: " in lower:
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return Answer(status, body, len(body) == length)
    parts: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return Answer(status, b"".join(parts), rest == b"\r\n")
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return Answer(status, b"".join(parts), whole=False)


def check_refused(got: bytes, status: int, type_: str, message: str) -> None:
    answer = parsed(got)
    assert answer.whole
    assert (answer.status, json.loads(answer.body)) == (
        status,
        {"type": "error", "error": {"type": type_, "message": message}},
    )


def check_finished(got: bytes, type_: str, message: str) -> None:
    """A stream that failed: all the text that there was, why there is no more, and a proper end."""
    answer = parsed(got)
    assert answer.whole
    *_, last, done = answer.events
    event = json.loads(last)
    assert (event["completion"], event["stop_reason"]) == (" Hi", "max_tokens")
    assert event["exception"] == f"{type_}: {message}"
    assert done == b"[DONE]"


def check_good(road: Road, got: bytes) -> None:
    answer = parsed(got)
    assert answer.whole
    assert answer.status == 200
    if road.streams:
        *_, last, done = answer.events
        assert json.loads(last)["completion"] == " Hi"
        assert json.loads(last)["stop_reason"] == "stop_sequence"
        assert json.loads(last)["exception"] is None
        assert done == b"[DONE]"
    elif road is WHOLE:
        assert json.loads(answer.body)["completion"] == " Hi"
    else:
        assert answer.body == b"first partlast part"


def check_cut(got: bytes) -> None:
    answer = parsed(got)
    assert answer.status == 200
    assert not answer.whole


def check_told(fault: Fault, moment: Moment, road: Road, got: bytes) -> str:
    """Check that the client of a road was told of a fault; returns what the log must say."""
    if road.streams and moment is Moment.ALL_BUT_THE_END:
        check_good(road, got)  # it was all there, and no byte that is missing is one of ours
        return "ended=complete"
    if road is BYTES and moment >= Moment.HEAD:
        check_cut(got)
    elif road.streams and moment is Moment.BEGUN:
        check_finished(got, fault.type, fault.message)
    else:
        check_refused(got, fault.status, fault.type, fault.message)
    return f'ended="upstream failed" error="{fault.type}: {fault.message}"'


# Faults of an upstream.

BEFORE_THE_HEAD = (Moment.ACCEPTED, Moment.ASKED_IN_PART, Moment.ASKED)
UP_TO_BEGUN = (Moment.ASKED, Moment.HEAD, Moment.BEGUN)
AFTER_THE_HEAD = (Moment.HEAD, Moment.BEGUN, Moment.ALL_BUT_THE_END)

CLOSED = "upstream api closed the connection"
BROKE_OFF = "upstream api broke off its answer"
NO_HTTP = "upstream api did not answer in HTTP"
TOO_LATE = "upstream api did not answer in time"
TOO_LONG = "upstream api did not finish in time"
TOO_MUCH = "upstream api sent too much beside its answer"
LONG = b"x" * (200 << 10)
"""More than may arrive without a part of a body."""


async def closes(_: Side) -> None:
    """Return, which closes."""


async def hears_and_closes(side: Side) -> None:
    """Close with nothing unread, or it would be a reset."""
    await side.reader.read(1 << 16)


async def resets(side: Side) -> None:
    reset(side)


async def half_closes(side: Side) -> None:
    side.writer.write_eof()
    await side.rest()


async def stalls(side: Side) -> None:
    await side.rest()


def says(data: bytes) -> Play:
    """Say something, and wait for the other end to close."""

    async def play(side: Side) -> None:
        await side.say(data)
        await side.rest()

    return play


def says_last(data: bytes) -> Play:
    """Say something, and close."""

    async def play(side: Side) -> None:
        await side.say(data)

    return play


async def goes_on(side: Side) -> None:
    """Say one byte of an answer after the other, without end and without a long silence."""
    while not side.writer.is_closing():
        await side.say(chunk(b"\n"))
        await asyncio.sleep(SOON / 5)


async def drips(side: Side) -> None:
    """Say without end what belongs to no answer."""
    while not side.writer.is_closing():
        await side.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99)


@dataclass(frozen=True)
class Fault:
    """What an upstream does, when, and what is told of it; ``patience`` names what runs out."""

    name: str
    moments: tuple[Moment, ...]
    play: Play
    message: str
    status: int = 502
    type: str = FAILED
    roads: tuple[Road, ...] = ROADS
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
        "half a size, then silence", AFTER_THE_HEAD, says(b"4"), TOO_LATE, 504, LATE, ROADS, "idle"
    ),
    Fault("half a chunk", (Moment.HEAD, Moment.BEGUN), says_last(b"40\r\ndata: x"), BROKE_OFF),
    Fault("no end of a chunk", (Moment.HEAD,), says(b"3\r\n:\n\nxx"), NO_HTTP, roads=TRANSLATED),
    Fault("an endless extension", AFTER_THE_HEAD, says(b"5;" + LONG), TOO_MUCH),
    Fault("an endless trailer", (Moment.ALL_BUT_THE_END,), says(b"0\r\nx-a: " + LONG), TOO_MUCH),
    Fault(
        "an oversized event",
        (Moment.HEAD, Moment.BEGUN),
        says(chunk(b"data: x\n" * EVENT_LIMIT)),
        f"upstream sent an event of more than {EVENT_LIMIT} bytes",
        roads=STREAMS,
    ),
    Fault(
        "an endless line",
        (Moment.HEAD, Moment.BEGUN),
        says(chunk(LONG)),
        f"upstream sent an event of more than {EVENT_LIMIT} bytes",
        roads=STREAMS,
    ),
    *(
        Fault(
            "no JSON, then the end",  # in one read, which ends the answer with the fault
            (Moment.HEAD, Moment.BEGUN),
            says_last(chunk(b"event: %b\ndata: {\n\n" % event) + END),
            "upstream sent an event that is not JSON",
            roads=(road,),
        )
        for road, event in ((NATIVE, b"completion"), (BRIDGED, b"content_block_delta"))
    ),
    Fault(
        "the end before the first event",
        (Moment.HEAD,),
        says_last(END),
        "upstream's stream ended before its first event",
        roads=STREAMS,
    ),
    Fault(
        "the end in the middle",
        (Moment.BEGUN,),
        says_last(END),
        "upstream's answer is not JSON",
        roads=(WHOLE,),
    ),
    Fault(
        "too short a length",
        (Moment.ASKED,),
        says(JSON_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 20") + COMPLETION),
        "upstream's answer is not JSON",
        roads=(WHOLE,),
    ),
    Fault(
        "too long a length",
        (Moment.ASKED,),
        says_last(
            JSON_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 999") + COMPLETION
        ),
        BROKE_OFF,
        roads=(WHOLE,),
    ),
    Fault(
        "an unknown coding",
        (Moment.ASKED,),
        says_last(STREAM_HEAD[:-2] + b"content-encoding: br\r\n\r\n" + chunk(LONG) + END),
        "upstream sent content-encoding 'br' though asked not to",
        roads=STREAMS,
    ),
    Fault(
        "an unknown coding",
        (Moment.ASKED,),
        says_last(JSON_HEAD[:-2] + b"content-encoding: br\r\n\r\n" + chunk(LONG) + END),
        "upstream sent content-encoding 'br' though asked not to",
        roads=(WHOLE,),
    ),
    Fault(
        "gzip that is none",
        (Moment.ASKED,),
        says_last(
            STREAM_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(b"data: {}\n\n") + END
        ),
        "upstream's answer is not in its content-encoding",
        roads=STREAMS,
    ),
    Fault(
        "a redirection",
        (Moment.ASKED,),
        says_last(
            b"HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        ),
        "upstream answered with status 307",
        roads=TRANSLATED,
    ),
    Fault(
        "another status",
        (Moment.ASKED,),
        says_last(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "upstream answered with status 204",
        roads=TRANSLATED,
    ),
)


def scripted(road: Road, moment: Moment, seen: asyncio.Event, then: Play) -> Play:
    """Behave up to ``moment``, and on once the client has ``seen`` what it can see by then."""

    async def play(side: Side) -> None:
        if moment is Moment.ASKED_IN_PART:
            await side.reader.readexactly(20)
        elif moment >= Moment.ASKED:
            await side.request()
        if moment > Moment.ASKED:
            await side.say(b"".join(road.parts[: moment - Moment.ASKED]))
        async with asyncio.timeout(PATIENCE):
            await seen.wait()
        await then(side)

    return play


CASES = [
    pytest.param(fault, moment, road, id=f"{fault.name}-{moment.name.lower()}-{road.name}")
    for fault in FAULTS
    for moment in fault.moments
    for road in fault.roads
]


@pytest.mark.parametrize(("fault", "moment", "road"), CASES)
async def test_a_fault_of_the_upstream(
    fault: Fault,
    moment: Moment,
    road: Road,
    proxies: Proxies,
    log: pytest.LogCaptureFixture,
) -> None:
    proxy = proxies[fault.patience]
    seen = asyncio.Event()
    proxy.stage.good = road.good
    proxy.stage.scripts.clear()
    async with proxy.nothing_left():
        proxy.close_free()
        proxy.stage.scripts.append(scripted(road, moment, seen, fault.play))
        async with await proxy.client(road.request) as client:
            known = road.seen(moment)
            got = await client.until(known) if known else b""
            seen.set()
            got += await client.rest()
        ended = check_told(fault, moment, road, got)
        check_good(road, await proxy.ask(road.request))
    assert endings(log) == [ended, "ended=complete"]


# The upstream's own error, told in the stream or by the status.

OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
REFUSED = 'ended="upstream refused" error=overloaded_error'


@pytest.mark.parametrize(
    "moment", [Moment.ASKED, Moment.HEAD, Moment.BEGUN], ids=lambda at: at.name
)
@pytest.mark.parametrize("road", STREAMS, ids=lambda road: road.name)
async def test_an_error_of_the_upstream_itself(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road, moment: Moment
) -> None:
    error = chunk(b"event: error\ndata: " + OVERLOADED + b"\n\n") + END
    if moment is Moment.ASKED:
        error = b"HTTP/1.1 529 \r\ncontent-length: %d\r\n\r\n" % len(OVERLOADED) + OVERLOADED
    proxy.stage.good = b"".join(road.parts[: moment - Moment.ASKED]) + error
    async with proxy.nothing_left():
        got = await proxy.ask(road.request)
    if moment is Moment.BEGUN:
        check_finished(got, "overloaded_error", "Overloaded")
    else:
        check_refused(got, 529, "overloaded_error", "Overloaded")
    assert endings(log) == [REFUSED]


# Answers that are odd and good, and whether their connection may be used again.


def unchunked(road: Road) -> tuple[bytes, bytes]:
    """The head of a good answer without its framing, and its body."""
    head = road.parts[0].replace(b"transfer-encoding: chunked\r\n", b"")
    return head, parsed(road.good).body


def with_length(road: Road, field_of_head: bytes = b"") -> bytes:
    head, body = unchunked(road)
    return head[:-2] + field_of_head + b"content-length: %d\r\n\r\n" % len(body) + body


def zipped(road: Road) -> bytes:
    head, body = unchunked(road)
    body = gzip.compress(body)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head[:-2] + fields + body


KEPT = b"\r\nconnection: keep-alive\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"

ODD: dict[str, tuple[Callable[[Road], bytes], bool, tuple[Road, ...]]] = {
    "nothing odd": (lambda road: road.good, True, ROADS),
    "some interim heads": (lambda road: INTERIM * 9 + road.good, True, ROADS),
    "a length": (with_length, True, ROADS),
    "a trailer": (lambda road: road.good[:-2] + b"x-a: b\r\n\r\n", True, ROADS),
    "gzip": (zipped, True, TRANSLATED),
    "its own last one": (lambda road: with_length(road, b"connection: close\r\n"), False, ROADS),
    "HTTP/1.0": (lambda road: with_length(road).replace(b"/1.1", b"/1.0", 1), False, ROADS),
    "chunks in HTTP/1.0": (
        lambda road: road.good.replace(b"/1.1", b"/1.0", 1).replace(b"\r\n", KEPT, 1),
        False,
        ROADS,
    ),
    "a second answer": (lambda road: road.good + with_length(WHOLE), False, ROADS),
    "half a second answer": (lambda road: road.good + b"HTTP/1.1 2", False, ROADS),
    "garbage behind": (lambda road: with_length(road) + b"xyz", False, ROADS),
}
"""How an upstream words a good answer, whether its connection is used on, and the roads."""


@pytest.mark.parametrize(
    ("odd", "road"),
    [
        pytest.param(odd, road, id=f"{odd}-{road.name}")
        for odd, (_, _, roads) in ODD.items()
        for road in roads
    ],
)
async def test_an_odd_answer_is_an_answer_and_only_that(
    proxy: Proxy, log: pytest.LogCaptureFixture, odd: str, road: Road
) -> None:
    answer, kept, _ = ODD[odd]
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, answer(road))
        await (stage.behave(side) if kept else side.rest())

    stage.good = road.good
    async with proxy.nothing_left():
        stage.scripts.append(play)
        connections = stage.connections
        for _ in range(2):
            check_good(road, await proxy.ask(road.request))
        assert stage.connections - connections == (1 if kept else 2)
    assert endings(log) == ["ended=complete"] * 2


@pytest.mark.parametrize("road", TRANSLATED, ids=lambda road: road.name)
async def test_gzip_that_ends_early_is_no_whole_answer(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    """Its framing does not tell, and all that can be read of one body is JSON."""
    head, body = unchunked(road)
    if road.streams:
        body = parsed(b"".join(road.parts[:2]) + END).body
    zipper = zlib.compressobj(wbits=31)
    body = zipper.compress(body) + zipper.flush(zlib.Z_SYNC_FLUSH)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.stage.good = head[:-2] + fields + body
    async with proxy.nothing_left():
        got = await proxy.ask(road.request)
    message = "upstream's answer ends before its content-encoding does"
    if road.streams:
        check_finished(got, FAILED, message)
    else:
        check_refused(got, 502, FAILED, message)
    assert endings(log) == [f'ended="upstream failed" error="{FAILED}: {message}"']


class Turns:
    """How often others had their turn so far."""

    past = 0


async def asked_in_turns(proxy: Proxy, road: Road, turns: Turns) -> bytes:
    """Ask on a road, and count the turns until that is over."""
    async with proxy.nothing_left():
        asked = asyncio.create_task(proxy.ask(road.request))
        while not asked.done():
            turns.past += 1
            await asyncio.sleep(0)  # which is the turn
        return await asked


async def good_in_turns(proxy: Proxy, road: Road, turns: Turns) -> None:
    """As asked_in_turns, where all goes well."""
    check_good(road, await asked_in_turns(proxy, road, turns))


@pytest.mark.parametrize("amount", [200_000, 0], ids=["large", "empty"])
@pytest.mark.parametrize("road", [NATIVE, BRIDGED, WHOLE], ids=lambda road: road.name)
async def test_others_have_their_turn_while_a_bomb_is_unpacked(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, road: Road, amount: int
) -> None:
    """Be it one member that becomes much, or very many that become nothing."""
    turns = Turns()
    unpacked: list[int] = []
    unpack = Decoding.__call__

    def watched(self: Decoding, part: bytes) -> Iterator[bytes]:
        for piece in unpack(self, part):
            unpacked.append(turns.past)
            yield piece

    monkeypatch.setattr(Decoding, "__call__", watched)
    head, body = unchunked(road)
    filler = (b"\n" if road.streams else b" ") * amount
    nothing = b"" if amount else gzip.compress(b"") * 4000
    body = nothing + gzip.compress(filler + body)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.stage.good = head[:-2] + fields + body
    await good_in_turns(proxy, road, turns)
    assert len(unpacked) >= (len(filler) // PIECE or len(nothing) // SLICE)
    assert len(set(unpacked)) == len(unpacked)


@pytest.mark.parametrize("road", STREAMS, ids=lambda road: road.name)
async def test_others_have_their_turn_while_much_that_came_at_once_is_translated(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, road: Road
) -> None:
    turns = Turns()
    fed: Counter[int] = Counter()
    feed = StreamTranslation.feed_piece

    def watched(self: StreamTranslation, chunk: bytes, *, more: bool) -> Iterator[bytes]:
        fed[turns.past] += len(chunk)
        return feed(self, chunk, more=more)

    monkeypatch.setattr(StreamTranslation, "feed_piece", watched)
    head, body = unchunked(road)
    body = b"\n" * 100_000 + body
    proxy.stage.good = head[:-2] + b"content-length: %d\r\n\r\n" % len(body) + body
    await good_in_turns(proxy, road, turns)
    assert sum(fed.values()) == len(body)
    assert max(fed.values()) <= 2 * IN_A_TURN


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_others_have_their_turn_while_events_repeat_a_long_text(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, version: bytes
) -> None:
    """However fast the client takes them, and whichever way they are sent."""
    turns = Turns()
    written: Counter[int] = Counter()
    write = Client._write_at_once

    def watched(self: Client, data: bytes) -> bool:
        written[turns.past] += 1
        return write(self, data)

    monkeypatch.setattr(Client, "_write_at_once", watched)
    monkeypatch.setattr("proxy.exchange.client.IN_A_TURN", 1)
    texts = ["x" * (EVENT_LIMIT // 2)] * 40
    proxy.stage.good = STREAM_HEAD + b"".join(map(completion, texts)) + LAST + END
    road = replace(NATIVE, request=NATIVE.request.replace(b"1.1", version, 1))
    *_, last, _, _ = (await asked_in_turns(proxy, road, turns)).split(b"data: ")
    assert b'"completion":"%b"' % "".join(texts).encode() in last
    assert max(written.values()) == 1


async def test_others_have_their_turn_while_very_many_chunks_arrive(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is something to read, uvloop reads on."""
    turns = Turns()
    read: Counter[int] = Counter()
    arrived = answer.Answer.arrived

    def watched(self: answer.Answer, data: bytes) -> None:
        read[turns.past] += 1
        arrived(self, data)

    monkeypatch.setattr(answer.Answer, "arrived", watched)
    proxy.stage.good = BYTES.parts[0] + chunk(b"x" * (4 << 20)) + END
    assert parsed(await asked_in_turns(proxy, BYTES, turns)).whole
    assert max(read.values()) <= 2


@pytest.mark.parametrize("road", TRANSLATED, ids=lambda road: road.name)
async def test_an_error_of_very_many_values_is_not_read(proxy: Proxy, road: Road) -> None:
    """Its status says enough; a megabyte of them took a tenth of a second."""
    lists = b",".join([b"[]"] * MOST_AT_ONCE)
    body = b'{"error":{"type":"api_error","message":"So much:"},"what":[%b]}' % lists
    head = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, head % len(body) + body)
        await stage.behave(side)

    async with proxy.nothing_left():
        stage.scripts.append(play)
        got = await proxy.ask(road.request)
    check_refused(got, 500, FAILED, "upstream answered 500")


async def test_a_body_in_drips_takes_no_more_memory_than_it_is_long() -> None:
    """Two bytes are some fifty more where each part is kept by itself."""
    left = iter(range(10_000, 0, -1))

    async def receive() -> Message:
        number = next(left)
        return {"type": "http.request", "body": b"%02d" % (number % 100), "more_body": number > 1}

    scope = {"method": "POST", "raw_path": b"/", "query_string": b""}
    client = Client(
        {**scope, "headers": [(b"transfer-encoding", b"chunked")]}, receive, AsyncMock()
    )
    tracemalloc.start()
    try:
        assert len(await client.body(1 << 20)) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 20_000


@pytest.mark.parametrize("bridge", [False, True], ids=["native", "bridge"])
async def test_a_large_request_is_held_once_while_its_answer_is_waited_for(*, bridge: bool) -> None:
    """Once more would be too much for as many as config/kubernetes lets in at a time."""
    size = 8 << 20
    reached, may_answer = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        left = size
        while left > 0:  # what is beside the prompt may come later, or never
            left -= len(await side.reader.read(1 << 20))
        reached.set()
        await may_answer.wait()

    async def receive() -> Message:
        prompt = "\n\nHuman: " + "x" * size + "\n\nAssistant:"
        asked = {"model": "claude-v1", "prompt": prompt, "max_tokens_to_sample": 9}
        return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}

    async with raw_upstream(play) as base:
        config = settings(base, bridge=bridge)
        api = Upstream(config.upstreams["api"])
        relay = Relay(config, {"api": api}, OpenExchanges(1), lambda _: None)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/complete",
            "raw_path": b"/v1/complete",
            "query_string": b"",
            "headers": [(b"host", b"p"), (b"transfer-encoding", b"chunked")],
        }
        tracemalloc.start()
        try:
            asking = asyncio.create_task(relay(scope, receive, AsyncMock()))
            async with asyncio.timeout(PATIENCE):
                await reached.wait()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        may_answer.set()
        await asking
        api.close()
    assert size < held < 1.5 * size


async def test_a_body_that_another_server_ends_too_early_is_none() -> None:
    scope = {"method": "POST", "raw_path": b"/", "query_string": b""}
    receive = AsyncMock(return_value={"type": "http.request", "body": b"half", "more_body": False})
    client = Client({**scope, "headers": [(b"content-length", b"8")]}, receive, AsyncMock())
    with pytest.raises(ClientLeft):
        await client.body(1 << 20)


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
async def test_an_answer_may_last_until_the_connection_does(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, b"".join(unchunked(road)))

    async with proxy.nothing_left():
        stage.scripts.append(play)
        check_good(road, await proxy.ask(road.request))
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
async def test_an_answer_may_come_a_byte_at_a_time(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    async def play(side: Side) -> None:
        await side.request()
        for at in range(len(road.good)):
            await side.say(road.good[at : at + 1])
            await asyncio.sleep(0)

    async with proxy.nothing_left():
        proxy.stage.scripts.append(play)
        check_good(road, await proxy.ask(road.request))
    assert endings(log) == ["ended=complete"]


async def good_with_a_fault_of_ours(
    proxy: Proxy, road: Road, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> bytes:
    """What a client gets of a good answer, if memory runs out there once it has begun."""
    head, first, *rest = road.parts
    begun = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(head + first)
        await begun.wait()
        await side.say(b"".join(rest))

    def fault(*_: object) -> None:
        raise MemoryError

    proxy.stage.scripts.append(play)
    async with proxy.nothing_left(), await proxy.client(road.request) as client:
        got = await client.until(road.begun or b"")
        monkeypatch.setattr(*where, fault)
        begun.set()
        return got + await client.rest()


@pytest.mark.parametrize("road", [*STREAMS, BYTES], ids=lambda road: road.name)
async def test_what_a_fault_of_ours_cuts_does_not_look_whole(
    proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, road: Road
) -> None:
    caplog.set_level(logging.INFO, "proxy.exchanges")
    where = (Client, "_write_at_once")
    check_cut(await good_with_a_fault_of_ours(proxy, road, monkeypatch, where))
    assert endings(caplog) == ["ended=crashed"]


@pytest.mark.parametrize("road", [*STREAMS, BYTES], ids=lambda road: road.name)
async def test_a_fault_of_ours_where_an_answer_arrives_leaves_nobody_waiting(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, road: Road
) -> None:
    loop = asyncio.get_running_loop()
    untold, tell = [], loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: untold.append(context["exception"]))
    try:
        where = (answer.Answer, "_hand_over")
        check_good(road, await good_with_a_fault_of_ours(proxy, road, monkeypatch, where))
    finally:
        loop.set_exception_handler(tell)
    assert [type(error) for error in untold] == [MemoryError]


GET = b"%b /v1/models HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n"
UPLOAD = post("/v1/files", b"x" * (RESENDABLE + 1), b"anthropic-version: 2023-06-01")[:-1]
"""An upload that is never finished, and too large to wait for."""

PASSED = {
    "a length without a body": (GET % b"HEAD", b"200 OK\r\ncontent-length: 77\r\n\r\n", False),
    "a body that HEAD forbids": (
        GET % b"HEAD",
        b"200 OK\r\ncontent-length: 2\r\n\r\nok",
        False,
    ),
    "nothing": (GET % b"GET", b"204 No Content\r\n\r\n", False),
    "nothing, of some length": (GET % b"GET", b"204 No\r\ncontent-length: 5\r\n\r\n", False),
    "not modified": (GET % b"GET", b"304 Same\r\ncontent-length: 77\r\n\r\n", False),
    "a redirection": (
        GET % b"GET",
        b"307 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        True,
    ),
    "the head of a stream without end": (GET % b"HEAD", STREAM_HEAD.partition(b" ")[2], False),
    "more than its length": (GET % b"GET", b"200 OK\r\ncontent-length: 2\r\n\r\nokay", False),
    "an answer that did not wait": (UPLOAD, b"413 Large\r\ncontent-length: 0\r\n\r\n", False),
}
"""What is asked, how it is answered, whether that leaves the connection fit for the next.

Where there may be no body, one that some servers send all the same may still be under way.
"""


@pytest.mark.parametrize(("request_", "answer", "kept"), PASSED.values(), ids=PASSED.keys())
async def test_bytes_pass_with_whatever_framing(
    proxy: Proxy, log: pytest.LogCaptureFixture, request_: bytes, answer: bytes, kept: bool
) -> None:
    stage = proxy.stage

    async def play(side: Side) -> None:
        await side.head()
        await side.say(b"HTTP/1.1 " + answer)
        await (stage.behave(side) if kept else side.rest())

    stage.good = BYTES.good
    async with proxy.nothing_left():
        stage.scripts.append(play)
        connections = stage.connections
        got = await proxy.ask(request_)
        assert got.split(b" ")[1] == answer.split(b" ")[0]
        check_good(BYTES, await proxy.ask(BYTES.request))
        assert stage.connections - connections == (1 if kept else 2)
    assert "crashed" not in str(endings(log))


# A connection that was used before, and is not what it was.


def closes_at_reuse(stage: Stage, then: Play) -> Play:
    """Answer one request well, and hear another."""

    async def play(side: Side) -> None:
        await stage.answer(side)
        await side.request()
        stage.requests += 1
        await then(side)

    return play


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
    "closes again": Reuse(closes, 1, CLOSED, (asked_and_closes,)),
    "begins to answer": Reuse(says_last(b"HTTP/1.1 2"), 1, CLOSED),
    "answers with garbage": Reuse(says(b"garbage"), 1, NO_HTTP),
}


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
@pytest.mark.parametrize("reuse", REUSES.values(), ids=REUSES.keys())
async def test_a_request_is_repeated_once_if_nothing_was_heard_of_it(
    proxy: Proxy, log: pytest.LogCaptureFixture, reuse: Reuse, road: Road
) -> None:
    stage = proxy.stage
    stage.good = road.good
    async with proxy.nothing_left():
        stage.scripts.extend((closes_at_reuse(stage, reuse.play), *reuse.and_then))
        check_good(road, await proxy.ask(road.request))
        requests = stage.requests
        got = await proxy.ask(road.request)
        if reuse.message:
            check_refused(got, 502, FAILED, reuse.message)
        else:
            check_good(road, got)
        assert stage.requests - requests == reuse.tries
        assert not stage.scripts
        check_good(road, await proxy.ask(road.request))
    assert len(endings(log)) == 3


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
async def test_a_request_that_was_perhaps_worked_on_is_not_repeated(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, road: Road
) -> None:
    monkeypatch.setattr("proxy.upstream.upstream.AT_ONCE", 0.0)
    stage = proxy.stage
    stage.good = road.good
    async with proxy.nothing_left():
        stage.scripts.append(closes_at_reuse(stage, closes))
        check_good(road, await proxy.ask(road.request))
        requests = stage.requests
        check_refused(await proxy.ask(road.request), 502, FAILED, CLOSED)
        assert stage.requests - requests == 1


LARGE = post("/v1/files", b"x" * (RESENDABLE + 1), b"anthropic-version: 2023-06-01")
UNKNOWN = (
    b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n"
    b"anthropic-version: 2023-06-01\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"abc") + END
)


@pytest.mark.parametrize("rested", [False, True], ids=["fresh", "rested"])
@pytest.mark.parametrize("request_", [LARGE, UNKNOWN], ids=["large", "of unknown size"])
async def test_a_body_that_is_not_kept_avoids_connections_that_may_be_about_to_close(
    proxy: Proxy, log: pytest.LogCaptureFixture, request_: bytes, *, rested: bool
) -> None:
    stage = proxy.stage
    stage.good = BYTES.good
    async with proxy.nothing_left():
        stage.scripts.append(closes_at_reuse(stage, closes))
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
    stage = proxy.stage
    stage.good = WHOLE.good
    closed = asyncio.Event()

    async def play(side: Side) -> None:
        await stage.answer(side)
        await until(lambda: len(proxy.pool._free) == 1)
        await side.say(with_length(NATIVE))
        assert await side.rest() == b""
        closed.set()

    async with proxy.nothing_left():
        stage.scripts.append(play)
        check_good(WHOLE, await proxy.ask(WHOLE.request))
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
        check_good(WHOLE, await proxy.ask(WHOLE.request))


# Clients that leave, stall, or are sent away.


def left(road: Road, moment: Moment) -> str:
    if road.streams and moment is Moment.ALL_BUT_THE_END:
        return "ended=complete"
    seen = road.seen(moment) is not None
    return f'ended="client left {"mid-stream" if seen else "before the first byte"}"'


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
@pytest.mark.parametrize("moment", [Moment.ASKED, *AFTER_THE_HEAD], ids=lambda at: at.name)
async def test_a_client_that_leaves_takes_its_call_along(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road, moment: Moment
) -> None:
    there, closed = asyncio.Event(), asyncio.Event()
    there.set()
    at = asyncio.Event()

    async def rests(side: Side) -> None:
        at.set()
        assert await side.rest() == b""
        closed.set()

    proxy.stage.good = road.good
    async with proxy.nothing_left():
        proxy.stage.scripts.append(scripted(road, moment, there, rests))
        async with await proxy.client(road.request) as client:
            if known := road.seen(moment):
                await client.until(known)
            async with asyncio.timeout(PATIENCE):
                await at.wait()
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
        check_good(road, await proxy.ask(road.request))
    assert endings(log) == [left(road, moment), "ended=complete"]


async def test_a_client_that_leaves_its_upload_takes_its_call_along(
    proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    at, closed = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        at.set()
        await side.rest()
        closed.set()

    proxy.stage.good = BYTES.good
    async with proxy.nothing_left():
        proxy.stage.scripts.append(play)
        async with await proxy.client(UPLOAD):
            await at.wait()
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
        check_good(BYTES, await proxy.ask(BYTES.request))
    assert endings(log) == ['ended="client left before the first byte"', "ended=complete"]


def paused(proxy: Proxy) -> bool:
    """Whether an upstream is made to wait."""
    answers = [connection._answer for connection in proxy.pool._all]
    return any(answer is not None and answer._paused for answer in answers)


def endless(road: Road) -> Play:
    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"".join(road.parts[:2]))
        part = completion(" and so on") * 99 if road is NATIVE else chunk(LONG)
        while not side.writer.is_closing():
            await side.say(part)

    return play


@pytest.mark.parametrize("road", [NATIVE, BYTES], ids=lambda road: road.name)
async def test_a_client_that_takes_nothing_makes_the_upstream_wait_and_is_left(
    log: pytest.LogCaptureFixture, road: Road, anyio_backend: object
) -> None:
    del anyio_backend
    async with staged(idle=10 * SOON) as proxy, proxy.nothing_left():
        proxy.stage.scripts.append(endless(road))
        async with await proxy.client(road.request):
            await until(lambda: paused(proxy))
            await until(lambda: not len(proxy.app.exchanges))
    assert endings(log) == ['ended="client stalled"']


@pytest.mark.parametrize(
    ("how", "ended"),
    [
        ("stalls", 'ended="client stalled"'),
        ("leaves", 'ended="client left mid-stream"'),
        ("is cut by a stop", "ended=drained"),
    ],
)
async def test_a_whole_answer_that_its_client_did_not_take_is_not_told_to_be_complete(
    log: pytest.LogCaptureFixture, how: str, ended: str, anyio_backend: object
) -> None:
    del anyio_backend
    long = b'{"completion":"%b","stop_reason":"max_tokens"}' % (b"x" * (12 << 20))

    async def play(side: Side) -> None:
        await side.request()
        await side.say(JSON_HEAD + chunk(long) + END)

    async with staged(**({"idle": 10 * SOON} if how == "stalls" else {})) as proxy:
        proxy.stage.scripts.append(play)
        async with proxy.nothing_left(), await proxy.client(WHOLE.request) as client:
            await client.until(b"xxx")
            if how == "is cut by a stop":
                proxy.app.exchanges.cut()
            if how != "stalls":
                client.writer.transport.abort()
            await until(lambda: not len(proxy.app.exchanges))
    assert endings(log)[0].startswith(ended)


async def test_a_slow_client_gets_all_of_a_stream_and_its_end(
    proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    count = 4000

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") * count + NATIVE.parts[2] + END)
        await side.rest()

    async with proxy.nothing_left():
        proxy.stage.scripts.append(play)
        async with await proxy.client(NATIVE.request) as client:
            await until(lambda: paused(proxy))
            answer = parsed(await client.rest())
    assert answer.whole
    *_, last, done = answer.events
    event = json.loads(last)
    assert (event["completion"], event["stop_reason"]) == (" Hi" * count, "stop_sequence")
    assert done == b"[DONE]"
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize(
    "moment", [Moment.ASKED, Moment.HEAD, Moment.BEGUN], ids=lambda at: at.name
)
async def test_what_outlasts_a_drain_is_told_so(
    log: pytest.LogCaptureFixture, moment: Moment, anyio_backend: object
) -> None:
    del anyio_backend
    there = asyncio.Event()
    there.set()
    at = asyncio.Semaphore(0)

    async def rests(side: Side) -> None:
        at.release()
        assert await side.rest() == b""

    message = "the proxy is shutting down"
    async with staged() as proxy, AsyncExitStack() as stack:
        async with proxy.nothing_left():
            clients = []
            got = []
            for road in ROADS:
                proxy.stage.scripts.append(scripted(road, moment, there, rests))
                client = await stack.enter_async_context(await proxy.client(road.request))
                known = road.seen(moment)
                got.append(await client.until(known) if known else b"")
                async with asyncio.timeout(PATIENCE):
                    await at.acquire()
                clients.append(client)
            await until(lambda: len(proxy.app.exchanges) == len(ROADS))
            proxy.app.drain()
            for at_road, client in enumerate(clients):
                got[at_road] += await client.rest()
                await client.__aexit__()
        for road, answer in zip(ROADS, got, strict=True):
            if road is BYTES and moment >= Moment.HEAD and answer.startswith(b"HTTP/1.1 200"):
                check_cut(answer)
            elif road.streams and moment is Moment.BEGUN:
                check_finished(answer, "overloaded_error", message)
            else:
                check_refused(answer, 503, "overloaded_error", message)
    assert len(endings(log)) == len(ROADS)
    assert {line.partition(" error")[0] for line in endings(log)} == {"ended=drained"}


# Upstreams that cannot be reached, on all roads.


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    yield url


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """A host that does not answer: its queue is full, and nobody takes from it."""
    with socket.socket() as hole, socket.socket() as last, socket.socket() as one_more:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for filler in (last, one_more):
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


@asynccontextmanager
async def nameless() -> AsyncIterator[str]:
    yield "http://no-such-host.invalid"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """One for the address that upstreams have in tests, and one for another host."""
    folder = tmp_path_factory.mktemp("tls")
    hosts = {"right": "IP:127.0.0.1", "wrong": "DNS:api.example"}
    return {name: Certificate.made(folder / name, host) for name, host in hosts.items()}


def unreachable(why: str) -> str:
    return f"upstream api cannot be reached: {why}"


UNREACHABLE = {
    "refused": (refusing, unreachable("connection refused"), 502),
    "a black hole": (black_hole, TOO_LATE, 504),
    "an unknown name": (nameless, unreachable("its name is not known"), 502),
}
TLS_FAULTS: dict[str, tuple[str, str, Play | None, str, int]] = {
    "untrusted": ("wrong", "right", None, unreachable("TLS failed"), 502),
    "another host": ("wrong", "wrong", None, unreachable("TLS failed"), 502),
    "plain text": ("right", "", says(b"220 what?\r\n"), unreachable("TLS failed"), 502),
    "closes": ("right", "", hears_and_closes, unreachable("connecting failed"), 502),
    "stalls": ("right", "", stalls, TOO_LATE, 504),
}
"""What is trusted, what is shown, or what is said instead of TLS; and what is told of it."""


async def check_unreachable(
    proxy: Proxy, log: pytest.LogCaptureFixture, message: str, status: int
) -> None:
    type_ = LATE if status == 504 else FAILED
    async with proxy.nothing_left():
        for road in ROADS:
            check_refused(await proxy.ask(road.request), status, type_, message)
    assert endings(log) == [f'ended="upstream failed" error="{type_}: {message}"'] * len(ROADS)


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize(("place", "message", "status"), UNREACHABLE.values(), ids=UNREACHABLE)
async def test_an_upstream_that_cannot_be_reached(
    log: pytest.LogCaptureFixture,
    place: Callable[[], AbstractAsyncContextManager[str]],
    message: str,
    status: int,
) -> None:
    timeouts = {"connect": SOON} if status == 504 else {}
    async with place() as url, proxied(Stage(), url, timeouts) as proxy:
        await check_unreachable(proxy, log, message, status)


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
    stage = Stage()
    stage.scripts.extend([play] * len(ROADS) if play else [])
    async with (
        raw_upstream(stage.play, tls) as url,
        proxied(stage, url.replace("http:", "https:"), timeouts) as proxy,
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
    stage = Stage()
    stage.good = BYTES.good
    async with (
        raw_upstream(stage.play, certificates["right"].serve()) as url,
        proxied(stage, url, {}) as proxy,
        proxy.nothing_left(),
    ):
        stage.scripts.append(closes_at_reuse(stage, play))
        check_good(BYTES, await proxy.ask(BYTES.request))
        requests = stage.requests
        got = await proxy.ask(BYTES.request)
        if tries == 1:
            check_refused(got, 502, FAILED, CLOSED)
        else:
            check_good(BYTES, got)
        assert stage.requests - requests == tries


@pytest.mark.usefixtures("anyio_backend")
async def test_others_have_their_turn_while_very_small_records_are_deciphered(
    monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Certificate]
) -> None:
    """As long as there is something to read, event loops decipher it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    turns = Turns()
    read: Counter[int] = Counter()
    arrived = answer.Answer.arrived

    def watched(self: answer.Answer, data: bytes) -> None:
        read[turns.past] += len(data) > http1.DECRYPTED_AT_ONCE
        arrived(self, data)

    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
        side.writer.writelines([b"x"] * 60_000)
        await side.rest()

    monkeypatch.setattr(answer.Answer, "arrived", watched)
    stage = Stage()
    stage.scripts.append(play)
    async with (
        raw_upstream(stage.play, certificates["right"].serve()) as url,
        proxied(stage, url, {}) as proxy,
    ):
        assert parsed(await asked_in_turns(proxy, BYTES, turns)).whole
    assert max(read.values()) == 1


@pytest.mark.usefixtures("anyio_backend")
async def test_over_tls_an_end_must_be_told(
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    certificates: dict[str, Certificate],
) -> None:
    """Else anyone between could cut an answer that lasts until the connection does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    stage = Stage()
    answer = b"".join(unchunked(BYTES))

    async def says_goodbye(side: Side) -> None:
        await stage.answer(side, answer)

    async def is_cut(side: Side) -> None:
        await stage.answer(side, answer)
        says_no_more(side)
        await side.rest()

    async with (
        raw_upstream(stage.play, certificates["right"].serve()) as url,
        proxied(stage, url, {}) as proxy,
        proxy.nothing_left(),
    ):
        stage.scripts.extend([says_goodbye, is_cut])
        check_good(BYTES, await proxy.ask(BYTES.request))
        check_cut(await proxy.ask(BYTES.request))
        for road in ROADS:
            stage.good = road.good
            check_good(road, await proxy.ask(road.request))
    failed = f'ended="upstream failed" error="api_error: {BROKE_OFF}"'
    assert endings(log) == ["ended=complete", failed, *["ended=complete"] * len(ROADS)]


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
    stage = Stage()
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
        raw_upstream(stage.play, certificates["right"].serve()) as url,
        proxied(stage, url, {}) as slow,
        slow.nothing_left(),
    ):
        stage.scripts.append(play)
        async with await slow.client(BYTES.request) as client:
            await closes.wait()
            for _ in range(99):
                await asyncio.sleep(0)
            answer = parsed(await client.rest())
    assert answer.whole
    assert (len(answer.body), answer.body[-4:]) == (sent + 4, b"last")
    assert endings(log) == ["ended=complete"]


@asynccontextmanager
async def handshake() -> AsyncIterator[str]:
    """A host that says nothing when TLS is spoken to it."""
    async with raw_upstream(stalls) as url:
        yield url.replace("http:", "https:")


CONNECTING = pytest.mark.parametrize("place", [black_hole, handshake])


@pytest.mark.usefixtures("anyio_backend")
@CONNECTING
async def test_a_drain_ends_what_still_connects(
    log: pytest.LogCaptureFixture, place: Callable[[], AbstractAsyncContextManager[str]]
) -> None:
    message = "the proxy is shutting down"
    async with (
        place() as url,
        proxied(Stage(), url, {}) as proxy,
        proxy.nothing_left(),
        await proxy.client(NATIVE.request) as client,
    ):
        await until(lambda: len(proxy.app.exchanges) == 1)
        proxy.app.drain()
        check_refused(await client.rest(), 503, "overloaded_error", message)
    assert endings(log) == [f'ended=drained error="overloaded_error: {message}"']


@pytest.mark.usefixtures("anyio_backend")
@CONNECTING
async def test_a_client_that_leaves_what_still_connects_leaves_nothing(
    log: pytest.LogCaptureFixture, place: Callable[[], AbstractAsyncContextManager[str]]
) -> None:
    async with (
        place() as url,
        proxied(Stage(), url, {}) as proxy,
        proxy.nothing_left(),
        await proxy.client(NATIVE.request),
    ):
        await until(lambda: len(proxy.app.exchanges) == 1)
    assert endings(log) == ['ended="client left before the first byte"']
