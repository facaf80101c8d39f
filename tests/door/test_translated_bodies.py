"""Bodies that are translated: what cannot be read, or would cost too much, is refused."""

from __future__ import annotations

import json
import re
import time

import pytest

from door.harness import COMPLETE, Upstream, answer, door, envelope
from proxy import config
from proxy.app import App
from proxy.bridge.prompt import MOST_TURNS
from proxy.formats.parameters import HUMAN
from proxy.server.server import running
from proxy.translation.translation import MOST_VALUES
from support import connect, old_request, raw_upstream, settings

pytestmark = pytest.mark.anyio


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
