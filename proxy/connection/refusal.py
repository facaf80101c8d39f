"""Requests that no application sees: the error that a client is told, and what is noted of it."""

from __future__ import annotations

from ..core.errors import ProxyError
from ..core.fields import VIA
from ..observe.record import UNKNOWN, Record
from .response import date, status_line


def last_response(error: ProxyError, *, bodiless: bool) -> bytes:
    """The last response of a connection, to a request that is refused with ``error``.

    ``bodiless`` says that it answers a HEAD.
    """
    body = error.body()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        date(),
        VIA,
        *error.headers,
        (b"connection", b"close"),
    ]
    lines = [b"%b: %b\r\n" % field for field in fields]
    return b"".join((status_line(error.status), *lines, b"\r\n", b"" if bodiless else body))


def record(error: ProxyError) -> Record:
    """The record of a request that never became an exchange, without a byte of it."""
    refused = Record(UNKNOWN, UNKNOWN, status=error.status, ended="refused")
    refused.error, refused.error_class = f"{error.type}: {error.message}", type(error).__name__
    return refused
