"""What arrives of a request beside its body, measured: nothing else would bound it.

That is its head, then the sizes and extensions of chunks, then the trailer. An application takes
none of it piece by piece, so that back-pressure does not reach whoever sends it without end.
"""

from __future__ import annotations

from typing import Literal


class Framing:
    """Measures the request that is being read, one segment of what has arrived after another.

    Of a segment that also holds a part of a body, or the end of a request, nothing is counted: what
    goes on sending only framing has segments that hold nothing else.
    """

    __slots__ = ("_mixed", "_segment", "_size", "head", "part")

    def __init__(self) -> None:
        self.part: Literal["head", "body"] | None = None
        """What is being read; None between two requests."""
        self.head: bytes | bytearray = b""
        """The beginning of a head that is incomplete, up to the segment that is being parsed."""
        self._size = 0
        """How much has arrived of the head, or since the last part of the body, in bytes."""
        self._segment = b""
        """What is being parsed at the moment."""
        self._mixed = False
        """Whether it holds more than framing."""

    @property
    def at_most(self) -> int:
        """No less than what the head takes that is complete now, in bytes."""
        return self._size + len(self._segment)

    def has(self, text: bytes) -> bool:
        """Whether ``text`` stands in the head that is complete now, or in what came with it."""
        return text in self._segment or text in self.head + self._segment

    def begin_segment(self, segment: bytes) -> None:
        """Be told what is parsed next."""
        self._segment = segment
        self._mixed = False

    def end_segment(self) -> int:
        """Be told that it is parsed; returns how much framing has arrived of late, in bytes.

        The beginning of a head is kept.
        """
        segment, self._segment = self._segment, b""
        if self.part == "head":
            self.head = self.head or bytearray()
            self.head += segment
        if self.part is None or self._mixed:
            return 0
        self._size += len(segment)
        return self._size

    def begin_head(self) -> None:
        """Count from here on."""
        self.part = "head"
        self._size = 0

    def end_head(self) -> None:
        """Forget the head, and count from here on."""
        self.part = "body"
        self.head = b""
        self._size = 0

    def pass_body(self) -> None:
        """Count anew behind the part of a body that the segment holds."""
        self._size = 0
        self._mixed = True

    def end_request(self) -> None:
        """Count no more until the next."""
        self.part = None
        self._mixed = True

    def reopen_request(self) -> None:
        """Take the last request for incomplete, if none is being read: it is to be refused."""
        self.part = self.part or "body"
