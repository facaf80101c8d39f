"""Traces pass through the proxy, which adds its own spans if it is configured to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from faults.kinds import BRIDGED
from proxy.app import App
from proxy.connection import terms
from proxy.observe.spans import Spans
from proxy.server.server import running
from support import PATIENCE, Play, Side, connect, raw_upstream, settings, until
from support.processes import ROOT, served, write_config

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = b"traceparent: 00-%b-b7ad6b7169203331-01\r\n" % TRACE.encode()
VERSION = b"anthropic-version: 2023-06-01\r\n"
STATE = b"tracestate: vendor=what\r\n"


def request(*fields: bytes, prompt: str = "\n\nHuman: SECRET\n\nAssistant:") -> bytes:
    body = {"model": "claude-v1", "prompt": prompt, "max_tokens_to_sample": 9, "stream": True}
    sent = json.dumps({**body, "top_p": 1, "temperature": 1, "SECRET": 1}).encode()
    head = b"POST /v1/complete?key=SECRET HTTP/1.1\r\nhost: p\r\nx-api-key: SECRET\r\n"
    return head + b"".join(fields) + b"content-length: %d\r\n\r\n%b" % (len(sent), sent)


class Upstream:
    """Answers each request as it is told to, and keeps the head of the last."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.head = b""

    async def play(self, side: Side) -> None:
        while True:
            self.head, _ = await side.request()
            await side.say(self.answer)


class Traced:
    """A proxy whose spans are kept, those of an exchange in the order of their ends."""

    def __init__(self, url: str, kept: InMemorySpanExporter) -> None:
        self.url = url
        self.kept = kept

    async def ask(self, asked: bytes, until: bytes) -> None:
        async with await connect(self.url) as client:
            await client.say(asked)
            await client.until(until)


@asynccontextmanager
async def traced(play: Play) -> AsyncIterator[Traced]:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, bridge=True), spans=Spans(provider))
        async with running(app) as url:
            yield Traced(url, kept)


def attrs(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_what_is_refused_behind_exchanges_is_told_in_none_of_their_spans(
    caplog: pytest.LogCaptureFixture,
) -> None:
    amount = 3 * terms.PIPELINED
    asked = request(b"host: other\r\n", b"x-pad: %b\r\n" % (b"x" * terms.PIECE))
    async with traced(Upstream(b"").play) as proxy:
        await proxy.ask(asked * amount + b"what?\r\n\r\n", b"is not a request of HTTP/1.1")
    assert len(proxy.kept.get_finished_spans()) == amount
    assert not caplog.records


async def test_a_trace_passes_through_untouched() -> None:
    upstream = Upstream(b"HTTP/1.1 529 x\r\ncontent-length: 0\r\n\r\n")
    async with (
        raw_upstream(upstream.play) as url,
        running(App(settings(url))) as proxy,
        await connect(proxy) as client,
    ):
        await client.say(request(PARENT, STATE))
        await client.until(b"}}")
    assert PARENT in upstream.head
    assert STATE in upstream.head


async def test_an_exchange_and_its_call_take_their_places_in_the_trace_of_the_client() -> None:
    upstream = Upstream(b"".join(BRIDGED.parts))
    async with traced(upstream.play) as proxy:
        await proxy.ask(request(PARENT, STATE), b"[DONE]")
    call, exchange = proxy.kept.get_finished_spans()
    assert (exchange.name, exchange.kind) == ("POST complete", SpanKind.SERVER)
    assert exchange.parent is not None
    assert f"{exchange.parent.span_id:x}" == "b7ad6b7169203331"
    own = "anthropic_version_proxy"
    assert attrs(exchange) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/complete",
        "url.scheme": "http",
        "gen_ai.request.model": "claude-v1",
        "gen_ai.response.model": "claude-haiku-4-5",
        f"{own}.route": "complete",
        f"{own}.upstream": "api",
        f"{own}.client_version": "2023-01-01",
        f"{own}.upstream_version": "2023-06-01",
        f"{own}.ended": "complete",
        f"{own}.dropped": ("other", "top_p"),
    }
    assert (call.name, call.kind) == ("chat claude-haiku-4-5", SpanKind.CLIENT)
    assert call.parent is not None
    assert call.parent.span_id == exchange.context.span_id
    address = {"server.address": "127.0.0.1", "server.port": attrs(call)["server.port"]}
    assert attrs(call) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-haiku-4-5",
        "gen_ai.request.stream": True,
        **address,
    }
    assert f"traceparent: 00-{TRACE}-{call.context.span_id:016x}-01".encode() in upstream.head
    assert STATE in upstream.head
    assert upstream.head.count(b"traceparent") == 1
    assert not any("SECRET" in span.to_json() for span in (call, exchange))
    assert {span.status.status_code for span in (call, exchange)} == {StatusCode.UNSET}


async def test_what_fails_is_told_by_its_kind_alone() -> None:
    said = b'{"error":{"type":"SECRET","message":"SECRET"}}'
    upstream = Upstream(b"HTTP/1.1 500 x\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
    async with traced(upstream.play) as proxy:
        await proxy.ask(request(PARENT, PARENT), b"}}")
        upstream.answer = b"garbage\r\n\r\n"
        await proxy.ask(request(), b"}}")
        await proxy.ask(request(b"anthropic-version: SECRET\r\n"), b"}}")
    *spans, refused = proxy.kept.get_finished_spans()
    kinds = [(span.kind.name, attrs(span)["error.type"]) for span in spans]
    assert kinds == [
        ("CLIENT", "500"),
        ("SERVER", "UpstreamRefused"),
        ("CLIENT", "UpstreamNonsense"),
        ("SERVER", "UpstreamNonsense"),
    ]
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert (refused.kind, attrs(refused)["http.response.status_code"]) == (
        SpanKind.SERVER,
        400,
    )
    assert refused.status.status_code is StatusCode.UNSET  # the client's fault, not the server's
    assert not any("SECRET" in span.to_json() for span in (*spans, refused))
    assert f"{spans[0].context.trace_id:032x}" != TRACE  # it was told twice, which is not at all


async def test_a_span_shows_no_key_that_stands_in_a_path() -> None:
    async with traced(Upstream(b"").play) as proxy:
        await proxy.ask(b"GET /-x/sk-ant-canary HTTP/1.1\r\nhost: a b\r\n\r\n", b"}}")
        await until(lambda: bool(proxy.kept.get_finished_spans()))
    (exchange,) = proxy.kept.get_finished_spans()
    assert attrs(exchange)["url.path"] == "/-x/[key]"


async def test_a_span_shows_no_key_that_stands_for_a_model() -> None:
    gone = Upstream(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    asked = request(VERSION).replace(b"claude-v1", b"sk-canary")
    async with traced(gone.play) as proxy:
        await proxy.ask(asked, b"\r\n\r\n")
        await until(lambda: len(proxy.kept.get_finished_spans()) == 2)
    spans = proxy.kept.get_finished_spans()
    assert "canary" not in "".join(span.to_json() for span in spans)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_environment_says_where_spans_go(tmp_path: Path, workers: str) -> None:
    file = tmp_path / "proxy.yaml"
    upstream = Upstream(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    async with raw_upstream(upstream.play) as url:
        write_config(file, url)
        command = ("serve", "--config", str(file), "--workers", workers)
        async with served(*command, OTEL_TRACES_EXPORTER="console") as proxy:
            async with await connect(proxy.url) as client:
                await client.say(request(PARENT, b"tracestate: SECRET\r\n", VERSION))
                await client.until(b"\r\n\r\nok")
            assert await proxy.stopped() == 0
    assert re.findall(r'"name": "(.*)"', proxy.printed) == [
        "text_completion",
        "POST /{rest:path}",
    ]
    assert proxy.printed.count(f'"trace_id": "0x{TRACE}"') == 2
    assert "SECRET" not in "".join(proxy.said)  # the library quotes a state that it cannot read


STUCK = """
import threading
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from proxy.observe import spans, tracing

ConsoleSpanExporter.shutdown = lambda _: threading.Event().wait()
spans.FLUSH = 0.1
tracing.configured({"OTEL_TRACES_EXPORTER": "console"}).close()
"""


def test_no_end_waits_for_a_collector_that_never_answers() -> None:
    subprocess.run((sys.executable, "-c", STUCK), cwd=ROOT, check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            b"spans cannot be sent by otlp_proto_grpc",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "0"},
            b"max_queue_size must be a positive integer",
        ),
    ],
    ids=["an exporter that is not installed", "a setting that cannot be"],
)
def test_what_cannot_be_traced_is_told_at_the_start(environ: dict[str, str], told: bytes) -> None:
    command = (sys.executable, "-m", "proxy", "serve", "--port", "0", "--workers", "2")
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, check=False, timeout=PATIENCE
    )
    assert ended.returncode == 1
    assert told in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_without_these_variables_nothing_of_it_is_imported() -> None:
    asked = "import sys, proxy.cli.cli; from proxy.observe import tracing"
    asked += "; tracing.configured({}); print(*sys.modules)"
    ended = subprocess.run(
        (sys.executable, "-c", asked), cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert "proxy.observe.tracing" in ended.stdout.split()
    assert "opentelemetry" not in ended.stdout
    assert "proxy.observe.spans" not in ended.stdout
