"""Whether exchanges are traced: with the extra ``otel``, where the environment says whereto.

The variables are OpenTelemetry's own, and so is what they mean:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
Without them nothing is imported and nothing is spent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

QUOTING = ("opentelemetry.trace.span", "opentelemetry.util.re")
"""Loggers that quote what they cannot read: a client's field, or one with a collector's key."""


def configured(environ: Mapping[str, str]) -> Spans | None:
    """What makes the spans, as ``environ`` says; None if it wants none.

    Raises OSError if what it says cannot be done.
    """
    found = _exporters(environ)
    if not found:
        return None
    try:
        return _spans(found)
    except Exception as error:  # each of its parts has a kind of its own
        raise OSError(f"spans cannot be sent as the variables OTEL_... ask: {error!r}") from error


def check(environ: Mapping[str, str]) -> None:
    """Raise what configured does."""
    if (spans := configured(environ)) is not None:
        spans.close()


def _spans(found: list[EntryPoint]) -> Spans:
    for name in QUOTING:
        logging.getLogger(name).addFilter(_without_values)
    # Here, because the extra need not be there, and costs a tenth of a second.
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    from .spans import Spans  # noqa: PLC0415

    provider = TracerProvider(shutdown_on_exit=False)  # Spans.close does that, within bounds
    for exporter in found:
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    return Spans(provider)


def _without_values(record: logging.LogRecord) -> bool:
    record.args = ()
    return True


def _exporters(environ: Mapping[str, str]) -> list[EntryPoint]:
    """What spans are sent by, as ``environ`` says; raises OSError if that is not installed."""
    asked = _asked(environ)
    if not asked:
        return []
    installed = {found.name: found for found in entry_points(group="opentelemetry_traces_exporter")}
    if missing := [name for name in asked if name not in installed]:
        raise OSError(
            f"spans cannot be sent by {', '.join(missing)}, as OTEL_TRACES_EXPORTER or an endpoint "
            "asks: it is not installed. The extra otel has otlp (http/protobuf) and console"
        )
    return [installed[name] for name in asked]


def _asked(environ: Mapping[str, str]) -> list[str]:
    """The exporters that are asked for, as they are registered; an endpoint alone asks for OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    has_endpoint = any(environ.get(name) for name in ENDPOINTS)
    asked = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [name.strip() for name in asked.split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]
