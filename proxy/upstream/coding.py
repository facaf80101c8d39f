"""Content codings of answers that are translated: some servers encode what was asked for plain.

Each part that arrives is unpacked at once and in bounded pieces, so that neither an event waits for
the next nor a small body becomes a large one in memory.
https://www.rfc-editor.org/rfc/rfc9110#section-8.4
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ..core.errors import UpstreamBrokeOff, UpstreamNonsense
from ..core.redaction import beginning

PIECE = 32 << 10
"""The most that is unpacked at a time, in bytes: what is little work, even in small events."""

SLICE = 4 << 10
"""How much is unpacked from at a time, in bytes. Members that hold nothing may be as small as eight
bytes, and what follows one is copied."""

_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""The codings that zlib decodes, each with the ``wbits`` that select it."""


class Decoding:
    """Decodes one body; it is called with each part as that arrives."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflater = zlib.decompressobj(window)

    def __call__(self, part: bytes) -> Iterator[bytes]:
        """The pieces of ``part``, decoded; raises UpstreamNonsense if it is not in that coding.

        A piece may be empty: callers let others have a turn after each, even where much that was
        read decodes to nothing.
        """
        try:
            for at in range(0, len(part), SLICE):
                yield from self._unpacked(part[at : at + SLICE])
        except zlib.error as error:
            raise UpstreamNonsense("upstream's answer is not in its content-encoding") from error

    def _unpacked(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self._inflater.eof:  # another member, or nonsense (RFC 1952 §2.2)
                self._inflater = zlib.decompressobj(self._window)
            piece = self._inflater.decompress(packed, PIECE)
            packed = self._inflater.unused_data or self._inflater.unconsumed_tail
            if piece or not packed:
                yield piece

    def end(self) -> None:
        """There is no further part; raises UpstreamBrokeOff where one is missing.

        A coding has a checksum at its end, without which the body was cut (RFC 1952 §2.3.1).
        """
        if not self._inflater.eof:
            raise UpstreamBrokeOff("upstream's answer ends before its content-encoding does")


def decoding(coding: bytes) -> Decoding | None:
    """What decodes a body of ``content-encoding: coding``; None if it is plain.

    Raises UpstreamNonsense for a coding that was neither asked for nor is known.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return None
    if coding not in _WINDOW:
        shown = beginning(coding.decode("latin-1"), 40)
        raise UpstreamNonsense(f"upstream sent content-encoding {shown!r} though asked not to")
    return Decoding(_WINDOW[coding])
