"""What is no request in HTTP/1.1 is refused, and reaches neither an upstream nor the log."""

from __future__ import annotations

import logging

import pytest

from door.harness import (
    CANARY,
    CHUNKED,
    COMPLETE,
    GET,
    POST,
    Upstream,
    at_the_door,
    door,
    lines,
    message,
    with_target,
)
from proxy.app import App
from proxy.observe.record import Record
from proxy.server.server import running
from support import Side, chunk, connect, settings

pytestmark = pytest.mark.anyio


def with_field(field: bytes) -> bytes:
    """A request in which only ``field`` is wrong."""
    return GET + b"x-api-key: %b\r\n%b\r\n\r\n" % (CANARY, field)


def with_line(line: bytes) -> bytes:
    """A request in which only its first line is wrong."""
    return line + b"\r\nhost: %b\r\n\r\n" % CANARY


def with_framing(field: bytes, body: bytes = b"3\r\nabc\r\n0\r\n\r\n") -> bytes:
    """A request that is framed by ``field``."""
    return POST + b"x-api-key: %b\r\n%b\r\n\r\n" % (CANARY, field) + body


NO_REQUESTS = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01" + CANARY,
    "NUL": b"\x00",
    "words": b"EHLO " + CANARY + b"\r\n",
    "unknown method": with_line(b"BREW / HTTP/1.1"),
    "method in lower case": with_line(b"get / HTTP/1.1"),
    "another protocol's version": with_line(b"GET / RTSP/1.0"),
    "another protocol's newer version": with_line(b"POST / RTSP/1.1"),
    "another protocol's method": with_line(b"SOURCE / ICE/1.0"),
    "two blanks behind the method": with_line(b"GET  / HTTP/1.1"),
    "two blanks before the version": with_line(b"GET /  HTTP/1.1"),
    "blank before the method": with_line(b" GET / HTTP/1.1"),
    "no version": with_line(b"GET /"),
    "HTTP/0.9": with_line(b"GET / HTTP/0.9"),
    "HTTP/1.2": with_line(b"GET / HTTP/1.2"),
    "HTTP/2.0": with_line(b"GET / HTTP/2.0"),
    "HTTP/2.0 above a line that would do": with_line(b"GET / HTTP/2.0\r\nx: GET / HTTP/1.1"),
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blank behind the version": with_line(b"GET / HTTP/1.1 "),
    "LF behind the version": b"GET / HTTP/1.1\nhost: proxy\r\n\r\n",
    "absolute form": with_target(b"http://evil.test/v1/models"),
    "absolute form, secure": with_target(b"https://evil.test/"),
    "authority form": with_target(b"evil.test:443"),
    "asterisk form": with_target(b"*", b"OPTIONS"),
    "no slash": with_target(b"v1/models"),
    "fragment": with_target(b"/v1/models#x"),
    "fragment of a query": with_target(b"/v1/models?a#x"),
    "NUL in the target": with_target(b"/\x00"),
    "tab in the target": with_target(b"/a\tb"),
    "control character in the target": with_target(b"/\x01"),
    "non-ASCII path": with_target(b"/\xc3\xa9"),
    "non-ASCII query": with_target(b"/?\xff"),
    "no host": b"GET / HTTP/1.1\r\nx-api-key: %b\r\n\r\n" % CANARY,
    "blank before the colon": with_field(b"x-a : b"),
    "blank in a name": with_field(b"x a: b"),
    "blank before the first name": b"GET / HTTP/1.1\r\n host: proxy\r\n\r\n",
    "no name": with_field(b": b"),
    "no colon": with_field(b"x-a"),
    "separator in a name": with_field(b"x(a: b"),
    "non-ASCII name": with_field(b"x\xc3\xa9: b"),
    "obs-fold": with_field(b"x-a: b\r\n c"),
    "bare LF behind a field": with_field(b"x-a: b\nx-c: d"),
    "bare CR in a value": with_field(b"x-a: b\rc"),
    "bare CR behind a field": with_field(b"x-a: b\rx-c: d"),
    "bare CR behind the version": b"GET / HTTP/1.1\rhost: proxy\r\n\r\n",
    "NUL in a value": with_field(b"x-a: b\x00c"),
    "control character in a value": with_field(b"x-a: b\x01c"),
    "DEL in a value": with_field(b"x-a: b\x7fc"),
    "lengths that differ": with_framing(b"content-length: 3\r\ncontent-length: 4"),
    "lengths that agree": with_framing(b"content-length: 3\r\ncontent-length: 3"),
    "a list of lengths": with_framing(b"content-length: 3, 3"),
    "signed length": with_framing(b"content-length: +3"),
    "negative length": with_framing(b"content-length: -3"),
    "hexadecimal length": with_framing(b"content-length: 0x3"),
    "endless length": with_framing(b"content-length: 99999999999999999999"),
    "length of very many digits": with_framing(b"content-length: " + b"0" * 5000 + b"3"),
    "empty length": with_framing(b"content-length: "),
    "length and coding": with_framing(b"content-length: 3\r\ntransfer-encoding: chunked"),
    "coding and length": with_framing(b"transfer-encoding: chunked\r\ncontent-length: 3"),
    "chunked, and then more": with_framing(b"transfer-encoding: chunked, gzip"),
    "chunked twice": with_framing(b"transfer-encoding: chunked, chunked"),
    "chunked in two fields": with_framing(
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked"
    ),
    "control character before chunked": with_framing(b"transfer-encoding: \x0bchunked"),
    "empty coding": with_framing(b"transfer-encoding: "),
    "chunked in HTTP/1.0": with_line(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked"),
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
async def test_what_is_no_request_reaches_nobody(
    caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(sent)
        told = message(await client.rest(), 400)
    assert not upstream.asked
    (line,) = lines(caplog)
    assert line.startswith("- - status=400 ended=refused error=")
    assert CANARY.decode() not in line + told


NOT_SUPPORTED = {
    "tunnel": with_target(b"evil.test:443", b"CONNECT"),
    "echo": with_target(b"/v1/models", b"TRACE"),
    "gzip, chunked": with_framing(b"transfer-encoding: gzip, chunked"),
    "gzip before chunked": with_framing(b"transfer-encoding: gzip\r\ntransfer-encoding: chunked"),
    "identity": with_framing(b"transfer-encoding: identity"),
    "nearly chunked": with_framing(b"transfer-encoding: xchunked"),
    "chunked with a parameter": with_framing(b"transfer-encoding: chunked;a=b"),
}


@pytest.mark.parametrize("sent", NOT_SUPPORTED.values(), ids=NOT_SUPPORTED.keys())
async def test_what_http_has_and_nobody_serves_is_said_so(sent: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(sent)
        message(await client.rest(), 501)
        assert not upstream.asked


@pytest.mark.parametrize("target", [b"http://evil.test/", b"/\x01", b"\x01"])
async def test_the_refusal_of_a_head_request_has_no_body(target: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(with_target(target, b"HEAD"))
        refused = await client.rest()
        assert refused.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert refused.endswith(b"\r\n\r\n")


async def test_the_refusal_of_what_stands_behind_a_head_request_has_its_body() -> None:
    async with door(Upstream()) as client:
        await client.say(GET.replace(b"GET", b"HEAD") + b"\r\n" + b"what?\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        message(await client.rest(), 400)


BROKEN_BODIES = {
    "LF behind a size": b"3\nabc\r\n0\r\n\r\n",
    "CR behind a size": b"3\rabc\r\n0\r\n\r\n",
    "CR behind a chunk": b"3\r\nabc\r0\r\n\r\n",
    "LF behind a chunk": b"3\r\nabc\n0\r\n\r\n",
    "chunk longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "prefixed size": b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative size": b"-3\r\nabc\r\n",
    "blank behind a size": b"3 \r\nabc\r\n0\r\n\r\n",
    "endless size": b"fffffffffffffffff\r\nabc",
    "LF in an extension": b"3;a\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_a_body_that_breaks_its_framing_is_refused(
    caplog: pytest.LogCaptureFixture, body: bytes, *, apart: bool
) -> None:
    caplog.set_level(logging.INFO)
    upstream = Upstream()
    async with door(upstream) as client:
        head = COMPLETE + b"expect: 100-continue\r\n" + CHUNKED
        if apart:
            await client.say(head)
            await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
            await client.say(body)
        else:
            await client.say(head + body)
        message(await client.rest(), 400)
        assert not upstream.asked
    (line,) = lines(caplog)
    assert " ended=refused error=" in line


async def test_a_body_that_breaks_after_the_answer_has_begun_cuts_it() -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.until(b"abc\r\n")
        await side.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"soon"))
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"abc"))
        await client.until(b"soon\r\n")
        await client.say(b"no chunk")
        assert await client.rest() == b""


async def test_whoever_hears_of_exchanges_hears_of_what_is_refused_at_the_door() -> None:
    told: list[Record] = []
    app = App(settings("http://127.0.0.1:9"))
    app.observers.append(told.append)
    async with running(app) as url, await connect(url) as client:
        await client.say(b"what?\r\n\r\n")
        message(await client.rest(), 400)
    (record,) = told
    assert (record.status, record.ended, record.path) == (400, "refused", "-")
