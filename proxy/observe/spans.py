"""Spans: one of each exchange, and below it one of the call that it makes upstream.

A client's trace goes on through both, and the upstream gets the call's own place in it, as W3C
Trace Context has it (https://www.w3.org/TR/trace-context/). Attributes are named by the semantic
conventions of OpenTelemetry, for HTTP and for GenAI, as far as a record knows them: no prompt, no
answer, no key, no query and no words of an error.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import config
from ..core.fields import Fields, values, without
from ..core.redaction import beginning
from ..upstream.answer import Answer
from ..upstream.upstream import Upstream
from ..versions import droppable
from .record import LONGEST_VALUE, UNKNOWN, Record

FLUSH = 2.0
"""Seconds that spans may still take to leave when the process ends; others are lost."""

OWN = "anthropic_version_proxy"
"""What the names of attributes begin with for which there is no convention."""

OPERATIONS = {"/v1/messages": "chat", "/v1/complete": "text_completion"}
"""How GenAI calls what an endpoint does, by the end of its path."""


@dataclass(slots=True)
class _Pair:
    """The spans of one exchange; ``call`` is None until the upstream is called.

    ``operation`` is what GenAI calls it, None for what it has no word for.
    """

    exchange: Span
    call: Span | None = None
    operation: str | None = None


_current: ContextVar[_Pair | None] = ContextVar("spans", default=None)
_trace_context = TraceContextTextMapPropagator()


class Spans:
    """Makes the spans of an application: it stands around its relay and its upstreams."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(OWN)

    def around(self, relay: ASGIApp) -> ASGIApp:
        """``relay``, each of whose exchanges has a span."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            method: str = scope["method"]
            pair = _Pair(
                self._tracer.start_span(
                    method,
                    _context_of(scope["headers"]),
                    SpanKind.SERVER,
                    {
                        "http.request.method": method,
                        "url.scheme": scope["scheme"],
                        "url.path": beginning(scope["raw_path"].decode("latin-1"), LONGEST_VALUE),
                    },
                )
            )
            token = _current.set(pair)
            try:
                await relay(scope, receive, send)
            finally:
                _current.reset(token)
                pair.exchange.end()

        return traced

    def connect(self, settings: config.Upstream) -> Upstream:
        """An upstream, each of whose calls within an exchange has a span."""
        return _Traced(settings, self._tracer)

    def finish(self, record: Record) -> None:
        """Describe an exchange that is over in its spans: an Observer."""
        pair = _current.get()
        if pair is None or not pair.exchange.is_recording():
            return  # refused before there was an exchange; a pair is of one that is over
        _describe_exchange(pair.exchange, record)
        if pair.call is not None:
            _describe_call(pair.call, pair.operation, record)
            pair.call.end()

    def close(self) -> None:
        """Send what is left, and wait for it at most FLUSH seconds."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH)


class _Traced(Upstream):
    def __init__(self, settings: config.Upstream, tracer: Tracer) -> None:
        super().__init__(settings)
        base = urlsplit(settings.base_url)
        self._tracer = tracer
        self._server: dict[str, str | int] = {
            "server.address": base.hostname or "",
            "server.port": base.port or {"http": 80, "https": 443}[base.scheme],
        }

    async def call(
        self, method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
    ) -> Answer:
        """As any upstream, as the next place in the trace of the exchange that makes the call."""
        pair = _current.get()
        if pair is None:  # the proxy calls for itself
            return await super().call(method, target, fields, body)
        if method == "POST":
            path, _, _ = target.partition("?")
            pair.operation = OPERATIONS.get("/v1/" + path.rpartition("/v1/")[2])
        pair.call = self._tracer.start_span(
            pair.operation or method,
            set_span_in_context(pair.exchange),
            SpanKind.CLIENT,
            {"http.request.method": method, **self._server, **_gen_ai(pair.operation)},
        )
        answer = await super().call(method, target, _at(pair.call, fields), body)
        pair.call.set_attribute("http.response.status_code", answer.status)
        if answer.status >= 400:
            _fail(pair.call, str(answer.status))
        return answer


def _context_of(fields: Fields) -> Context:
    """Where a request stands in a trace; one that says so twice says nothing (§3.2)."""
    parent = values(fields, b"traceparent")
    if len(parent) != 1:
        return Context()
    states = b",".join(values(fields, b"tracestate"))
    carrier = {"traceparent": parent[0].decode("latin-1"), "tracestate": states.decode("latin-1")}
    return _trace_context.extract(carrier, Context())


def _at(span: Span, fields: Fields) -> Fields:
    """Fields of a request that stands at ``span``."""
    carrier: dict[str, str] = {}
    _trace_context.inject(carrier, set_span_in_context(span, Context()))
    said = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in carrier.items()]
    return [*without(fields, b"traceparent", b"tracestate"), *said]


def _gen_ai(operation: str | None) -> dict[str, str]:
    if operation is None:
        return {}
    return {"gen_ai.operation.name": operation, "gen_ai.provider.name": "anthropic"}


def _describe_exchange(span: Span, record: Record) -> None:
    span.update_name(f"{record.method} {record.route}")
    for name in ("route", "client", "client_version", "upstream", "upstream_version", "ended"):
        _say(span, f"{OWN}.{name}", getattr(record, name))
    _say(span, "gen_ai.request.model", _model(record.model))
    _say(span, "gen_ai.response.model", record.answered_by)
    if record.dropped:
        known = droppable()
        names = {name if name in known else "other" for name in record.dropped}
        span.set_attribute(f"{OWN}.dropped", sorted(names))
    if record.status:
        span.set_attribute("http.response.status_code", record.status)
    if record.failed or record.status >= 500:
        _fail(span, record.ended if record.error_class == UNKNOWN else record.error_class)


def _describe_call(span: Span, operation: str | None, record: Record) -> None:
    model = _model(record.model) if record.answered_by == UNKNOWN else record.answered_by
    if operation is not None and model != UNKNOWN:
        span.update_name(f"{operation} {model}")
        span.set_attribute("gen_ai.request.model", model)
        span.set_attribute("gen_ai.request.stream", record.streams)
    if record.ended == "upstream failed":
        _fail(span, record.error_class)


def _say(span: Span, name: str, value: str) -> None:
    if value != UNKNOWN:
        span.set_attribute(name, value)


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


_NAME_OF_A_MODEL = re.compile(r"(?!sk-)[\w.:@/-]{1,100}", re.ASCII)


def _model(name: str) -> str:
    """What a request calls its model, unless it is anything else that has gone astray."""
    return name if _NAME_OF_A_MODEL.fullmatch(name) else UNKNOWN
