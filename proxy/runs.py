"""Runs: deltas that differ from the one before in nothing but their text.

Nearly all events of a stream are such. What the changes made of the one before they would make of
the next, with the other text; so it is known by its bytes, and only its text is read. That is
right only where no change looks into the text, or one that does has let it pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

from . import jsontext
from .change import Event, GrowingText

LetsPass = Callable[[str], bool]

AHEAD = 4 << 10
"""How far texts are looked for at once, in bytes: where one of them cannot be taken, all that stand
behind it are looked for again."""

_INSIDE = rb'[^"\\\x00-\x1f]*(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*)*'
"""The inside of a JSON string, or what comes close enough to be looked at."""

_PLAIN = re.compile(rb"[ !#-\[\]-~]+")
"""The inside of a JSON string that stands for itself, as nearly all do."""

_TEXT = re.compile(rb'"(?:completion|text)": ?"(' + _INSIDE + rb')"')
"""Where a delta has its text: of a completion, of a Message."""


class Run:
    """What deltas like one become: the text, which they make grow, between the same bytes.

    They are alike in what stands ``before`` and ``after`` their text on the wire. ``lets_pass`` is
    asked of every text. None takes more than ``limit`` on the wire, in bytes.
    """

    __slots__ = (
        "_after",
        "_after_size",
        "_ahead",
        "_before",
        "_latest",
        "_lets_pass",
        "_made_after",
        "_made_before",
        "_start",
        "_text",
        "size",
    )

    def __init__(
        self,
        before: bytes,
        after: bytes,
        made: Event,
        text: GrowingText,
        *,
        lets_pass: LetsPass | None,
        limit: int,
    ) -> None:
        self._before = before
        self._start = len(before)
        self._after = after
        self._after_size = len(after)
        self.size = len(before) + len(after)
        """What a delta takes on the wire beside its text, in bytes."""
        self._ahead = min(AHEAD, max(0, limit - self.size))
        self._latest = limit - len(after)
        """Where the text of a delta ends at the latest, in bytes from its beginning."""
        self._text = text
        self._made_before, self._made_after = made.around()
        self._lets_pass = lets_pass

    def texts(self, chunk: bytes, at: int) -> list[bytes]:
        """What stands from ``at`` on where deltas of the run have their texts, one by one.

        They are to be taken as long as that can be: not all of them may be texts. It is not looked
        further than AHEAD.
        """
        if not chunk.startswith(self._before, at):
            return []
        at += self._start
        *texts, last = chunk[at : at + self._ahead].split(self._after + self._before)
        end = last.find(self._after)
        return [*texts, last[:end]] if end >= 0 else texts

    def snapshot_of(self, chunk: bytes) -> bytes | None:
        """What the client gets for ``chunk`` if it is one delta of the run and nothing else.

        Slices are compared because that costs less than asking with what a chunk begins.
        """
        start, end = self._start, len(chunk) - self._after_size
        if end > self._latest or chunk[:start] != self._before or chunk[end:] != self._after:
            return None
        if not self.take(chunk[start:end]):
            return None
        return b"".join((self._made_before, self._text.escaped, self._made_after))

    def snapshot(self) -> bytes:
        """What the client gets for the last one; the text is copied once."""
        return b"".join((self._made_before, self._text.escaped, self._made_after))

    def snapshots(self, texts: Sequence[bytes]) -> Iterator[bytes]:
        """Take ``texts`` as long as that can be; what the client gets for each."""
        before, grown, after = self._made_before, self._text.escaped, self._made_after
        if self._lets_pass is None and b"" not in texts and jsontext.as_printed(texts):
            for raw in texts:
                grown += raw
                yield b"".join((before, grown, after))
            return
        for raw in texts:
            if not self.take(raw):
                return
            yield b"".join((before, grown, after))

    def nothing(self, texts: Sequence[bytes]) -> Iterator[bytes]:
        """Take ``texts`` as long as that can be, and make nothing of them."""
        return (b"" for _ in takewhile(self.take, texts))

    def take(self, raw: bytes) -> bool:
        """Take the delta that has the text ``raw`` on the wire, if it can be one of the run."""
        if _PLAIN.fullmatch(raw):
            if self._lets_pass is not None and not self._lets_pass(raw.decode("ascii")):
                return False
            self._text.escaped += raw
            return True
        text = _read(raw)
        if not text or not (self._lets_pass is None or self._lets_pass(text)):
            return False
        self._text.append(text)
        return True


def begun(frame: bytes, made: Event, lets_pass: LetsPass | None, limit: int) -> Run | None:
    """The run that may begin with an event, which stood on the wire as ``frame``.

    ``made`` is all that it became; ``lets_pass`` and ``limit`` are as above.
    """
    text = made.text
    if text is None or made.last:
        return None
    texts = [*_TEXT.finditer(frame)]
    if len(texts) != 1:
        return None
    read = _read(texts[0][1])
    if read is None or jsontext.dumps(read)[1:-1] != text.last:
        return None
    start, end = texts[0].span(1)
    return Run(frame[:start], frame[end:], made, text, lets_pass=lets_pass, limit=limit)


def _read(raw: bytes) -> str | None:
    """The inside of a JSON string, None where it is none."""
    try:
        text = jsontext.loads(b'"%b"' % raw)
    except jsontext.NotJSON:
        return None
    return text if isinstance(text, str) else None
