"""The playground shows both wires live, without keys, and only to the proxy's own page."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from proxy.admin import page, playground
from proxy.admin import play as play_room
from proxy.app import App
from proxy.exchange.exchange import RESENDABLE
from proxy.exchange.explain import explain
from proxy.sandbox import sandbox
from proxy.server.server import running
from support import (
    LAST,
    PATIENCE,
    PLAIN,
    STREAM_HEAD,
    Play,
    Side,
    chunk,
    completion,
    connect,
    raw_upstream,
    settings,
    until,
)

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
OLD = {
    "model": "claude-v1",
    "prompt": "\n\nHuman: Hi\n\nAssistant:",
    "max_tokens_to_sample": 9,
    "stream": True,
}
KEY = "sk-ant-hunter2"


class Upstream:
    """An upstream that streams one completion, whose end it holds back until it is let on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = b""
        self.left = asyncio.Event()

    async def play(self, side: Side) -> None:
        try:
            head, body = await side.request()
            self.asked = head + body
            await side.say(STREAM_HEAD + completion(" Grüße"))
            going_on, leaving = map(asyncio.ensure_future, (self.go_on.wait(), side.rest()))
            await asyncio.wait((going_on, leaving), return_when=asyncio.FIRST_COMPLETED)
            if going_on.done():
                await side.say(LAST + chunk(b""))
            going_on.cancel()
            await leaving
        finally:
            self.left.set()


@asynccontextmanager
async def proxied(
    play: Play, *, bridge: bool = False, **more: dict[str, Any]
) -> AsyncIterator[tuple[httpx.AsyncClient, App]]:
    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, bridge=bridge, more=more))
        async with running(app) as url, httpx.AsyncClient(verify=PLAIN, base_url=url) as client:
            yield client, app


async def play(client: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    """All lines of an exchange."""
    request = {"json": OLD, **asked}
    answer = (await client.post("/-/playground", **request)).raise_for_status()
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "ms"} for line in lines]


async def test_an_upstream_is_kept_by_nobody_once_the_play_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has the certificates to trust, a megabyte for each play."""
    freed = asyncio.Event()

    class Watched(play_room.TappedUpstream):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            weakref.finalize(self._pool, freed.set)

    monkeypatch.setattr(play_room, "TappedUpstream", Watched)
    gc.disable()
    try:
        async with proxied(Upstream().play) as (client, _):
            assert (await play(client))[-1]["ended"] == "complete"
            await until(freed.is_set)
    finally:
        gc.enable()


async def test_both_wires_are_told_in_the_order_of_what_happened() -> None:
    upstream = Upstream()
    async with proxied(upstream.play) as (client, _):
        lines = await play(client, headers={"x-api-key": KEY, "anthropic-version": "2023-01-01"})
    assert [line["ms"] for line in lines] == sorted(line["ms"] for line in lines)
    explained, asked, sent, head, first, *rest, ended = without_times(lines)
    assert explained["explain"]["path"] == "/v1/complete"
    assert asked == {
        "wire": "client",
        "sent": "POST /v1/complete",
        "fields": [
            ["content-type", "application/json"],
            ["x-api-key", "…"],
            ["anthropic-version", "2023-01-01"],
        ],
        "body": json.dumps(OLD, separators=(",", ":")),
    }
    assert (sent["wire"], sent["sent"], sent["upstream"]) == (
        "upstream",
        "POST /v1/complete",
        "api",
    )
    assert ["anthropic-version", "2023-06-01"] in sent["fields"]
    assert json.loads(sent["body"]) == OLD
    assert (head["wire"], head["status"]) == ("upstream", 200)
    assert first["wire"] == "upstream"
    assert "event: completion" in first["text"]
    assert rest[0]["status"] == 200
    said = {
        wire: "".join(line.get("text", "") for line in lines if line.get("wire") == wire)
        for wire in ("client", "upstream")
    }
    assert '"completion":" Grüße"' in said["client"]
    assert said["client"].endswith("data: [DONE]\r\n\r\n")
    assert "[DONE]" not in said["upstream"]
    assert ended == {"ended": "complete", "error": ""}
    assert f"x-api-key: {KEY}".encode() in upstream.asked
    assert "hunter2" not in json.dumps(lines)


async def test_the_path_upstream_is_told_with_that_of_the_base_url() -> None:
    upstream = Upstream()
    async with raw_upstream(upstream.play) as url:
        app = App(settings(f"{url}/base"))
        async with running(app) as own, httpx.AsyncClient(verify=PLAIN, base_url=own) as client:
            lines = await play(client)
    (sent,) = (line["sent"] for line in lines if line.get("wire") == "upstream" and "sent" in line)
    assert upstream.asked.startswith(f"{sent} HTTP/1.1".encode())
    assert sent == f"POST {lines[0]['explain']['path']}" == "POST /base/v1/complete"


async def test_a_body_that_passes_through_in_parts_is_told_by_its_head_alone() -> None:
    async def play_alone(side: Side) -> None:
        assert len((await side.request())[1]) > RESENDABLE
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with proxied(play_alone) as (client, _):
        large = {"max_tokens": 1, "x": "x" * RESENDABLE}
        today = {"anthropic-version": "2023-06-01"}
        lines = await play(client, params={"path": "/v1/messages"}, json=large, headers=today)
    (sent,) = (line for line in lines if line.get("wire") == "upstream" and "sent" in line)
    assert sent["body"] is None
    assert [line["text"] for line in lines if "text" in line] == ["ok", "ok"]
    assert lines[-1]["ended"] == "complete"


async def test_events_are_told_while_the_exchange_goes_on() -> None:
    upstream = Upstream()
    upstream.go_on.clear()
    async with (
        proxied(upstream.play) as (client, app),
        client.stream("POST", "/-/playground", json=OLD) as answer,
    ):
        async for line in answer.aiter_lines():
            if '"wire":"client","text":' in line and not upstream.go_on.is_set():
                assert len(app.exchanges) == 1
                upstream.go_on.set()
        assert json.loads(line)["ended"] == "complete"


async def test_it_is_no_use_of_the_api_that_anybody_depends_on() -> None:
    async with proxied(Upstream().play) as (client, _):
        await play(client)
        told = (await client.get("/-/ledger")).json()
    assert told["entries"] == []
    assert told["days"] == []


async def test_a_key_of_the_proxys_own_is_sent_and_not_shown() -> None:
    upstream = Upstream()
    async with raw_upstream(upstream.play) as url:
        own = {"base_url": url, "speaks": ["2023-06-01"], "credentials": {"bearer": KEY}}
        own["headers"] = {"set": {"x-proxy-team": "hunter2"}}
        app = App(settings(url, more={"upstreams": {"api": own}}))
        async with running(app) as proxy, httpx.AsyncClient(verify=PLAIN, base_url=proxy) as client:
            lines = await play(client)
    assert f"authorization: Bearer {KEY}".encode() in upstream.asked
    assert b"x-proxy-team: hunter2" in upstream.asked
    assert "hunter2" not in json.dumps(lines)
    sent = next(line for line in lines if line.get("upstream"))
    assert ["authorization", "…"] in sent["fields"]


async def test_failures_are_told_as_the_client_gets_them() -> None:
    async def close(side: Side) -> None:
        await side.request()

    async with proxied(close) as (client, _):
        lines = await play(client)
    assert next(line["status"] for line in lines if "status" in line) == 502
    assert lines[-1]["ended"] == "upstream failed"
    assert lines[-1]["error"] == "api_error: upstream api closed the connection"


async def test_a_request_without_version_is_explained_as_it_is_answered() -> None:
    """Where it is refused, it was said to name one that is no date."""
    app = App(replace(settings("http://127.0.0.1:9"), version_when_missing="reject"))
    async with running(app) as url, httpx.AsyncClient(verify=PLAIN, base_url=url) as client:
        explained, _, _, body, _ = await play(client)
    assert explained["explain"]["error"]["type"] == "version_required"
    assert json.loads(body["text"]) == {
        name: told for name, told in explained["explain"].items() if name != "status"
    }


async def test_what_is_refused_never_goes_upstream() -> None:
    async with proxied(Upstream().play, bridge=True) as (client, _):
        lines = without_times(await play(client, json={"model": "claude-v1"}))
    explained, _, head, body, ended = lines
    assert explained["explain"]["error"]["message"] == "prompt: Field required"
    assert (head["wire"], head["status"]) == ("client", 400)
    assert "prompt: Field required" in body["text"]
    assert ended["ended"] == "refused"


async def test_it_counts_among_the_open_exchanges() -> None:
    upstream = Upstream()
    upstream.go_on.clear()
    async with proxied(upstream.play, limits={"concurrent_exchanges": 1}) as (client, app):
        first = asyncio.create_task(play(client))
        await until(lambda: len(app.exchanges) == 1 and bool(upstream.asked))
        second = await play(client)
        assert next(line["status"] for line in second if "status" in line) == 503
        upstream.go_on.set()
        assert (await first)[-1]["ended"] == "complete"
        await upstream.left.wait()  # its connection is nobody else's


async def test_it_ends_with_whoever_looks_at_it() -> None:
    upstream = Upstream()
    upstream.go_on.clear()
    async with proxied(upstream.play) as (client, app):
        async with client.stream("POST", "/-/playground", json=OLD):
            await until(lambda: bool(upstream.asked))
        await upstream.left.wait()
        await until(lambda: len(app.exchanges) == 0)


@pytest.mark.parametrize("path", ["/-/playground", "/-/ledger"])
async def test_who_leaves_in_the_middle_leaves_no_garbage(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was yet to be shown may be many MB, and the garbage collector seldom comes."""
    freed: list[str] = []

    async def much(*_: Any) -> AsyncGenerator[bytes]:
        held = set[int]()
        weakref.finalize(held, freed.append, "the parts")
        while True:
            yield b"x" * (1 << 20)

    class Watched(play_room.Play):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            weakref.finalize(self, freed.append, "the play")

        def _show(self, line: dict[str, Any]) -> None:
            super()._show(line | {"much": "x" * (1 << 20)})

    monkeypatch.setattr(playground, "Play", Watched)
    monkeypatch.setattr(page, "_unhurried", much)
    body = json.dumps(OLD).encode()
    asks = {
        "/-/playground": b"POST %b HTTP/1.1\r\ncontent-type: application/json\r\n",
        "/-/ledger": b"GET %b HTTP/1.1\r\n",
    }
    head = asks[path] % path.encode() + b"host: localhost\r\ncontent-length: %d\r\n\r\n"
    gc.disable()
    try:
        async with raw_upstream(Upstream().play) as upstream:
            app = App(settings(upstream))
            async with running(app) as url, await connect(url) as client:
                await client.say(head % len(body) + body)
                await client.head()
                client.writer.close()
                await until(lambda: bool(freed))
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("bound", "value", "why"),
    [
        ("TIME_LIMIT", 0.05, "it took longer than 0.05 seconds"),
        ("MOST_SHOWN", 900, "it is longer than the 0 MiB that are shown"),
    ],
)
async def test_it_is_bounded_in_time_and_size(
    bound: str, value: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play_room, bound, value)
    upstream = Upstream()
    upstream.go_on.clear()
    async with proxied(upstream.play) as (client, _):
        lines = await play(client)
        await upstream.left.wait()
    assert lines[-1]["error"] == why
    assert lines[-1]["ended"].startswith("client left")


async def test_it_is_bounded_in_time_as_well_while_no_certificates_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or all places would stay taken for as long as a disk hangs."""
    disk_answers = threading.Event()

    class Hanging(play_room.TappedUpstream):
        def __init__(self, *arguments: Any) -> None:
            disk_answers.wait(PATIENCE)
            super().__init__(*arguments)

    monkeypatch.setattr(play_room, "TIME_LIMIT", 0)
    monkeypatch.setattr(play_room, "TappedUpstream", Hanging)
    async with proxied(Upstream().play) as (client, _):
        try:
            for _ in range(playground.AT_ONCE + 1):
                async with asyncio.timeout(PATIENCE / 4):
                    lines = await play(client)
                assert without_times(lines)[-1] == {
                    "ended": "not begun",
                    "error": "trusted certificates could not be read within 0 seconds",
                }
        finally:
            disk_answers.set()


# Who may ask, and for what.


FOREIGN = "this is for the page of the proxy alone"
NOT_JSON = "the content-type must be application/json"


async def test_other_pages_get_nothing() -> None:
    upstream = Upstream()
    refused = [
        (JSON | {"origin": "https://evil.example"}, 403, FOREIGN),
        (JSON | {"origin": "null"}, 403, FOREIGN),
        (JSON | {"origin": "null", "host": ""}, 403, FOREIGN),
        (JSON | {"origin": "http://["}, 403, FOREIGN),
        ({"content-type": "text/plain"}, 400, NOT_JSON),
        ({}, 400, NOT_JSON),
    ]
    async with proxied(upstream.play) as (client, _):
        for endpoint in ("/-/playground", "/-/explain"):
            for fields, status, why in refused:
                answer = await client.post(endpoint, content=json.dumps(OLD), headers=fields)
                assert (answer.status_code, answer.json()["error"]["message"]) == (status, why)
            preflight = await client.options(endpoint, headers={"origin": "https://evil.example"})
            assert preflight.status_code == 404
            assert "access-control-allow-origin" not in preflight.headers
    assert not upstream.asked


async def test_our_own_page_is_answered() -> None:
    async with proxied(Upstream().play) as (client, _):
        own = {"origin": str(client.base_url).rstrip("/"), "content-type": "Application/JSON"}
        assert (await play(client, headers=own))[-1]["ended"] == "complete"


async def test_only_the_path_of_a_request_is_called() -> None:
    upstream = Upstream()
    wrong = {"/-/ledger": 404, "/-": 404, "v1/complete": 400, "/v1/a b": 400, "/v1?x=1": 400}
    no_client_may = {"/v1/messages#x": 400, "/v1/messages%00": 400, "/v1/messages%7F": 400}
    async with proxied(upstream.play) as (client, _):
        for path, status in (wrong | no_client_may).items():
            for endpoint in ("playground", "explain"):
                answer = await client.post(f"/-/{endpoint}", params={"path": path}, json=OLD)
                assert answer.status_code == status, path
    assert not upstream.asked


async def test_what_is_tried_is_bounded() -> None:
    async with proxied(Upstream().play) as (client, _):
        body = b" " * (playground.LARGEST_BODY + 1)
        answer = await client.post("/-/explain", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


async def test_who_leaves_before_all_is_asked_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    app = App(settings("http://127.0.0.1:9"))
    for served, path in ((app, b"/-/explain"), (sandbox.build(), b"/v1/messages")):
        async with running(served) as url, await connect(url) as client:
            await client.say(
                b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"x-api-key: none\r\nanthropic-version: 2023-06-01\r\n"
                b"content-length: 2\r\nexpect: 100-continue\r\n\r\n" % path
            )
            await client.until(b" 100 Continue\r\n")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_only_so_many_are_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "AT_ONCE", 1)
    upstream = Upstream()
    upstream.go_on.clear()
    refusals = asyncio.Queue[httpx.Response]()

    async with proxied(upstream.play) as (client, _):

        async def ask() -> str:
            async with client.stream("POST", "/-/playground", json=OLD) as shown:
                if shown.status_code == 503:
                    refusals.put_nowait(shown)
                return (await shown.aread()).decode()

        asked = [asyncio.create_task(ask()) for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            refused = [await refusals.get() for _ in asked[1:]]
            assert {answer.headers["retry-after"] for answer in refused} == {"1"}
            upstream.go_on.set()
            assert sum('"ended":"complete"' in each for each in await asyncio.gather(*asked)) == 1
        assert (await play(client))[-1]["ended"] == "complete"


async def test_only_so_many_have_something_explained_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would wait before the large requests of clients, however long ago they left."""
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def patient(*given: Any, **named: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(PATIENCE)
        return explain(*given, **named)

    monkeypatch.setattr(playground, "AT_ONCE", 1)
    monkeypatch.setattr(playground, "explain", patient)
    async with proxied(Upstream().play) as (client, _):
        first = asyncio.create_task(client.post("/-/explain", json=OLD))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            refused = await client.post("/-/explain", json=OLD)
            go_on.set()
            answered = await first
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert answered.status_code == 200


@pytest.mark.parametrize("path", ["/-/explain", "/-/playground"])
async def test_what_arrives_slowly_counts_among_them(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in memory meanwhile, and nothing else bounds how many send something."""
    monkeypatch.setattr(playground, "AT_ONCE", 1)
    app = App(settings("http://127.0.0.1:9"))
    async with running(app) as url, httpx.AsyncClient(verify=PLAIN, base_url=url) as client:
        async with await connect(url) as slow:
            await slow.say(
                b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
                % path.encode()
            )
            await slow.until(b" 100 Continue\r\n")
            refused = await client.post("/-/explain", json=OLD)
            await slow.say(b"{}")
            await slow.rest()
        answered = await client.post("/-/explain", json=OLD)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert answered.status_code == 200


async def test_what_is_taken_slowly_counts_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each of them some megabytes wait in memory, until they are taken or the client is left."""
    taken = asyncio.Event()

    async def parts(*_: object) -> AsyncIterator[bytes]:
        yield b"{"
        await taken.wait()
        yield b"}"

    monkeypatch.setattr(playground, "AT_ONCE", 1)
    monkeypatch.setattr(playground, "_in_parts", parts)
    async with proxied(Upstream().play) as (client, _):
        async with client.stream("POST", "/-/explain", json=OLD) as slow:
            refused = await client.post("/-/playground", json=OLD)
            taken.set()
            assert await slow.aread() == b"{}"
        assert (await play(client))[-1]["ended"] == "complete"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_explain_says_what_would_go_upstream_and_why() -> None:
    upstream = Upstream()
    asked = {**OLD, "temperature": 1, "top_p": 0.5, "tags": {}}
    async with proxied(upstream.play, bridge=True) as (client, _):
        told = (await client.post("/-/explain", json=asked)).json()
    assert (told["path"], told["version"]) == ("/v1/messages", "2023-06-01")
    assert json.loads(told["body"])["messages"] == [{"role": "user", "content": "Hi"}]
    assert told["dropped"] == {"top_p": "the model takes it or temperature, not both"}
    assert "model: claude-haiku-4-5 answers for claude-v1" in told["notes"]
    assert not upstream.asked
