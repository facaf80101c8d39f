"""Counts of exchanges: by what was used, and by when.

Counts only ever grow, and two of a kind are merged by adding them up. Strangers choose most of the
names that are counted: their length and their number are bounded; whatever exceeds that is counted
as OTHER, never lost.

Clocks can be wrong: a time in the future is kept, but believed only where there is no other, or
once it has come. It may be the present time that is wrong, as where a clock is set only after the
start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

from ..formats.parameters import WITHOUT_EFFECT
from ..observe.record import UNKNOWN, Record
from ..versions.completions_became_incremental import CompletionsBecameIncremental
from ..versions.messages_became_incremental import MessagesBecameIncremental

OTHER = "(other)"
"""Stands for all names beyond the first MOST_NAMES."""

HIDDEN = "(hidden)"
"""Stands for a name that looks like a key."""

LONGEST_NAME = 100
"""Names are cut to so many characters."""

MOST_NAMES = 24
"""How many names of one kind are counted separately."""

HOUR, DAY = 3_600, 86_400
"""In seconds."""

END_OF_TIME = 253_402_300_800
"""The first second of the year 10000, which RFC 3339 cannot write."""

AHEAD = HOUR
"""A time is believed if it lies at most so many seconds in the future: clocks differ."""

_SNAPSHOTS = {
    CompletionsBecameIncremental.__name__: "whole text in every event",
    MessagesBecameIncremental.__name__: "whole Message in every event",
}
_NOTED = {"stop_sequences": "blank stop sequences", **{name: name for name in WITHOUT_EFFECT}}
"""Features without an equivalent in today's API, by the version change or the note of the
translation that reveals them. Parameters that were left out are counted apart, as ``dropped``."""

FAILURES = frozenset(
    ("refused", "upstream refused", "upstream failed", "client stalled", "drained", "crashed")
)
"""The values of observe.record.Ended that are errors to a client."""

Counts = dict[str, int]


@dataclass(slots=True)
class Entry:
    """The counts of one ``ledger.Who``. Times are in seconds since 1970; sizes, of bodies."""

    first: float
    last: float
    answered_by: str = UNKNOWN
    """The model that last answered in place of the one asked for."""
    exchanges: int = 0
    translated: int = 0
    """Exchanges that would have failed without the proxy."""
    passed: int = 0
    """Exchanges that passed through. One refused before that was decided is neither."""
    streams: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    ended: Counts = field(default_factory=dict)
    dropped: Counts = field(default_factory=dict)
    changes: Counts = field(default_factory=dict)
    features: Counts = field(default_factory=dict)
    """Features used that have no equivalent in today's API."""
    latest: float = 0.0
    """The latest time that was merged, even if it lies in the future."""

    def seen(self, now: float) -> float:
        """The time of the last exchange, as far as it is believed at the time ``now``."""
        return self.latest if self.last < self.latest <= now + AHEAD else self.last

    @property
    def errors(self) -> int:
        """How many ended in an error."""
        return sum(count for ended, count in self.ended.items() if ended in FAILURES)

    def count(self, record: Record, now: float, *, translated: bool, passed: bool) -> None:
        """Add one exchange that is over ``now``."""
        # Clocks are set back now and then. Calling min would cost three times as much.
        if now < self.first:  # noqa: PLR1730
            self.first = now
        self.last = now
        self.exchanges += 1
        self.translated += translated
        self.passed += passed
        self.bytes_received += record.bytes_received
        self.bytes_sent += record.bytes_sent
        _count(self.ended, record.ended)
        for change in record.changes:
            _count(self.changes, change)
        if record.dropped:
            for name in islice(record.dropped, MOST_NAMES):
                _count(self.dropped, name)
            if (more := len(record.dropped) - MOST_NAMES) > 0:
                _count(self.dropped, OTHER, more)
        if record.answered_by != UNKNOWN:
            self.answered_by = record.answered_by
        for feature in _features(record):
            _count(self.features, feature)
        self.streams += record.streams

    def add(self, other: Entry, now: float) -> None:
        """Add what ``other`` counted."""
        mine, theirs = self.seen(now), other.seen(now)
        last = max(mine, theirs)
        if last > now + AHEAD:
            last = min(mine, theirs)
        if last == theirs and other.answered_by != UNKNOWN:
            self.answered_by = other.answered_by
        self.first = min(self.first, other.first)
        self.latest = max(self.last, self.latest, other.last, other.latest)
        self.last = last
        self.exchanges += other.exchanges
        self.translated += other.translated
        self.passed += other.passed
        self.streams += other.streams
        self.bytes_received += other.bytes_received
        self.bytes_sent += other.bytes_sent
        _add(self.ended, other.ended)
        _add(self.dropped, other.dropped)
        _add(self.changes, other.changes)
        _add(self.features, other.features)

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON, which ``read`` reads."""
        return {field.name: getattr(self, field.name) for field in _FIELDS}

    @classmethod
    def read(cls, data: dict[str, Any]) -> Entry:
        """The inverse of ``as_json``; a malformed value raises what its conversion raises."""
        first, last = _valid_time(data["first"]), _valid_time(data["last"])
        entry = cls(first, last, safe_name(str(data["answered_by"])))
        entry.latest = _valid_time(data.get("latest", 0.0))  # which older proxies do not write
        for part in _FIELDS[3:-1]:
            value = data[part.name]
            if part.type == "int":
                setattr(entry, part.name, int(value))
            else:
                _add(getattr(entry, part.name), {str(name): int(n) for name, n in value.items()})
        return entry


_FIELDS = fields(Entry)


class Buckets:
    """A histogram over time: the exchanges in each of the last ``kept`` spans of ``seconds``.

    The last ``kept`` spans of the future are kept as well, in case it is the present time that is
    wrong. ``spans`` maps the number of a span, counted from 1970, to a pair for each version: how
    many exchanges were translated, and how many passed through.
    """

    def __init__(self, seconds: int, kept: int) -> None:
        self.seconds = seconds
        self.kept = kept
        self.spans: dict[int, dict[str, list[int]]] = {}

    def count(self, now: float, version: str, *, translated: bool) -> None:
        """Add one exchange."""
        span = self.spans.get(number := int(now) // self.seconds)
        if span is None:
            span = self._new(number, now)
        counts = span.get(version) or span.setdefault(version, [0, 0])
        counts[not translated] += 1

    def add(self, data: Iterable[tuple[int, dict[str, list[int]]]], now: float) -> None:
        """Add the spans of another; a malformed value raises what its conversion raises."""
        for number, versions in data:
            _valid_time(number * self.seconds)
            span = self.spans.get(number)
            if span is None:
                span = self._new(number, now)
            for version, (translated, passed) in versions.items():
                known = version in span or len(span) < MOST_NAMES
                counts = span.setdefault(safe_name(version) if known else OTHER, [0, 0])
                counts[0] += int(translated)
                counts[1] += int(passed)

    def _new(self, number: int, now: float) -> dict[str, list[int]]:
        span = self.spans[number] = {}
        latest = (now + AHEAD) // self.seconds
        past = sorted(each for each in self.spans if each <= latest)
        ahead = sorted(each for each in self.spans if each > latest)
        for excess in (*past[: -self.kept], *ahead[: -self.kept]):
            del self.spans[excess]
        return span


def _features(record: Record) -> Iterator[str]:
    """The features of an exchange that have no equivalent in today's API."""
    if record.streams and record.client_version < record.upstream_version:
        for change in record.changes:
            if change in _SNAPSHOTS:
                yield _SNAPSHOTS[change]
    for note in record.notes:
        if (name := note.partition(":")[0]) in _NOTED:
            yield _NOTED[name]


def _count(counts: Counts, name: str, more: int = 1) -> None:
    try:
        counts[name] += more
    except KeyError:
        name = safe_name(name)
        if len(counts) >= MOST_NAMES and name not in counts:
            name = OTHER
        counts[name] = counts.get(name, 0) + more


def _add(counts: Counts, more: Counts) -> None:
    for name, count in more.items():
        _count(counts, name, count)


def _valid_time(data: Any) -> float:
    """A time in seconds since 1970; raises ValueError for one that RFC 3339 cannot write."""
    seconds = float(data)
    if not 0 <= seconds < END_OF_TIME:
        raise ValueError("the time is out of all bounds")
    return seconds


def safe_name(name: str) -> str:
    """``name`` as it may be kept: not too long, printable, and no key.

    A terminal would obey control characters: each that cannot be printed becomes ``?``.
    """
    if name.lstrip().startswith("sk-"):
        return HIDDEN
    name = name[:LONGEST_NAME]
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "?" for letter in name)
