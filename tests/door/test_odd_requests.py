"""Requests of odd shapes: each is asked of the upstream as it stands, or refused with a reason."""

from __future__ import annotations

import json

import pytest

from door.harness import CANARY, CHUNKED, COMPLETE, GET, Upstream, answer, door, envelope
from support import chunk

pytestmark = pytest.mark.anyio

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


@pytest.mark.parametrize(
    "version", [b"20990101", b"2099-W01-1", b"2099-01-01T00", b"\xef\xbc\x92099-01-01", b"latest"]
)
async def test_what_is_written_as_no_date_is_no_version(version: bytes) -> None:
    """Not even a new one, which the upstream would be asked for."""
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET.replace(b"2023-06-01", version) + b"\r\n")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert "is not a date" in envelope(body, "invalid_version")
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
