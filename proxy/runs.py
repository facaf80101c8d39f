"""Runs: deltas that differ from the one before in nothing but their text.

Nearly all events of a stream are such. What the changes made of the one before they would make of
the next, with the other text; so it is known by its bytes, and only its text is read. That is
right only where no change looks into the text, or one that does has let it pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from . import jsontext
from .change import LARGEST, Event, GrowingText
from .sse import BOM

LetsPass = Callable[[str], bool]

BLOCK = 64 << 10
"""Up to what size events are joined, in bytes. Snapshots that arrived in one chunk of 64 KiB can
be 25 MB: in one block they would all be in memory, each alone would cost a system call."""

AHEAD = 4 << 10
"""How far texts are looked for at once, in bytes: where one of them cannot be taken, all that stand
behind it are looked for again."""

JOINT = 64
"""How much is searched for at a time, in bytes: for more than 99 Python prepares anew at each place
that it finds, which takes longer than the search."""

_INSIDE = rb'[^"\\\x00-\x1f]*(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*)*'
"""The inside of a JSON string, or what comes close enough to be looked at."""

_PLAIN = re.compile(rb"[ !#-\[\]-~]+")
"""The inside of a JSON string that stands for itself, as nearly all do."""

_TEXT = re.compile(rb'"(?:completion|text)": ?"(' + _INSIDE + rb')"')
"""Where a delta has its text: of a completion, of a Message."""

_NAME = re.compile(rb'"(?:completion|text)"(?![,}])')
"""What may be the name of a text, however the colon behind it is set off."""


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
        further than AHEAD, nor at all once the text is larger than any may be.
        """
        if len(self._text.escaped) > LARGEST or not chunk.startswith(self._before, at):
            return []
        at += self._start
        ahead = chunk[at : at + self._ahead]
        between = self._after + self._before
        joint, rest = between[:JOINT], max(0, len(between) - JOINT)
        pieces = ahead.split(joint)
        if len(pieces) > 1 and len(pieces[-1]) < rest:  # it is cut off there
            *pieces, last, cut = pieces
            pieces.append(last + joint + cut)
        texts = [pieces[0], *[piece[rest:] for piece in pieces[1:]]]
        if rest and between.join(texts) != ahead:  # something else begins like it
            texts = ahead.split(between)
        last = texts.pop()
        end = last.find(self._after)
        return [*texts, last[:end]] if end >= 0 else texts

    def snapshot_of(self, chunk: bytes) -> bytes | None:
        """What the client gets for ``chunk`` if it is one delta of the run and nothing else.

        Slices are compared because that costs less than asking with what a chunk begins.
        """
        start, end = self._start, len(chunk) - self._after_size
        if end > self._latest or chunk[:start] != self._before or chunk[end:] != self._after:
            return None
        inside = self._inside(chunk[start:end])
        text = self._text.escaped
        if inside is None or len(text) > LARGEST:
            return None
        text += inside
        return b"".join((self._made_before, text, self._made_after))

    def snapshot(self) -> bytes:
        """What the client gets for the last delta; the text is copied once."""
        return b"".join((self._made_before, self._text.escaped, self._made_after))

    def insides(self, texts: Sequence[bytes]) -> Sequence[bytes]:
        """What ``texts`` let the text grow by, one by one, as far as they can be taken."""
        if self._lets_pass is None and b"" not in texts and jsontext.as_printed(texts):
            return texts
        found: list[bytes] = []
        for raw in texts:
            inside = self._inside(raw)
            if inside is None:
                break
            found.append(inside)
        return found

    def grow(self, insides: Iterable[bytes]) -> None:
        """Take deltas that nobody is to see."""
        self._text.escaped += b"".join(insides)

    def blocks(self, insides: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Take deltas; how many at a time, and what the client gets for them.

        Their snapshots are joined as far as BLOCK allows: so all that they repeat of the text is
        copied just once.
        """
        before, text, after = self._made_before, self._text.escaped, self._made_after
        at_once = BLOCK // (len(before) + len(text) + len(after))
        if at_once <= 1:
            for inside in insides:
                text += inside
                yield 1, b"".join((before, text, after))
            return
        for start in range(0, len(insides), at_once):
            some = insides[start : start + at_once]
            grown = b""
            pieces: list[bytes | bytearray] = []
            for inside in some:
                grown += inside
                pieces += (before, text, grown, after)
            block = b"".join(pieces)
            text += grown
            yield len(some), block

    def _inside(self, raw: bytes) -> bytes | None:
        """What a delta that has the text ``raw`` on the wire lets the text grow by, if it may."""
        if _PLAIN.fullmatch(raw):
            if self._lets_pass is None or self._lets_pass(raw.decode("ascii")):
                return raw
            return None
        text = _read(raw)
        if not text or not (self._lets_pass is None or self._lets_pass(text)):
            return None
        return jsontext.dumps(text)[1:-1]


def begun(frame: bytes, made: Event, lets_pass: LetsPass | None, limit: int) -> Run | None:
    """The run that may begin with an event, which stood on the wire as ``frame``.

    ``made`` is all that it became; ``lets_pass`` and ``limit`` are as above.
    """
    text = made.text
    if text is None or made.last:
        return None
    found = _TEXT.search(frame)
    if found is None or frame.startswith(BOM):  # only a stream begins with one
        return None
    read = _read(found[1])
    if read is None or jsontext.dumps(read)[1:-1] != text.last:
        return None
    before, after = frame[: found.start(1)], frame[found.end(1) :]
    others = before + after
    if b"\\" in others or len(_NAME.findall(others)) != 1:  # the last of the name counts
        return None
    return Run(before, after, made, text, lets_pass=lets_pass, limit=limit)


def _read(raw: bytes) -> str | None:
    """The inside of a JSON string, None where it is none."""
    try:
        text = jsontext.loads(b'"%b"' % raw)
    except jsontext.NotJSON:
        return None
    return text if isinstance(text, str) else None
