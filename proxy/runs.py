"""Runs: deltas that differ from the one before in nothing but a plain text.

Nearly all events of a stream are such. What the changes made of the one before they would make of
the next, with the other text; so it is known by its bytes, and nothing is parsed or printed anew.
That is right only where no change looks into the text, or one that does has let it pass.
"""

from __future__ import annotations

import re

from .change import Event, GrowingText

LONGEST = 4096
"""The longest text of a delta that is taken for one of a run, in bytes."""

_PLAIN = rb"[ !#-\[\]-~]"
"""What stands in a JSON string as it is, in one byte."""

_PLAIN_TEXT = re.compile(_PLAIN + rb"+")
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_KEY = rb'("(?:completion|text)": ?")'
"""Where a delta has its text: of a completion, of a Message."""


def end_of_event(chunk: bytes, start: int) -> int:
    """Where the event ends that is under way at ``start``, or the chunk."""
    end = _END.search(chunk, start)
    return end.end() if end else len(chunk)


class Run:
    """What deltas like one become: ``text``, which they make grow, between the same bytes."""

    __slots__ = ("_around", "_escaped", "_text", "match")

    def __init__(self, like: re.Pattern[bytes], text: GrowingText, snapshot: Event) -> None:
        self.match = like.match
        """Finds a delta of the run at a position; the first group is its text."""
        self._text = text
        self._escaped = text.escaped
        self._around = snapshot.around()

    def grow(self, text: bytes) -> None:
        """Take the text of one more delta."""
        self._escaped += text

    def snapshot(self) -> bytes:
        """What the client gets for it; the text is copied once."""
        before, after = self._around
        return b"".join((before, self._escaped, after))


def begun(frame: bytes, made: Event) -> Run | None:
    """The run that may begin with an event, which stood on the wire as ``frame``.

    ``made`` is all that it became.
    """
    text = made.text
    if (
        text is None
        or made.last
        or len(text.last) > LONGEST
        or not _PLAIN_TEXT.fullmatch(text.last)
    ):
        return None
    stands = [*re.finditer(_KEY + re.escape(text.last) + rb'"', frame)]
    if len(stands) != 1:
        return None
    before, after = frame[: stands[0].end(1)], frame[stands[0].end() - 1 :]
    like = re.escape(before) + b"(%b{1,%d})" % (_PLAIN, LONGEST) + re.escape(after)
    return Run(re.compile(like), text, made)
