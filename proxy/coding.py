"""Content codings of answers that are translated: asked for plain, but not every edge listens.

Each part that arrives is unpacked at once and in bounded pieces, so that neither an event waits for
the next nor a small body becomes a large one in memory.
https://www.rfc-editor.org/rfc/rfc9110#section-8.4
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from .errors import UpstreamNonsense

PIECE = 256 << 10
"""The most that is unpacked at a time, in bytes."""

Decode = Callable[[bytes], Iterator[bytes]]

_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Codings that zlib reads, and how it is told of them."""


def decoding(coding: bytes) -> Decode | None:
    """What turns parts of a body of ``content-encoding: coding`` into plain ones; None if they are.

    Raises UpstreamNonsense for a coding that was neither asked for nor is known, and so does the
    result for bytes that are not in it.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return None
    if coding not in _WINDOW:
        raise UpstreamNonsense(
            f"upstream sent content-encoding {coding[:40]!r} though asked not to"
        )
    window = _WINDOW[coding]
    inflater = zlib.decompressobj(window)

    def inflate(part: bytes) -> Iterator[bytes]:
        nonlocal inflater
        try:
            while part:
                if inflater.eof:  # another member, or nonsense (RFC 1952 §2.2)
                    inflater = zlib.decompressobj(window)
                if piece := inflater.decompress(part, PIECE):
                    yield piece
                part = inflater.unused_data or inflater.unconsumed_tail
        except zlib.error as error:
            raise UpstreamNonsense("upstream's answer is not in its content-encoding") from error

    return inflate
