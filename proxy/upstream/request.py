"""A request as it goes out, framed so that its end is known.

Nothing is left out or put in beside the framing.
https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from ..core.fields import Fields

PART = 64 << 10
"""How much of a request is written at a time, in bytes. TLS encrypts all that it is given into a
buffer that grows by half as much again, and keeps that size as long as the connection is open."""


class Request(NamedTuple):
    """A request as it stands on the wire."""

    whole: bytes
    """All of it, or its head alone if the body comes in parts."""
    parts: AsyncIterator[bytes] | None
    """What follows the head as it comes, which cannot be sent again; else None."""
    bodiless: bool
    """Whether the response to it has no body, whatever its head announces."""

    def in_parts(self) -> tuple[bytes, AsyncIterator[bytes] | None]:
        """What to send first, and what follows it, if anything does."""
        if self.parts is None and len(self.whole) > PART:
            return self.whole[:PART], _rest(self.whole)
        return self.whole, self.parts


def framed(
    method: str, target: str, fields: Fields, body: bytes | AsyncIterator[bytes] | None
) -> Request:
    """The request to send, with what its ``fields`` do not say of where ``body`` ends."""
    framing = _framing(fields, body)
    head = _head(method, target, [*fields, *framing])
    whole, parts = (body, None) if isinstance(body, bytes) else (b"", body)
    if parts is not None and framing:
        parts = _chunked(parts)
    return Request(head + whole, parts, method == "HEAD")


def _framing(fields: Fields, body: bytes | AsyncIterator[bytes] | None) -> Fields:
    """What has yet to be said of where ``body`` ends (RFC 9112 §6)."""
    if body is None or b"content-length" in dict(fields):
        return []
    if isinstance(body, bytes):
        return [(b"content-length", str(len(body)).encode())]
    return [(b"transfer-encoding", b"chunked")]


def _head(method: str, target: str, fields: Fields) -> bytes:
    """The head of a request (RFC 9112 §3)."""
    first = f"{method} {target} HTTP/1.1".encode("ascii")
    return b"\r\n".join((first, *map(b": ".join, fields), b"", b""))


async def _rest(request: bytes) -> AsyncIterator[bytes]:
    """All of ``request`` but its first PART bytes, as many at a time."""
    for start in range(PART, len(request), PART):
        yield request[start : start + PART]


async def _chunked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Each part of ``body`` as a chunk, and the last chunk (RFC 9112 §7.1)."""
    async for part in body:
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"
