"""Runs: deltas of a stream, one after another, that differ in nothing but their text.

Nearly all events of a stream are such deltas. So only the first of a run goes through the version
changes; those after it are translated by their bytes alone. In this example, without line ends
and most fields, the upstream sends increments, and the client gets snapshots, each of which repeats
the text so far.

    upstream:  event: completion  data: {"completion":" Hel","stop_reason":null}
    client:    data: {"completion":" Hel","stop":null,"stop_reason":null}

That was made by the version changes. Both events are cut in two where their text stands:

               before the text                            after the text
    delta      event: completion  data: {"completion":"   ","stop_reason":null}
    snapshot   data: {"completion":"                      ","stop":null,"stop_reason":null}

If the next bytes are ``before``, some text, ``after`` of the delta, the client gets ``before`` of
the snapshot, the text so far with this one appended, ``after`` of the snapshot:

    upstream:  event: completion  data: {"completion":"lo","stop_reason":null}
    client:    data: {"completion":" Hello","stop":null,"stop_reason":null}

This is right only where no version change depends on the text. The bridge does, as it looks for
stop sequences; it is asked about each text whether that passes unchanged. Whatever does not fit
goes through the version changes, event by event, as if there were no runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..core import jsontext
from ..core.change import LARGEST_ANSWER, Event, GrowingText
from ..core.sse import BOM

PassesUnchanged = Callable[[str], bool]

LOOKAHEAD = 4 << 10
"""How far deltas are looked for at a time, in bytes. Where one of them cannot be accepted, those
after it are looked for again."""

LONGEST_NEEDLE = 64
"""The longest separator that is searched for, in bytes. From 100 bytes on CPython prepares a table
for each search, again after each separator that it finds, which takes longer than the search."""

_INSIDE = rb'[^"\\\x00-\x1f]*(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*)*'
"""The inside of a JSON string, or nearly: what follows a backslash is left to the parser."""

_PLAIN = re.compile(rb"[ !#-\[\]-~]+")
"""The inside of a JSON string in ASCII without escapes, as most texts are."""

_TEXT = re.compile(rb'"(?:completion|text)": ?"(' + _INSIDE + rb')"')
"""The text of a delta, with its key: of a completion or of a Message."""

_KEY = re.compile(rb'"(?:completion|text)"(?![,}])')
"""What may be the key of a text, whatever white space is around the colon."""


class Run:
    """A run of deltas, and the snapshots that they become.

    On the wire each delta is ``before``, its text, ``after``, in ``limit`` bytes at most; together
    they become what the first one became, ``snapshot``, with their texts appended to its ``text``.
    ``passes_unchanged`` is asked about each text, unless it is None.
    """

    __slots__ = (
        "_after",
        "_after_size",
        "_before",
        "_lookahead",
        "_passes_unchanged",
        "_snapshot_after",
        "_snapshot_before",
        "_text",
        "_text_ends_by",
        "_text_starts",
        "size",
    )

    def __init__(
        self,
        before: bytes,
        after: bytes,
        snapshot: Event,
        text: GrowingText,
        *,
        passes_unchanged: PassesUnchanged | None,
        limit: int,
    ) -> None:
        self._before = before
        self._after = after
        self._after_size = len(after)
        self.size = len(before) + len(after)
        """What a delta takes on the wire beside its text, in bytes."""
        self._lookahead = min(LOOKAHEAD, max(0, limit - self.size))
        self._text_starts = len(before)
        self._text_ends_by = limit - len(after)
        """Where the text of a delta within the limit ends at the latest."""
        self._text = text
        self._snapshot_before, self._snapshot_after = snapshot.around_text()
        self._passes_unchanged = passes_unchanged

    def take(self, chunk: bytes) -> bytes | None:
        """The snapshot for ``chunk`` if that is exactly one delta of the run; else None.

        This is how nearly all chunks arrive. Comparing slices costs less than startswith().
        """
        start, end = self._text_starts, len(chunk) - self._after_size
        if end > self._text_ends_by or chunk[:start] != self._before or chunk[end:] != self._after:
            return None
        escaped = self._accepted(chunk[start:end])
        text = self._text.escaped
        if escaped is None or len(text) > LARGEST_ANSWER:
            return None
        text += escaped
        return b"".join((self._snapshot_before, text, self._snapshot_after))

    def texts_at(self, chunk: bytes, at: int) -> list[bytes]:
        """The texts of the deltas that stand in ``chunk`` from ``at`` on, as they are on the wire.

        At most those within LOOKAHEAD, and none once the text so far is larger than LARGEST_ANSWER.
        What only looks like deltas may be among them; accepted() sorts it out.
        """
        if len(self._text.escaped) > LARGEST_ANSWER or not chunk.startswith(self._before, at):
            return []
        at += self._text_starts
        texts = self._split(chunk[at : at + self._lookahead])
        last = texts.pop()
        end = last.find(self._after)
        return [*texts, last[:end]] if end >= 0 else texts

    def _split(self, ahead: bytes) -> list[bytes]:
        """``ahead`` split at what stands between two texts, by a search for the first of it."""
        separator = self._after + self._before
        needle, rest = separator[:LONGEST_NEEDLE], max(0, len(separator) - LONGEST_NEEDLE)
        pieces = ahead.split(needle)
        if len(pieces) > 1 and len(pieces[-1]) < rest:  # the last separator is cut off
            *pieces, last, cut = pieces
            pieces.append(last + needle + cut)
        texts = [pieces[0], *[piece[rest:] for piece in pieces[1:]]]
        if rest and separator.join(texts) != ahead:  # the needle stands elsewhere, too
            return ahead.split(separator)
        return texts

    def accepted(self, texts: Sequence[bytes]) -> Sequence[bytes]:
        """Those ``texts`` that stand before the first that needs the version changes, escaped."""
        if self._passes_unchanged is None and b"" not in texts and jsontext.as_printed(texts):
            return texts
        accepted: list[bytes] = []
        for raw in texts:
            escaped = self._accepted(raw)
            if escaped is None:
                break
            accepted.append(escaped)
        return accepted

    def _accepted(self, raw: bytes) -> bytes | None:
        """A text as snapshots have it, escaped; None if its delta needs the version changes."""
        if _PLAIN.fullmatch(raw):
            if self._passes_unchanged is None or self._passes_unchanged(raw.decode("ascii")):
                return raw
            return None
        text = _unescaped(raw)
        if not text or not (self._passes_unchanged is None or self._passes_unchanged(text)):
            return None
        return jsontext.dumps(text)[1:-1]

    def append(self, accepted: Iterable[bytes]) -> None:
        """Append texts without making their snapshots, which nobody will get."""
        self._text.escaped += b"".join(accepted)

    def latest_snapshot(self) -> bytes:
        """The snapshot for the last delta; the text is copied once."""
        return b"".join((self._snapshot_before, self._text.escaped, self._snapshot_after))

    def snapshots(self, accepted: Iterable[bytes]) -> Iterator[bytes]:
        """Append texts and make their snapshots."""
        before, text, after = self._snapshot_before, self._text.escaped, self._snapshot_after
        for escaped in accepted:
            text += escaped
            yield b"".join((before, text, after))


def begin_run(
    frame: bytes, snapshot: Event, passes_unchanged: PassesUnchanged | None, limit: int
) -> Run | None:
    """The run that begins with a delta, None if none can.

    The delta stood on the wire as ``frame`` and became ``snapshot``, and nothing else.
    """
    text = snapshot.text
    if text is None or snapshot.last:
        return None
    found = _TEXT.search(frame)
    if found is None or frame.startswith(BOM):  # a BOM stands only where the stream begins
        return None
    unescaped = _unescaped(found[1])
    if unescaped is None or jsontext.dumps(unescaped)[1:-1] != text.appended:
        return None
    before, after = frame[: found.start(1)], frame[found.end(1) :]
    around = before + after
    # Of two members with one key a parser takes the last, however their keys are escaped.
    if b"\\" in around or len(_KEY.findall(around)) != 1:
        return None
    return Run(before, after, snapshot, text, passes_unchanged=passes_unchanged, limit=limit)


def _unescaped(inside: bytes) -> str | None:
    """The string whose JSON has that ``inside`` between its quotes; None if none has."""
    try:
        text = jsontext.loads(b'"%b"' % inside)
    except jsontext.NotJSON:
        return None
    return text if isinstance(text, str) else None
