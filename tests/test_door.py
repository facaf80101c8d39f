"""The server's side of a client connection: HTTP/1.1 over raw sockets, through the real parser.

For each malformed or unusual request these tests say whether it is accepted, and how it is refused.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import resource
import signal
import socket
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy import config
from proxy.app import App
from proxy.bridge.prompt import MOST_TURNS
from proxy.connection import intake, patience, protocol, terms
from proxy.connection.budget import Budget
from proxy.connection.patience import ENOUGH, Patience
from proxy.core.fields import by_name, times_forwarded
from proxy.exchange import guard
from proxy.exchange.extensions import CONNECTION
from proxy.formats.parameters import HUMAN
from proxy.observe.record import Record
from proxy.runtime.sockets import UNSENT
from proxy.server import process, server
from proxy.server.listeners import listen
from proxy.server.server import running
from proxy.translation.translation import MOST_VALUES
from stage import until
from support import PATIENCE, Play, Side, chunk, connect, old_request, raw_upstream, settings
from support.processes import served, write_config

pytestmark = pytest.mark.anyio

CANARY = b"sk-ant-canary"
"""Stands in what is refused, and must never stand in the log."""

GET = b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
POST = b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
COMPLETE = b"POST /v1/complete HTTP/1.1\r\nhost: proxy\r\nx-api-key: k\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

LOOP = b",".join([b"1.1 anthropic-version-proxy"] * guard.ROUNDS)

More = dict[str, dict[str, object]]


class Upstream:
    """An upstream that answers each request once it may, and remembers what it was asked."""

    def __init__(self, answer: bytes = OK, *, open: bool = True) -> None:  # noqa: A002
        self.asked: list[bytes] = []
        self.bodies: list[bytes] = []
        self.reached = asyncio.Event()
        self.left = asyncio.Event()
        self.may_answer = asyncio.Event()
        self._answer = answer
        if open:
            self.may_answer.set()

    async def play(self, side: Side) -> None:
        try:
            while True:
                head, body = await side.request()
                self.asked.append(head)
                self.bodies.append(body)
                self.reached.set()
                rest = asyncio.create_task(side.reader.read(1))
                answer = asyncio.create_task(self.may_answer.wait())
                await asyncio.wait({rest, answer}, return_when=asyncio.FIRST_COMPLETED)
                for task in (rest, answer):
                    task.cancel()
                if rest.done() and not rest.cancelled():
                    return
                await asyncio.wait({rest, answer})
                await side.say(self._answer)
        finally:
            self.left.set()


@asynccontextmanager
async def at_the_door(play: Play, more: More | None = None) -> AsyncIterator[Side]:
    """A client at the proxy's door, with an upstream behind it that is played by ``play``."""
    async with (
        raw_upstream(play) as base,
        running(App(settings(base, more=more))) as url,
        await connect(url) as client,
    ):
        yield client


@asynccontextmanager
async def door(upstream: Upstream, more: More | None = None) -> AsyncIterator[Side]:
    """A client at the proxy's door, with ``upstream`` behind it."""
    async with at_the_door(upstream.play, more) as client:
        yield client


@asynccontextmanager
async def serving(application: ASGIApp) -> AsyncIterator[Side]:
    """A client of an application that is not the proxy."""

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)

    async with running(answers) as url, await connect(url) as client:
        yield client


async def happened(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()


def message(answer: bytes, status: int, type_: str = "invalid_request_error") -> str:
    """The message of a refusal, which must be whole, in the API's envelope, and the last word."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    assert "content-type: application/json" in lines
    assert f"content-length: {len(body)}" in lines
    assert "connection: close" in lines
    assert "via: 1.1 anthropic-version-proxy" in lines
    return envelope(body, type_)


def envelope(body: bytes, type_: str) -> str:
    """The message of an error in exactly the API's keys."""
    error = json.loads(body)
    told = error["error"]["message"]
    assert error == {"type": "error", "error": {"type": type_, "message": told}}
    assert isinstance(told, str)
    return told


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What an operator reads in the log, but for how the server starts and stops."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "proxy.exchanges" or record.levelno >= logging.WARNING
    ]


async def answer(client: Side) -> tuple[bytes, bytes]:
    """The head and body of one answer on a connection that stays."""
    return await client.request()


# No requests: refused by the parser or right behind it.


def with_field(field: bytes) -> bytes:
    """A request in which only ``field`` is wrong."""
    return GET + b"x-api-key: %b\r\n%b\r\n\r\n" % (CANARY, field)


def with_target(target: bytes, method: bytes = b"GET") -> bytes:
    """A request in which only ``target`` is wrong."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (method, target, CANARY)


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


# Requests, though of odd shapes.


ODD_REQUESTS = {
    "blank lines before": (b"\r\n\r\n" + GET + b"\r\n", b"GET /v1/models "),
    "HTTP/1.0": (b"GET /v1/models HTTP/1.0\r\n\r\n", b"GET /v1/models "),
    "empty path of an authority": (
        b"GET //evil.test/x HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"GET //evil.test/x ",
    ),
    "encoded slash": (
        b"GET /v1/models/a%2Fb%5cc%252e HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"GET /v1/models/a%2Fb%5cc%252e ",
    ),
    "segments of dots": (
        b"GET /v1/./a/%2e%2E/b HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"GET /v1/./a/%2e%2E/b ",
    ),
    "dots that are no segment": (
        b"GET /v1/...a/.b/c.. HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"GET /v1/...a/.b/c.. ",
    ),
    "dots and breaks in a query": (
        b"GET /v1/models?a=/../%0a%00 HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"GET /v1/models?a=/../%0a%00 ",
    ),
    "an empty query": (b"GET /v1/models? HTTP/1.1\r\nhost: proxy\r\n\r\n", b"GET /v1/models? "),
    "host of IPv6": (b"GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n", b"GET / "),
    "empty host": (b"GET / HTTP/1.1\r\nhost:\r\n\r\n", b"GET / "),
    "one version twice": (GET + b"Anthropic-Version: 2023-06-01\r\n\r\n", b"GET /v1/models "),
    "a method of others": (
        b"PROPFIND /v1/models HTTP/1.1\r\nhost: proxy\r\n\r\n",
        b"PROPFIND /v1/models ",
    ),
    "an upgrade": (GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", b"GET /v1/models "),
}


@pytest.mark.parametrize(("sent", "line"), ODD_REQUESTS.values(), ids=ODD_REQUESTS.keys())
async def test_an_odd_request_is_asked_of_the_upstream_as_it_stands(
    sent: bytes, line: bytes
) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(sent)
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        (asked,) = upstream.asked
    assert asked.startswith(line + b"HTTP/1.1\r\n")
    assert asked.lower().count(b"\r\nanthropic-version: ") == 1


async def test_bytes_beyond_ascii_in_a_value_arrive_as_they_are() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"x-a: b\xff\xc3\xa9\r\n\r\n")
        await client.head()
    assert b"\r\nx-a: b\xff\xc3\xa9\r\n" in upstream.asked[0]


@pytest.mark.parametrize("path", [b"/v1%00/models", b"/v1/models%0d%0Ax:y", b"/v1/models%7F"])
async def test_a_path_that_breaks_when_it_is_decoded_is_refused(path: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(b"GET %b HTTP/1.1\r\nhost: proxy\r\n\r\n" % path)
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "target" in envelope(body, "invalid_request_error")
        await client.say(GET + b"\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "hosts",
    [b"host: proxy\r\nhost: proxy", b"host: a/health?x=", b"host: a b", b"host: u@h", b"host: a:b"],
)
async def test_a_host_that_is_none_or_two_is_refused(hosts: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % hosts)
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "Host" in envelope(body, "invalid_request_error")
    assert not upstream.asked


async def test_two_versions_are_none() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"anthropic-version: 2023-01-01\r\n\r\n")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "repeated" in envelope(body, "invalid_version")
    assert not upstream.asked


async def test_trailer_fields_do_not_join_those_of_the_head() -> None:
    upstream = Upstream(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
    body = json.dumps({"model": "m", "prompt": "\n\nHuman: Hi\n\nAssistant:"}).encode()
    async with door(upstream) as client:
        trailer = b"0\r\nx-api-key: %b\r\nx-last: 1\r\n\r\n" % CANARY
        await client.say(COMPLETE + CHUNKED + chunk(body) + trailer)
        await client.head()
    assert b"\r\nx-api-key: k\r\n" in upstream.asked[0]
    assert CANARY not in upstream.asked[0]
    assert b"x-last" not in upstream.asked[0]


async def test_a_client_of_http_1_0_gets_a_body_that_ends_with_its_connection() -> None:
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with door(Upstream(stream + chunk(b"to the ") + chunk(b"end") + chunk(b""))) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\nconnection: close" in head
    assert body == b"to the end"


async def test_two_who_write_at_once_to_a_slow_client_of_http_1_0_are_both_heard() -> None:
    waiting = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        def say(body: bytes) -> Awaitable[None]:
            return send({"type": "http.response.body", "body": body, "more_body": True})

        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await say(b"x" * (16 << 20))
        both = [asyncio.ensure_future(say(b"long" * 9)), asyncio.ensure_future(say(b"short"))]
        asyncio.get_running_loop().call_soon(waiting.set)
        await asyncio.gather(*both)
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        await happened(waiting)
        assert (await client.rest()).endswith(b"x" + b"long" * 9 + b"shortend")


async def test_a_slow_client_of_http_1_0_that_leaves_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting, over = asyncio.Event(), asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        large = {"type": "http.response.body", "body": b"x" * (16 << 20), "more_body": True}
        await send(large)
        asyncio.get_running_loop().call_soon(waiting.set)
        try:
            await send({"type": "http.response.body", "body": b"end"})
        finally:
            over.set()

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        await happened(waiting)
        client.writer.transport.abort()
        await happened(over)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("before", [True, False])
async def test_what_a_client_of_http_1_0_has_not_taken_does_not_look_whole(before: bool) -> None:
    """It may be left just before the end, or while the end waits for it."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        leave = scope["extensions"][CONNECTION].transport.abort
        if before:
            leave()
        else:
            asyncio.get_running_loop().call_soon(leave)
        await send({"type": "http.response.body", "body": b"x" * (16 << 20)})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_an_answer_to_http_1_0_that_breaks_off_does_not_look_whole() -> None:
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    async def play(side: Side) -> None:
        await side.request()
        await side.say(stream + chunk(b"to the "))

    async with at_the_door(play) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_client_of_http_1_0_is_told_a_length_that_is_known() -> None:
    async with door(Upstream()) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: 2\r\n" in head
    assert body == b"ok"


async def test_a_client_of_http_1_0_is_told_nothing_before_its_answer() -> None:
    async with door(Upstream()) as client:
        head = POST.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        await client.say(head + b"hi")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_blanks_behind_an_expectation_are_no_part_of_it() -> None:
    async with door(Upstream()) as client:
        await client.say(POST + b"expect: 100-continue \t\r\ncontent-length: 2\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.say(b"hi")
        assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize(
    "sent",
    [b"content-length: 2\r\n\r\nhi", b"content-length: 0\r\n\r\n"],
    ids=["all of it", "all, which is nothing"],
)
async def test_nobody_is_asked_for_a_body_that_is_coming(sent: bytes) -> None:
    """HAProxy 2.6 cuts a stream where it reads the 100 along with the head behind it."""
    async with door(Upstream()) as client:
        await client.say(POST + b"expect: 100-continue\r\n" + sent)
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_nobody_is_asked_for_the_rest_of_a_body() -> None:
    asked = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        asked.set()
        rest = await receive()
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": first["body"] + rest["body"]})

    async with serving(application) as client:
        await client.say(POST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\nh")
        await happened(asked)
        await client.say(b"i")
        head, body = await answer(client)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"hi"


# One request behind the other.


async def test_pipelined_requests_are_answered_in_order() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(b"".join(GET + b"x-a: %d\r\n\r\n" % number for number in range(20)))
        for _ in range(20):
            assert (await answer(client))[1] == b"ok"
    asked = [int(head.partition(b"x-a: ")[2].split()[0]) for head in upstream.asked]
    assert asked == list(range(20))


REFUSED_BEHIND = {
    "no request": b"what?\r\n\r\n",
    "broken body": COMPLETE + CHUNKED + b"no chunk",
    "refused head": with_target(b"http://evil.test/"),
}


@pytest.mark.parametrize("behind", REFUSED_BEHIND.values(), ids=REFUSED_BEHIND.keys())
async def test_a_refusal_waits_for_the_answers_before_it(
    monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.05)
    for name in ("HEAD_WITHIN", "BODY_SILENCE"):
        shorten(monkeypatch, name)
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say(GET + b"\r\n" + behind)
        await happened(upstream.reached)
        await deadline_passes(client)
        upstream.may_answer.set()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"ok"
        message(await client.rest(), 400)
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("field", "status"), [(b"host: other\r\n", 400), (b"via: %b\r\n" % LOOP, 508)]
)
async def test_a_refusal_is_not_taken_for_what_the_answer_before_it_tells(
    caplog: pytest.LogCaptureFixture, field: bytes, status: int
) -> None:
    """It stands so far behind that it is read when one of those before it is answered."""
    amount = 3 * terms.PIPELINED
    request = GET + field + b"x-pad: " + b"x" * (terms.PIECE // terms.PIPELINED) + b"\r\n\r\n"
    async with door(Upstream()) as client:
        await client.say(request * amount + b"what?\r\n\r\n")
        for _ in range(amount):
            assert (await answer(client))[0].startswith(b"HTTP/1.1 %d " % status)
        assert "HTTP/1.1" in message(await client.rest(), 400)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_nothing_is_read_behind_a_part_of_a_request_that_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Event loops close a connection when a read fails, but not when a later turn does."""
    read = protocol.Protocol._read
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    begun = asyncio.Event()
    ends: list[str] = []

    def forgetful(self: protocol.Protocol, data: bytes) -> None:
        if b"lost" in data:
            raise MemoryError
        read(self, data)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (message := await receive()).get("more_body", False):
            pass
        ends.append(message["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(intake, "SLICE", 0)
    monkeypatch.setattr(protocol.Protocol, "_read", forgetful)
    size = terms.PIECE - 7  # so that each piece is a chunk
    parts = [chunk(part.ljust(size)) for part in (b"first", b"lost", b"last")]
    async with serving(application) as client:
        await client.say(POST + CHUNKED)
        await begun.wait()
        await client.say(b"".join(parts) + chunk(b""))
        with suppress(ConnectionError):
            assert not await client.rest()
    assert ends == ["http.disconnect"]


async def test_nothing_is_served_behind_a_request_that_was_to_be_the_last() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"connection: close\r\n\r\n" + GET + b"\r\n")
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    assert len(upstream.asked) == 1


LAST = b"0\r\nconnection: close\r\n\r\n"
"""A trailer that has no business to say so, and to the parser says it (RFC 9110 §6.5.1)."""


async def test_a_trailer_that_ends_the_connection_is_heeded() -> None:
    async def play(side: Side) -> None:
        await side.reader.readuntil(b"\r\n0\r\n\r\n")
        await side.say(OK)
        assert await side.rest() == b""

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"hi") + LAST + GET + b"\r\n")
        told = await client.rest()
    assert b"\r\nconnection: close\r\n" in told
    assert told.endswith(b"\r\n\r\nok")


async def test_a_trailer_that_ends_the_connection_after_the_answer_is_heeded() -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(OK)
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED)
        assert (await answer(client))[1] == b"ok"
        await client.say(LAST)
        assert await client.rest() == b""


async def test_what_follows_an_upgrade_that_is_not_taken_is_the_next_request() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        await client.say((GET + upgrade) * 3 + GET + b"\r\n")
        for _ in range(4):
            assert (await answer(client))[1] == b"ok"
    assert len(upstream.asked) == 4


@pytest.mark.parametrize(("offer", "answers"), [(b"upgrade", 3), (b"upgrade, close", 1)])
async def test_a_body_behind_an_upgrade_that_is_not_taken_is_read(
    offer: bytes, answers: int
) -> None:
    """Java's HttpClient offers h2c in each request, with a length in those without a body."""
    upstream = Upstream()
    post = POST + b"upgrade: h2c\r\ncontent-length: 5\r\nconnection: " + offer + b"\r\n\r\nhello"
    async with door(upstream) as client:
        await client.say(post * 2 + GET + b"\r\n")
        for _ in range(answers):
            assert (await answer(client))[1] == b"ok"
    assert upstream.bodies == [b"hello", b"hello", b""][:answers]


async def test_a_body_behind_an_upgrade_whose_framing_is_none_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a coding with a tab behind it, the parser says so only when it is to read the body."""
    upstream = Upstream()
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    async with door(upstream) as client:
        await client.say(COMPLETE + upgrade + b"transfer-encoding: chunked\t\r\n\r\n0\r\n\r\n")
        message(await client.rest(), 400)
    assert not upstream.asked
    assert not caplog.records


async def test_a_client_that_leaves_is_noticed_though_requests_wait_behind() -> None:
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say((GET + b"\r\n") * terms.PIPELINED)
        await happened(upstream.reached)
        client.writer.close()
        await happened(upstream.left)


async def test_a_client_that_leaves_is_noticed_though_the_last_of_its_body_was_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading was paused for it, and whoever has all of a body asks for no more."""
    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.HIGH_WATER_LIMIT", 8 << 10)
    monkeypatch.setattr(intake, "SLICE", PATIENCE)  # all that arrives together is read together
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        head, _, body = old_request(prompt="x" * (32 << 10)).partition(b"\r\n\r\n")
        await client.say(head + b"\r\nexpect: 100-continue\r\n\r\n")
        await client.until(b" 100 Continue\r\n\r\n")  # now the body is waited for
        await client.say(body)
        await happened(upstream.reached)
        client.writer.close()
        await happened(upstream.left)


@pytest.mark.parametrize(
    "behind",
    [(GET + b"\r\n") * terms.PIPELINED + GET, COMPLETE + CHUNKED + b"no chunk\r\n", GET],
    ids=["waiting", "refused", "begun"],
)
async def test_a_client_that_leaves_requests_behind_is_no_fault_and_leaves_no_garbage(
    caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    reached, over, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        left = asyncio.Event()
        connection = scope["extensions"][CONNECTION]
        weakref.finalize(connection, freed.set)
        connection.when_left(lambda _: left.set())
        del connection
        reached.set()
        await happened(left)
        over.set()

    gc.disable()
    try:
        async with serving(application) as client:
            await client.say((GET.replace(b"GET", b"HEAD") + b"\r\n") * 3)
            for _ in range(3):
                await client.head()
            await client.say(GET + b"\r\n" + behind)
            await happened(reached)
            client.writer.close()
            await happened(over)
            await happened(freed)
    finally:
        gc.enable()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "refused",
    [GET + b"x: a\r\n" * terms.FIELDS + b"\r\n", GET.replace(b"GET", b"TRACE") + b"\r\n"],
    ids=["too many fields", "not served"],
)
async def test_a_refused_client_leaves_no_garbage(refused: bytes) -> None:
    """It would keep all that was sent along with what is refused."""
    freed = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        weakref.finalize(scope["extensions"][CONNECTION], freed.set)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gc.disable()
    try:
        async with serving(application) as client:
            await client.say(GET + b"\r\n" + refused)
            assert b"connection: close" in await client.rest()
            client.writer.close()
            await happened(freed)
    finally:
        gc.enable()


async def test_a_head_of_too_many_fields_is_refused_before_its_end() -> None:
    """They take twenty times their length in memory, for as long as a head may take."""
    async with door(Upstream()) as client:
        await client.say(GET + b"x: a\r\n" * terms.FIELDS)
        assert (await client.head()).startswith(b"HTTP/1.1 431 ")


def refused_for_room(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in answer


async def test_of_heads_without_an_end_only_so_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange is counted before there is one; nobody else is to pay for it for long."""
    monkeypatch.setattr(protocol, "WAITING", 1000)
    begun = GET + b"x: " + b"y" * 600
    async with raw_upstream(Upstream().play) as base, running(App(settings(base))) as url:

        async def beginner() -> Side:
            client = await connect(url)
            await client.say(GET + b"\r\n" + begun)
            assert (await answer(client))[1] == b"ok"
            return client

        for _ in range(3):
            async with await beginner() as first:
                async with await beginner() as second:
                    assert refused_for_room(await second.rest())
                await first.say(b"\r\n\r\n")
                assert (await answer(first))[1] == b"ok"
        async with await beginner() as leaving:
            pass
        await leaving.rest()
        async with asyncio.timeout(PATIENCE):
            while True:
                async with await beginner() as last:
                    await last.say(b"\r\n\r\n")
                    if not refused_for_room(await last.head()):
                        break


async def two_are_answered(client: Side, upstream: Upstream, requests: bytes) -> None:
    """Send two requests at once, and have both answered when the first has gone upstream."""
    await client.say(requests)
    await happened(upstream.reached)
    upstream.may_answer.set()
    for _ in range(2):
        assert (await answer(client))[1] == b"ok"
    upstream.may_answer.clear()
    upstream.reached.clear()


async def test_of_requests_behind_others_only_so_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "WAITING", 2 * terms.REQUEST)
    request = GET + b"\r\n"
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        for _ in range(3):
            await two_are_answered(client, upstream, request * 2)
        await client.say(request * 3)
        await happened(upstream.reached)
        upstream.may_answer.set()
        for _ in range(2):
            assert (await answer(client))[1] == b"ok"
        refused = await client.rest()
        assert refused_for_room(refused)
        assert refused.count(b"HTTP/1.1 ") == 1  # nobody gets an answer that was not asked for


def test_nobody_who_takes_no_more_is_refused_for_what_others_have_taken() -> None:
    room = Budget(3)
    assert room.take(2)
    assert not room.take(2)
    assert room.take(0)
    assert room.take(-1)
    assert room.taken == 3


async def test_the_bodies_of_requests_behind_others_wait_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine of 64 KiB wait behind an answer of /-/ that its client does not take."""
    monkeypatch.setattr(protocol, "WAITING", 3 * terms.REQUEST)
    few, many = (POST + b"content-length: %d\r\n\r\n" % n + b"x" * n for n in (5_000, 20_000))
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        for _ in range(3):
            await two_are_answered(client, upstream, GET + b"\r\n" + few)
        await client.say(GET + b"\r\n" + many)
        await happened(upstream.reached)
        upstream.may_answer.set()
        assert (await answer(client))[1] == b"ok"
        assert refused_for_room(await client.rest())


async def test_whoever_is_answered_waits_no_more() -> None:
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.append(scope["extensions"][CONNECTION].config.waiting.taken)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say((GET + b"\r\n") * 2 + GET + b"connection: close\r\n\r\n")
        await client.rest()
    assert waiting[0] > waiting[1] > waiting[2] == 0


@pytest.mark.parametrize("room", [10_000, 100_000], ids=["refused", "let in"])
async def test_a_body_that_nobody_reads_waits_among_them_while_no_answer_is_taken(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(protocol, "WAITING", room)
    size, before = 20_000, b"y" * (32 << 20)  # more than the system keeps of it
    length = [(b"content-length", b"%d" % len(before))]
    begun: list[protocol.Protocol] = []
    arrived = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        if begun:
            cycle = connection.cycle
            await until(lambda: len(cycle.body) >= size or cycle.disconnected)
            arrived.set()
        begun.append(connection)
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": before})

    async with serving(application) as client:
        await client.say(GET + b"\r\n")
        await client.head()
        await client.say(POST + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        await happened(arrived)
        connection = begun[0]
        if room < size:
            assert (connection.config.waiting.taken, len(connection.cycle.body)) == (0, 0)
            async with asyncio.timeout(PATIENCE):
                await client.reader.readexactly(len(before))
            assert refused_for_room(await client.rest())
        else:
            assert connection.config.waiting.taken == size
    assert connection.config.waiting.taken == 0


async def test_a_body_waits_no_more_once_its_answer_is_taken() -> None:
    """The answer may go on for an hour, in which nothing more is read from its client."""
    size, before = 20_000, b"y" * (32 << 20)  # more than the system keeps of it
    length = [(b"content-length", b"%d" % len(before))]
    waiting: list[int] = []
    arrived = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": before})
            return
        await until(lambda: len(connection.cycle.body) >= size)
        await receive()
        waiting.append(connection.config.waiting.taken)
        arrived.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting.append(connection.config.waiting.taken)
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(GET + b"\r\n")
        await client.head()
        await client.say(POST + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        await happened(arrived)
        async with asyncio.timeout(PATIENCE):
            await client.reader.readexactly(len(before))
        await client.head()
    assert waiting == [size, 0]


async def test_what_nobody_has_read_of_a_body_goes_with_its_answer() -> None:
    """The rest of it may be minutes in coming."""
    size = 20_000
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = scope["extensions"][CONNECTION].cycle
        await until(lambda: len(cycle.body) >= size)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        waiting.append(len(cycle.body))

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (size + 1) + b"x" * size)
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert waiting == [0]


async def test_however_much_is_pipelined_little_of_it_waits() -> None:
    request = POST + b"content-length: 0\r\n\r\n"
    amount = 2000
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.append(scope["extensions"][CONNECTION]._pipeline.waiting)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        sending = asyncio.create_task(client.say(request * amount))
        for _ in range(amount):
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await sending
    one_reading = terms.PIECE // len(request) + 1
    assert max(waiting) <= terms.PIPELINED + one_reading


async def test_a_client_whose_body_nobody_takes_is_made_to_wait() -> None:
    part, parts = b"x" * (256 << 10), 100
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            for _ in range(10):  # as long as it takes to read on, if that is done
                await asyncio.sleep(0)
            message = await receive()
            waiting.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (parts * len(part)))
        sending = asyncio.create_task(client.say(part * parts))
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await sending
    assert sum(waiting) == parts * len(part)
    assert max(waiting) <= 1 << 20


async def test_a_client_that_is_slow_is_waited_for_each_time() -> None:
    part, parts = b"x" * (256 << 10), 100
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"][CONNECTION].transport
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(parts):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            waiting.append(transport.get_write_buffer_size())
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(b"GET / HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n0\r\n\r\n")
    assert len(waiting) == parts
    assert max(waiting) < 2 * len(part)


async def test_whoever_sends_much_at_once_lets_others_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "SLICE", 0)
    size = 100_000  # more than the event loop hands over at once
    parts: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            parts.append(message["body"])
        parts.append(message["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert b"".join(parts) == b"x" * size
    assert max(map(len, parts)) <= terms.PIECE


async def test_what_was_read_is_not_kept() -> None:
    kept: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        kept.append(len(scope["extensions"][CONNECTION]._intake._unread.obj))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    body = b"x" * 100_000
    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert kept == [0]


# Deadlines.


def shorten(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Shorten a deadline of the protocol to 50 ms."""
    monkeypatch.setattr(protocol, name, 0.05)


async def deadline_passes(client: Side) -> None:
    """Wait until a connection opened now is closed: by then the deadline of ``client`` is over."""
    host, port = client.writer.get_extra_info("peername")[:2]
    async with await connect(f"http://{host}:{port}") as other:
        assert await other.rest() == b""


async def trickle(client: Side, part: bytes) -> bytes:
    """Send ``part`` again and again until the server has had enough; returns its last words.

    One that closes without a word may do so while more is on its way, which is a reset then.
    """
    last_words = asyncio.create_task(client.rest())
    while not last_words.done():
        client.writer.write(part)
        await asyncio.wait({last_words}, timeout=0.01)
    with suppress(ConnectionResetError):
        return last_words.result()
    return b""


@pytest.mark.parametrize("part", [b"", b"x"], ids=["silent", "trickled"])
@pytest.mark.parametrize("begun", [b"G", GET, GET + b"x-a: "], ids=["line", "fields", "value"])
async def test_a_head_has_its_time_and_no_more(
    monkeypatch: pytest.MonkeyPatch, begun: bytes, part: bytes
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    upstream = Upstream()
    if begun == b"G" and part:
        begun = b"GET /"
    async with door(upstream) as client:
        await client.say(begun)
        assert "head" in message(await trickle(client, part), 408, "timeout_error")
    assert not upstream.asked


async def test_the_head_of_a_later_request_has_its_time_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    async with door(Upstream()) as client:
        await client.say(GET + b"\r\n")
        await answer(client)
        await client.say(GET)
        message(await client.rest(), 408, "timeout_error")


async def test_a_head_that_is_made_to_wait_keeps_its_time(
    times_over: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    amount = terms.PIPELINED + 2
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say((GET + b"\r\n") * amount + GET)
        await times_over()
        await client.say(b"\r\n")
        upstream.may_answer.set()
        for _ in range(amount + 1):
            assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize("part", [b"", b"\r\n"], ids=["silent", "blank lines"])
@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "used"])
async def test_a_connection_that_asks_nothing_is_closed_without_a_word(
    monkeypatch: pytest.MonkeyPatch, part: bytes, *, asked: bool
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.2)
    async with door(Upstream()) as client:
        if asked:
            await client.say(GET + b"\r\n")
            await answer(client)
        assert await trickle(client, part) == b""


async def test_an_exchange_has_no_deadline_of_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.05)
    for name in ("HEAD_WITHIN", "BODY_SILENCE"):
        shorten(monkeypatch, name)
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say(GET + b"\r\n")
        await happened(upstream.reached)
        await deadline_passes(client)
        upstream.may_answer.set()
        assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize("framing", [b"content-length: 9\r\n\r\n{", CHUNKED, CHUNKED + b"3\r\n{"])
async def test_a_body_that_stalls_is_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, framing: bytes
) -> None:
    caplog.set_level(logging.INFO)
    shorten(monkeypatch, "BODY_SILENCE")
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + framing)
        assert "body" in message(await client.rest(), 408, "timeout_error")
    assert not upstream.asked
    (line,) = lines(caplog)
    assert "status=408 ended=refused" in line


async def test_a_body_that_trickles_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "BODY_WITHIN")
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + b"content-length: 900\r\n\r\n")
        assert "body" in message(await trickle(client, b"{"), 408, "timeout_error")
    assert not upstream.asked


async def test_a_body_that_stalls_ends_the_upstreams_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "BODY_SILENCE")
    cut = asyncio.Event()

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.rest()
        cut.set()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"abc"))
        message(await client.rest(), 408, "timeout_error")
        await happened(cut)


async def test_a_body_that_stalls_after_the_answer_has_begun_cuts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "BODY_SILENCE")

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsoon")
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"abc"))
        assert (await client.rest()).endswith(b"\r\n\r\nsoon")


async def test_a_body_of_http_1_0_that_stalls_after_the_answer_has_begun_cuts_it_visibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end would be the answer's, so that the connection is reset."""
    shorten(monkeypatch, "BODY_SILENCE")
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.say(stream + chunk(b"soon"))
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST.replace(b"1.1", b"1.0") + b"content-length: 99999\r\n\r\nabc")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.fixture
def times_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Waits until the time that a body has is over, and over again; from then on it is long.

    Else a machine that stops for so long would fail what comes afterwards.
    """
    shorten(monkeypatch, "BODY_SILENCE")
    over = asyncio.Event()
    expire: Callable[[Any], None] = protocol.Protocol._expire
    left = 3

    def counted(connection: protocol.Protocol) -> None:
        nonlocal left
        left -= 1
        if not left:
            monkeypatch.setattr(protocol, "BODY_SILENCE", PATIENCE)
            over.set()
        expire(connection)

    monkeypatch.setattr(protocol.Protocol, "_expire", counted)

    async def wait() -> None:
        async with asyncio.timeout(PATIENCE):
            await over.wait()

    return wait


@pytest.mark.parametrize("part", [b"", b"{"])
async def test_a_body_that_stalls_after_the_whole_answer_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    shorten(monkeypatch, "BODY_SILENCE")
    async with door(Upstream()) as client:
        await client.say(
            GET.replace(b"/v1/models", b"/-/healthy") + b"content-length: 9\r\n\r\n" + part
        )
        assert b"healthy" in await client.rest()


async def test_a_body_that_the_upstream_does_not_take_does_not_stall(
    times_over: Callable[[], Awaitable[None]],
) -> None:
    size = 32 << 20

    async def play(side: Side) -> None:
        await side.head()
        await times_over()
        await side.reader.readexactly(size)
        await side.say(OK)

    async with at_the_door(play) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.say(b"x" * size))
        assert (await answer(client))[1] == b"ok"
        await sending


@pytest.mark.parametrize(
    "begun",
    [b"content-length: 4\r\n\r\nab", b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"],
    ids=["begun", "asks first"],
)
async def test_a_body_that_nobody_reads_does_not_stall(
    times_over: Callable[[], Awaitable[None]], begun: bytes
) -> None:
    reads = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        await times_over()
        reads.set()
        body, more = b"", True
        while more:
            part = await receive()
            body += part["body"]
            more = part["more_body"]
        assert body == b"abcd"
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(application) as client:
        await client.say(POST + begun)
        await happened(reads)
        await client.say(b"cd" if begun.endswith(b"ab") else b"abcd")
        assert b"HTTP/1.1 200 OK\r\n" in await client.until(b"ok")


async def test_each_part_of_a_body_is_given_its_time_and_does_not_count_for_framing() -> None:
    size = 40 << 10
    dues: list[float] = []
    taken = asyncio.Semaphore(0)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        for _ in range(4):
            left = size
            while left:
                left -= len((await receive())["body"])
            dues.append(connection._alarm.due)
            taken.release()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (size * 4))
        for _ in range(4):
            await client.say(b"x" * size)
            async with asyncio.timeout(PATIENCE):
                await taken.acquire()
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert dues[:3] == sorted(set(dues[:3]))


async def test_framing_that_arrives_by_itself_counts_to_the_next_part_of_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "PIECE", 2)
    body = b"1\r\nx\r\n" * 200 + b"0\r\n\r\n"

    async def play(side: Side) -> None:
        await side.until(b"0\r\n\r\n")
        await side.say(OK)

    async with at_the_door(play, {"limits": {"header_bytes": 300}}) as client:
        await client.say(POST + CHUNKED + body)
        assert (await answer(client))[1] == b"ok"


async def stay(client: Side) -> None:
    """Go on sending until the connection is gone."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while True:
                await client.say(b"x")
                await asyncio.sleep(0)


async def test_a_refused_client_that_stays_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "LINGER")

    async with door(Upstream()) as client:
        await client.say(b"what?\r\n\r\n")
        message(await client.rest(), 400)
        await stay(client)


async def test_a_slow_client_that_is_let_go_gets_the_last_of_its_answer_and_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "LINGER")
    lingered = asyncio.Event()
    expire = protocol.Protocol._expire

    def expired(connection: protocol.Protocol) -> None:
        expire(connection)
        lingered.set()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"][CONNECTION].transport
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not transport.get_write_buffer_size():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    monkeypatch.setattr(protocol.Protocol, "_expire", expired)
    async with serving(application) as client:
        await client.say(POST + b"connection: close\r\ncontent-length: 5\r\n\r\n")
        await happened(lingered)
        assert (await client.rest()).endswith(b"x\r\n0\r\n\r\n")
        await stay(client)


async def test_a_client_that_has_taken_what_waited_is_not_left_for_it() -> None:
    timers: list[asyncio.TimerHandle] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection.flow.write_paused:
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        timers.append(connection._patience._timer)
        await connection.flow.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(application) as client:
        await client.say(GET + b"connection: close\r\n\r\n")
        await client.rest()
    assert [timer.cancelled() for timer in timers] == [True]


@pytest.mark.parametrize("ending", ["asked to close", "silent", "half-closed", "cut"])
async def test_a_client_that_does_not_take_the_last_of_its_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    written, left = asyncio.Event(), asyncio.Event()
    give_up = protocol.Protocol._give_up

    def given_up(connection: protocol.Protocol) -> None:
        give_up(connection)
        left.set()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection.transport.get_write_buffer_size():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        assert not connection.flow.write_paused  # so little that no more is waited for
        written.set()
        if ending == "silent":
            connection.timeout_keep_alive = 0
        if ending != "cut":
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    monkeypatch.setattr(protocol.Protocol, "_give_up", given_up)
    monkeypatch.setattr(server, "Terms", partial(terms.Terms, patience=0.05))
    async with serving(application) as client:
        fields = b"connection: close\r\n" if ending == "asked to close" else b""
        await client.say(POST + fields + b"content-length: 0\r\n\r\n")
        await happened(written)
        if ending == "half-closed":
            client.writer.write_eof()
        await happened(left)
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system is asked")
async def test_a_client_that_keeps_taking_is_not_left_though_the_system_holds_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[bool] = []
    left = asyncio.Event()
    look = Patience._on_timer

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.is_set():
            part = b"x" * (16 << 10)
            await send({"type": "http.response.body", "body": part, "more_body": True})

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)

    def looked(patience: Patience) -> None:
        if len(looks) < 3:
            client.recv(2 * ENOUGH, socket.MSG_WAITALL)
        look(patience)
        looks.append(patience._transport.is_closing())
        if looks[-1]:
            left.set()

    monkeypatch.setattr(Patience, "_on_timer", looked)
    monkeypatch.setattr(server, "Terms", partial(terms.Terms, patience=0.05))
    async with running(answers) as url:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)  # its own holds little
            client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            client.sendall(GET + b"\r\n")
            await happened(left)
    assert looks == [False, False, False, True]


@pytest.mark.parametrize(("ours", "systems"), [(4, 1), (1, 4)], ids=["ours", "the system's"])
async def test_a_client_is_kept_that_takes_of_what_waits_with_us_or_in_the_system(
    monkeypatch: pytest.MonkeyPatch, ours: int, systems: int
) -> None:
    waits = [[max(left, 1) for left in range(of, of - 6, -1)] for of in (ours, systems)]
    buffers, queues = (iter([left * ENOUGH for left in sizes]) for sizes in waits)
    looks = 0

    class Transport:
        def get_extra_info(self, _: str) -> None:
            nonlocal looks
            looks += 1

        def get_write_buffer_size(self) -> int:
            return next(buffers)

    monkeypatch.setattr(patience, "unacknowledged", lambda _: next(queues))
    left = asyncio.Event()
    Patience(cast(asyncio.Transport, Transport()), 0, left.set)
    await happened(left)
    assert looks == 5


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own bound is another")
def test_of_what_a_client_does_not_read_little_waits_in_the_system() -> None:
    """It is the memory of the container, and no exchange need be counted for it."""
    taken = 0
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        accepted.setblocking(False)
        with suppress(BlockingIOError):
            while taken < 16 << 20:
                taken += accepted.send(bytes(16 << 10))
    assert UNSENT <= taken < 1 << 20


# Sizes.


async def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"x-a: ")
        refused = await trickle(client, b"x" * (16 << 10))
        assert str(64 << 10) in message(refused, 431)
    assert not upstream.asked


@pytest.mark.parametrize("behind", [b"\r\n\r\n", b""], ids=["whole", "unfinished"])
async def test_a_head_that_is_too_large_at_once_is_refused(behind: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(GET + b"x-a: " + b"x" * (200 << 10) + behind)
        message(await client.rest(), 431)


async def test_the_target_is_part_of_the_head() -> None:
    limits: More = {"limits": {"header_bytes": 300}}
    async with door(Upstream(), limits) as client:
        await client.say(b"GET /?%b HTTP/1.1\r\nhost: proxy\r\n\r\n" % (b"x" * 300))
        assert "300" in message(await client.rest(), 431)


@pytest.mark.parametrize(
    "before",
    [POST + b"content-length: 900\r\n\r\n" + b"x" * 900, GET + b"x-a: " + b"x" * 180 + b"\r\n\r\n"],
    ids=["body", "head"],
)
async def test_what_came_before_a_head_does_not_count_for_it(before: bytes) -> None:
    upstream = Upstream()
    async with door(upstream, {"limits": {"header_bytes": 300}}) as client:
        await client.say(before + GET)
        assert (await answer(client))[1] == b"ok"
        await client.say(b"\r\n")
        assert (await answer(client))[1] == b"ok"


def in_parts(size: int) -> Callable[[bytes], list[bytes]]:
    """Cuts into parts of a ``size``."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(("more", "status"), [(0, b"200"), (1, b"431")], ids=["at", "beyond"])
@pytest.mark.parametrize(
    "cut", [in_parts(9999), in_parts(300), in_parts(7)], ids=["whole", "halves", "crumbs"]
)
async def test_a_head_is_measured_alike_however_it_is_cut(
    cut: Callable[[bytes], list[bytes]], more: int, status: bytes
) -> None:
    taken = len(b"/v1/models?a=bhostproxyx-a") + 2 * len(b": \r\n")
    value = b"x" * (400 - taken + more)
    sent = b"GET /v1/models?a=b HTTP/1.1\r\nhost: proxy\r\nx-a: %b\r\n\r\n" % value
    async with door(Upstream(), {"limits": {"header_bytes": 400}}) as client:
        for part in cut(sent):
            await client.say(part)
            await asyncio.sleep(0)
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


async def test_a_connection_that_stays_goes_by_the_configuration_in_force() -> None:
    large = GET + b"x-a: %b\r\n\r\n" % (b"x" * 400)
    upstream = Upstream()
    async with raw_upstream(upstream.play) as base:
        app = App(settings(base))
        async with running(app) as url, await connect(url) as client:
            await client.say(large)
            assert (await answer(client))[1] == b"ok"
            await app.reload(settings(base, more={"limits": {"header_bytes": 300}}))
            await client.say(large)
            assert "300" in message(await client.rest(), 431)
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(("count", "status"), [(200, b"200"), (201, b"431")])
async def test_fields_are_counted(count: int, status: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(GET + b"a:\r\n" * (count - 2) + b"\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize("endless", [b"3;", b"0\r\nx-a: "], ids=["extension", "trailer"])
async def test_framing_without_a_body_is_bounded(endless: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + CHUNKED + endless)
        message(await trickle(client, b"x" * (16 << 10)), 431)
    assert not upstream.asked


async def test_applications_without_a_limit_of_their_own_have_one() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with serving(application) as client:
        await client.say(GET + b"x-a: " + b"x" * (200 << 10))
        assert str(terms.HEAD_SIZE) in message(await client.rest(), 431)


@pytest.mark.parametrize(
    "sent",
    [b"content-length: 51\r\n\r\n", CHUNKED + chunk(b"x" * 51), CHUNKED + chunk(b"x" * 26) * 2],
    ids=["announced", "chunk", "chunks"],
)
async def test_a_body_is_counted_while_it_arrives(sent: bytes) -> None:
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + sent)
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert "50" in envelope(body, "request_too_large")
    assert not upstream.asked


async def test_a_body_that_comes_after_its_refusal_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.05)
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + b"content-length: 51\r\n\r\n")
        assert (await answer(client))[0].startswith(b"HTTP/1.1 413 ")
        await client.say(b"x" * 51 + GET + b"\r\n")
        assert (await answer(client))[1] == b"ok"
        await client.say(COMPLETE + b"content-length: 51\r\n\r\n")
        await answer(client)
        await client.say(b"x" * 51)
        assert await client.rest() == b""
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("last", [b"connection: close", b"expect: 100-continue"])
async def test_the_last_answer_is_heard_though_its_request_is_still_on_its_way(last: bytes) -> None:
    upstream = Upstream()
    body = b"x" * (1 << 20)
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + last + b"\r\ncontent-length: %d\r\n\r\n" % len(body))
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        await client.say(body + GET + b"\r\n")
        assert "50" in envelope(await client.rest(), "request_too_large")
    assert not upstream.asked


async def test_a_stop_resets_nobody_who_has_an_answer_and_still_sends_its_request() -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(OK)
        await side.rest()

    async with raw_upstream(play) as base, AsyncExitStack() as server_:
        url = await server_.enter_async_context(running(App(settings(base))))
        async with await connect(url) as client:
            await client.say(POST + b"content-length: 1000000\r\n\r\n")
            assert (await answer(client))[1] == b"ok"
            stopping = asyncio.create_task(server_.aclose())
            assert await client.rest() == b""
            for _ in range(5):  # upon a reset the second write fails, and the third says so
                await client.say(b"x")
                await asyncio.sleep(0)
        await stopping


async def test_a_body_that_nobody_asked_for_does_not_become_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "LINGER")
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + b"expect: 100-continue\r\ncontent-length: 51\r\n\r\n")
        refused = await client.rest()
        assert refused.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close\r\n" in refused
        await client.say(b"x" * 51 + GET + b"\r\n")
        await stay(client)
    assert not upstream.asked


# Files.


HEALTHY = b"GET /-/healthy HTTP/1.1\r\nhost: proxy\r\n\r\n"


async def test_as_many_files_are_opened_as_exchanges_take(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9")
    few = ("prlimit", "--nofile=40:200")
    async with served("serve", "--config", str(file), within=few) as here, AsyncExitStack() as held:
        for _ in range(80):
            client = await held.enter_async_context(await connect(here.url))
            await client.say(HEALTHY)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await here.stopped() == 0
    assert "4050 files should be allowed, not 200" in "".join(here.said)


async def test_every_process_opens_more_files_when_more_exchanges_are_allowed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9", limits={"concurrent_exchanges": 1})
    command = ("serve", "--config", str(file), "--workers", "2")
    async with (
        served(*command, within=("prlimit", "--nofile=60:200")) as here,
        AsyncExitStack() as held,
    ):
        await (await held.enter_async_context(await connect(here.url))).say(HEALTHY)
        write_config(file, "http://127.0.0.1:9")
        here.signal(signal.SIGHUP)
        for _ in range(2):
            await here.logged("reloaded: ")
        for _ in range(160):
            client = await held.enter_async_context(await connect(here.url))
            await client.say(HEALTHY)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await here.stopped() == 0
    assert "".join(here.said).count("4050 files should be allowed, not 200") == 1


def test_where_no_more_files_may_be_opened_the_usual_ones_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1 << 30))
    monkeypatch.setattr(resource, "setrlimit", refused)
    process.raise_file_limit(1000)
    assert len(caplog.messages) == 1
    assert "4050 files should be allowed, not 1024" in caplog.text


def refused(*_: object) -> None:
    raise ValueError("not allowed to raise maximum limit")  # as the library says EPERM


# Loops.


async def test_a_proxy_that_is_its_own_upstream_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    app = App(settings(f"http://127.0.0.1:{port}"))
    async with running(app, port=port) as url, await connect(url) as client:
        await client.say(GET + b"\r\n")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
        assert "loop" in envelope(body, "api_error")


@pytest.mark.parametrize(("rounds", "status"), [(guard.ROUNDS - 1, b"200"), (guard.ROUNDS, b"508")])
async def test_a_few_proxies_in_a_row_are_no_loop(rounds: int, status: bytes) -> None:
    async with door(Upstream()) as client:
        others = b"via: 1.0 fred, 1.1 anthropic-version-proxy.test\r\n"
        await client.say(GET + others + b"via: 1.1 anthropic-version-proxy\r\n" * rounds + b"\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


def test_entries_of_via_are_counted_however_they_are_written() -> None:
    ours = b"1.1 anthropic-version-proxy"
    written = [
        (b"via", b"%b, HTTP/1.1 Anthropic-Version-Proxy (a comment)" % ours),
        (b"x-via", ours),
        (b"via", b"1.1 other (anthropic-version-proxy),, %b" % ours),
    ]
    assert times_forwarded(by_name(written)) == 3


# Names of ours, and pages of others.


OURS: More = {"server": {"hosts": ["Proxy.example.com"]}}

OF_OURS = [
    b"host: proxy",
    b"host: 127.0.0.1:8080",
    b"host: proxy.Example.com.:443",
    b"host:",
    b"host: proxy\r\norigin: http://localhost:3000",
    b"host: proxy\r\norigin: http://[::1]:3000",
    b"host: proxy\r\norigin: https://proxy.example.com",
    b"host: proxy.example.com\r\norigin: http://127.0.0.1",
    b"host: 10.1.2.3:8080\r\norigin: http://10.1.2.3",
    b"host: proxy\r\nsec-fetch-site: none",
    b"host: proxy\r\nsec-fetch-site: cross-site\r\norigin: http://localhost:3000",
    b"host: 10.1.2.3 \t\r\norigin: http://10.1.2.3 ",
    b"host: proxy\r\norigin: app://localhost",
]

OF_OTHERS = {
    b"host: evil.example": 421,
    b"host: proxy.example.com.evil.example": 421,
    b"host: evil.example\r\norigin: http://evil.example": 421,
    b"host: proxy\r\norigin: https://evil.example": 403,
    b"host: proxy\r\norigin: https://evil.example:8080": 403,
    b"host: proxy\r\norigin: https://localhost@evil.example": 403,
    b"host: proxy\r\norigin: http://10.1.2.3": 403,
    b"host: 10.1.2.3\r\norigin: http://203.0.113.5": 403,
    b"host: proxy\r\norigin: http://[::ffff:cb00:7105]": 403,
    b"host: proxy\r\norigin: null": 403,
    b"host:\r\norigin: null": 403,
    b"host: proxy\r\norigin: localhost": 403,
    b"host: proxy\r\norigin: chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb": 403,
    b"host: proxy\r\norigin:": 403,
    b"host: proxy\r\norigin: file://": 403,
    b"host: proxy\r\norigin: http://localhost\r\norigin: https://evil.example": 403,
    b"host: proxy\r\nsec-fetch-site: cross-site": 403,
}


@pytest.mark.parametrize("fields", [*OF_OURS, *OF_OTHERS])
async def test_who_asks_by_whatever_name_is_answered(fields: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("fields", OF_OURS)
async def test_who_asks_by_a_name_of_ours_is_answered(fields: bytes) -> None:
    async with door(Upstream(), OURS) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("fields", "status"), OF_OTHERS.items())
async def test_no_page_of_others_spends_a_key_where_our_names_are_known(
    fields: bytes, status: int
) -> None:
    upstream = Upstream()
    async with door(upstream, OURS) as client:
        call = old_request().replace(b"host: proxy", fields)
        for request in (b"GET /v1/models HTTP/1.1\r\n%b\r\n\r\n" % fields, call):
            await client.say(request)
            head, body = await answer(client)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            type_ = {403: "permission_error", 421: "invalid_request_error"}[status]
            told = envelope(body, type_)
            assert "name" in told  # addresses cannot be listed
            assert "server.hosts" in told
    assert not upstream.asked


async def test_our_names_may_be_known_without_any_being_listed() -> None:
    upstream = Upstream()
    async with door(upstream, {"server": {"hosts": []}}) as client:
        await client.say(b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 421 ")
    assert not upstream.asked


# Bodies that are translated.


def deep(depth: int) -> bytes:
    """An object with lists within lists."""
    return b'{"prompt":' + b"[" * depth + b"]" * depth + b"}"


def prompt(value: bytes, more: bytes = b"") -> bytes:
    """A body in which ``value`` stands for the prompt."""
    return b'{"model":"m","prompt":%b%b}' % (value, more)


NOT_JSON = {
    "nothing": b"",
    "cut": b'{"prompt":',
    "deep": deep(100_000),
    "deep, and no end": b"[" * (1 << 18),
    "NaN": prompt(b"NaN"),
    "infinity": prompt(b"-Infinity"),
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"prompt":1}'.encode("utf-16"),
    "Latin-1": old_request(prompt="?").partition(b"\r\n\r\n")[2].replace(b"?", b"caf\xe9"),
    "control character": b'{"prompt":"\x00"}',
    "no object": b"[]",
    "two": b"{}{}",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        head, told = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "JSON" in envelope(told, "invalid_request_error")
    assert not upstream.asked


CALL = old_request().partition(b"\r\n\r\n")[2]

TOO_MUCH = {
    "a long name": b'{"model":"%b"}' % (b"m" * 257),
    "many names": b"{%b%b" % (b"".join(b'"x%d":1,' % number for number in range(1001)), CALL[1:]),
    "many names for nothing": b"{%b%b"
    % (b"".join(b'"x%d":null,' % number for number in range(1001)), CALL[1:]),
    "long blank stops": b'{"stop_sequences":["%b"],%b' % (b" " * 501, CALL[1:]),
    "many blank stops": b'{"stop_sequences":%b,%b'
    % (json.dumps([" " * number for number in range(1, 52)]).encode(), CALL[1:]),
    "many turns": json.dumps({**json.loads(CALL), "prompt": HUMAN * (MOST_TURNS + 1)}).encode(),
    "many values": b'{"prompt":[%b1]}' % (b"1," * MOST_VALUES),
    "many lists": b'{"prompt":[%b1]}' % (b"[]," * MOST_VALUES),
    "many members": b'{%b"a":"a"}' % (b'"a":"a",' * MOST_VALUES),
    "many texts": b'{"prompt":[%b1]}' % (b'"\\\\\\",",' * MOST_VALUES),
}


@pytest.mark.parametrize("body", TOO_MUCH.values(), ids=TOO_MUCH.keys())
async def test_a_body_that_costs_out_of_proportion_is_refused(body: bytes) -> None:
    upstream = Upstream()
    async with (
        raw_upstream(upstream.play) as base,
        running(App(settings(base, bridge=True))) as url,
        await connect(url) as client,
    ):
        await client.say(COMPLETE + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        head, told = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert re.search("at most|more than", envelope(told, "invalid_request_error"))
    assert not upstream.asked


async def test_a_path_that_can_be_parted_in_many_ways_is_looked_through_once() -> None:
    """Each way was tried, and the worker did nothing else for half a minute."""
    path = b"/v1/" + b":" * 60_000 + b"/"
    routes = {"routes": [{"path": "/v1/{model}:{verb}", "upstream": "api"}]}
    upstream = Upstream()
    async with raw_upstream(upstream.play) as base:
        raw = {"upstreams": {"api": {"base_url": base, "speaks": ["2023-06-01"]}}, **routes}
        async with (
            running(App(config.parse(json.dumps(raw), "test", {}))) as url,
            await connect(url) as client,
        ):
            began = time.process_time()
            await client.say(b"GET %b HTTP/1.1\r\nhost: proxy\r\n\r\n" % path)
            head, told = await answer(client)
            assert time.process_time() - began < 5
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert "no route" in envelope(told, "not_found_error")
    assert not upstream.asked


ODD_JSON = {
    "deep": (deep(600), deep(600)),
    "lone surrogate": (prompt(b'"\\ud800"'), b'"\\ud800"'),
    "a key twice": (prompt(b'"first"', b',"prompt":"last"'), b'"first","prompt":"last"'),
    "many digits": (prompt(b"1" * 5000), b"1" * 5000),
    "more than a float": (prompt(b"1e999"), b"1e999"),
    "an empty key": (prompt(b'[{"":null}]'), b'[{"":null}]'),
}


@pytest.mark.parametrize(("body", "kept"), ODD_JSON.values(), ids=ODD_JSON.keys())
async def test_odd_json_is_for_the_upstream_to_judge(body: bytes, kept: bytes) -> None:
    upstream = Upstream(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n")
    async with door(upstream) as client:
        await client.say(COMPLETE + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        assert (await client.head()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert kept in upstream.bodies[0]


async def test_a_compressed_body_cannot_be_translated() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b")
        head, told = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "content-encoding" in envelope(told, "invalid_request_error")
    assert not upstream.asked
