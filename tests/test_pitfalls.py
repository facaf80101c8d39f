"""The table of pitfalls.md names tests and cases that exist; and tests that belong nowhere else.

The table lists what has broken proxies like this one, each with the defence against it here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from proxy.app import App
from proxy.server.server import running
from support import STREAM_HEAD, Side, chunk, completion, connect, post, raw_upstream, settings

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
ROW = re.compile(r"^\| (?P<failure>[^|]+) \| (?P<defence>[^|]+) \| (?P<held>[^|]+) \|$")
ROWS = [
    row
    for line in (HERE / "pitfalls.md").read_text().splitlines()
    if (row := ROW.match(line)) and row["failure"] != "failure"
]


def test_every_pitfall_is_held_by_what_there_is() -> None:
    tests = "".join(file.read_text() for file in HERE.rglob("test_*.py"))
    assert len(ROWS) > 60
    for row in ROWS:
        held = re.findall(r"`([^`]+)`", row["held"])
        if row["held"].startswith("impossible: "):
            continue
        assert held, row["failure"]
        for name in held:
            case = HERE / "conformance" / "cases" / f"{name}.yaml"
            assert case.exists() if "/" in name else f"def {name}(" in tests, name


async def asked(sent: bytes, said: bytes = STREAM_HEAD + completion(" Hi") + chunk(b"")) -> Heard:
    """What comes of a request: what the upstream heard, and what the client got."""
    heard: list[bytes] = []

    async def play(side: Side) -> None:
        head, body = await side.request()
        heard.append(head + body)
        await side.say(said)

    async with (
        raw_upstream(play) as base,
        running(App(settings(base, bridge=True))) as url,
        await connect(url) as client,
    ):
        await client.say(sent)
        got = await client.rest()
        return b"".join(heard), got


Heard = tuple[bytes, bytes]


CALL = {"prompt": "\n\nHuman: Hi\n\nAssistant:", "max_tokens_to_sample": 9, "stream": True}


def started(model: str) -> bytes:
    """A stream of the upstream that begins as ``model``, and breaks off."""
    message = {"type": "message_start", "message": {"id": "m", "model": model}}
    event = b"event: message_start\ndata: %b\n\n" % json.dumps(message).encode()
    return STREAM_HEAD + chunk(event) + chunk(b"")


async def test_a_model_cannot_add_fields_to_its_answer() -> None:
    model = "x\r\nset-cookie: a=b\r\n\r\n\u00e9"
    _, got = await asked(post("/v1/complete", CALL | {"model": model}), started(model))
    assert b"\r\nset-cookie" not in got
    _, got = await asked(post("/v1/complete", CALL | {"model": "claude-v1"}), started(model))
    assert b"\r\nset-cookie" not in got
    assert b"\r\nx-proxy-model: x??set-cookie: a=b?????\r\n" in got


async def test_streams_are_not_held_back_by_what_stands_in_front() -> None:
    _, got = await asked(post("/v1/complete", CALL | {"model": "claude-v1"}), started("claude"))
    assert b"\r\nx-accel-buffering: no\r\n" in got


async def test_the_upstream_is_told_its_own_host_alone() -> None:
    heard, _ = await asked(post("/v1/messages", {}, b"anthropic-version: 2023-06-01"))
    assert re.findall(rb"\r\nhost: (.*):", heard) == [b"127.0.0.1"]
    assert b"host: proxy" not in heard


async def test_an_answer_that_passes_has_one_framing() -> None:
    _, got = await asked(post("/v1/messages", {}, b"anthropic-version: 2023-06-01"))
    assert got.count(b"\r\ntransfer-encoding: ") == 1


async def test_the_environment_does_not_say_where_to_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    heard, _ = await asked(post("/v1/messages", {}, b"anthropic-version: 2023-06-01"))
    assert heard.startswith(b"POST /v1/messages HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "name",
    [
        b"anthropic_version",
        b"X_Api_Key",
        b"x-api_key",
        b"Transfer_Encoding",
        b"content_length",
        b"Proxy",
        b"anthropic.version",
        b"x.api-key",
        b"Script_Name",
    ],
)
async def test_fields_that_some_servers_cannot_tell_apart_do_not_cross(name: bytes) -> None:
    fields = (b"anthropic-version: 2023-06-01", b"x-api-key: k", name + b": 2022-01-01")
    heard, _ = await asked(post("/v1/messages", {}, *fields))
    assert b"x-api-key: k\r\n" in heard
    assert b"2022-01-01" not in heard


async def test_no_cookie_that_one_client_was_sent_comes_from_another() -> None:
    heard: list[bytes] = []

    async def play(side: Side) -> None:
        while True:
            head, _ = await side.request()
            heard.append(head)
            await side.say(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")

    async with raw_upstream(play) as base:
        named = base.replace("127.0.0.1", "localhost")  # an address gets no cookies of some jars
        async with running(App(settings(named))) as url:
            for _ in range(2):
                async with await connect(url) as client:
                    await client.say(post("/v1/files", {}, b"anthropic-version: 2023-06-01"))
                    assert b"\r\nset-cookie: a=b\r\n" in await client.head()
    assert len(heard) == 2
    assert not any(b"cookie" in head.lower() for head in heard)


@pytest.mark.parametrize(
    "field",
    [(b"x-a", b"b\r\nx-split: c"), (b"x-a: b\r\nx-split", b"c"), (b"x-a", b"b\x00x-split")],
    ids=["value", "name", "NUL"],
)
async def test_whoever_makes_a_field_none_breaks_a_head_apart(field: tuple[bytes, bytes]) -> None:
    async def application(scope: Scope, _: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [field]})
            await send({"type": "http.response.body", "body": b""})

    async with running(application) as url, await connect(url) as client:
        await client.say(b"GET / HTTP/1.1\r\nhost: proxy\r\n\r\n")
        got = await client.rest()
    assert got.startswith(b"HTTP/1.1 500 ")
    assert b"x-split" not in got


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What is in a block, but not in functions within it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from own_nodes(node)


def test_no_cancel_scope_spans_a_yield() -> None:
    """Whoever iterates may stop in between, and another task, or the collector, would leave it."""
    scopes = 0
    for file in (HERE.parent / "proxy").rglob("*.py"):
        for block in ast.walk(ast.parse(file.read_text())):
            if not isinstance(block, ast.AsyncWith):
                continue
            opened = " ".join(ast.unparse(item.context_expr) for item in block.items)
            if re.search("timeout|TaskGroup|CancelScope|fail_after|move_on", opened):
                scopes += 1
                assert not any(isinstance(each, ast.Yield) for each in own_nodes(block)), file
    assert scopes
