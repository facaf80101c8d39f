"""The migration ledger: who still needs the proxy, for what, and since when.

Counts only ever grow, and two ledgers are merged by adding their counts. So several processes can
each count for themselves, write down what they have counted, and add up what all have written, in
any order. Strangers choose most of the names in here: their length and their number are bounded;
whatever exceeds that is counted as OTHER, never lost.

Clocks can be wrong: a time in the future is kept, but believed only where there is no other, or
once it has come. It may be now that is wrong, as where a clock is set only after the start.

What takes long for many entries is done in steps, by iterators that yield nothing, so that an event
loop can serve others in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, Self

from .jsontext import dumps
from .nudges import Brownout
from .observe import Record
from .versions.completions_became_incremental import CompletionsBecameIncremental
from .versions.messages_became_incremental import MessagesBecameIncremental
from .versions.unset_parameters_refused import REMOVED_PARAMETERS

UNKNOWN = "-"
"""Stands in a record for what is not known."""

NEWER = "newer"
"""Stands for any version that is newer than all we know."""

OTHER = "(other)"
"""Stands for all names beyond those that there is room for."""

HIDDEN = "(hidden)"
"""Stands for a name that looks like a key."""

LONGEST_NAME = 100
"""The most that is kept of a name, in characters."""

MOST_NAMES = 24
"""How many names of one kind an entry tells apart."""

HOUR, DAY = 3_600, 86_400
HOURS, DAYS = 72, 90
"""The number of hours and of days for which exchanges are counted one by one."""

END_OF_TIME = 253_402_300_800
"""The first second of the year 10000, which RFC 3339 cannot write."""

AHEAD = HOUR
"""How many seconds a time may lie in the future and still be believed: clocks differ."""

MERGED_PART = 10
"""Where there are too many entries, one in so many is summed up with the others."""

STEP = 25
"""How many entries a step handles, and a line holds: a millisecond's work."""

SORTED_AT_ONCE = 2_000
"""How many entries are sorted in one step."""

_SNAPSHOTS = {
    CompletionsBecameIncremental.__name__: "whole text in every event",
    MessagesBecameIncremental.__name__: "whole Message in every event",
}
_NOTED = {"stop_sequences": "blank stop sequences", **{name: name for name in REMOVED_PARAMETERS}}
"""What clients use that today's API has no equivalent of, by the version change or the note of the
translation that shows it. Parameters that were left out are counted apart, as ``dropped``."""

FAILURES = frozenset(
    ("refused", "upstream refused", "upstream failed", "client stalled", "drained", "crashed")
)
"""The values of observe.Ended that are errors to a client."""


class Who(NamedTuple):
    """What an entry is about. ``key`` is a fingerprint, ``version`` the client's."""

    key: str
    client: str
    route: str
    model: str
    version: str


NOBODY = Who(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
"""Stands for whoever sends requests that no route takes: they are no use of the API."""

Counts = dict[str, int]


class OtherFormat(ValueError):
    """A line is in another format of the ledger, as a later proxy may write it."""


@dataclass(slots=True)
class Entry:
    """What one Who did. Times are in seconds since 1970, UTC; sizes in bytes, of bodies."""

    first: float
    last: float
    answered_by: str = UNKNOWN
    """The model that was last asked in place of theirs."""
    exchanges: int = 0
    translated: int = 0
    """How many the client could not have had without the proxy."""
    passed: int = 0
    """How many passed through. One refused before that was decided is neither."""
    streams: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    ended: Counts = field(default_factory=dict)
    dropped: Counts = field(default_factory=dict)
    changes: Counts = field(default_factory=dict)
    features: Counts = field(default_factory=dict)
    """What they use that today's API has no equivalent of."""
    latest: float = 0.0
    """The latest time that was merged, even if it was in the future."""

    def seen(self, now: float) -> float:
        """When they were seen last, as far as that is believed ``now``."""
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
        """The entry as a value for JSON; see read."""
        return {field.name: getattr(self, field.name) for field in _FIELDS}

    @classmethod
    def read(cls, data: dict[str, Any]) -> Entry:
        """The entry of which ``data`` was made; raises whatever malformed values raise."""
        first, last = _valid_time(data["first"]), _valid_time(data["last"])
        entry = cls(first, last, _safe_name(str(data["answered_by"])))
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
    """How many exchanges there were in each of the last ``kept`` spans of ``seconds``.

    As many spans of the future are kept, too, the last of them, in case it is now that is wrong.
    ``spans`` maps the number of a span since 1970 to, by version, how many were translated and how
    many passed.
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
        """Add what another has counted; raises whatever malformed values raise."""
        for number, versions in data:
            _valid_time(number * self.seconds)
            span = self.spans.get(number)
            if span is None:
                span = self._new(number, now)
            for version, (translated, passed) in versions.items():
                known = version in span or len(span) < MOST_NAMES
                counts = span.setdefault(_safe_name(version) if known else OTHER, [0, 0])
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


class Ledger:
    """At most ``limit`` entries. Those not seen for longest are summed up as ``others``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: dict[Who, Entry] = {}
        self.others: Entry | None = None
        """The sum of the entries that there was no room for."""
        self.summed_up = 0
        """How many these were; an entry that came back and left again counts twice."""
        self.hours = Buckets(HOUR, HOURS)
        self.days = Buckets(DAY, DAYS)
        self.revision = 0
        """Grows with each change."""

    def count(self, record: Record, now: float) -> None:
        """Add an exchange that is over ``now``."""
        version = record.client_version
        translated = bool(record.changes) or version != record.upstream_version
        unread = False
        if not translated and record.ended == "refused":
            translated = record.fault == Brownout.__name__  # which only translated calls meet
            unread = not translated
        if version == UNKNOWN and not unread:
            version = NEWER
        who: tuple[str, ...] = NOBODY  # a plain tuple is equal to a Who, and cheaper
        if record.route != UNKNOWN:
            who = (record.key, record.client, record.route, record.model[:LONGEST_NAME], version)
        entry = self.entries.get(who)  # type: ignore[call-overload]
        if entry is None:
            entry = self._entry_of(Who(*map(_safe_name, who)), Entry(now, now), now)
        entry.count(record, now, translated=translated, passed=not (translated or unread))
        if not unread:
            self.hours.count(now, version, translated=translated)
            self.days.count(now, version, translated=translated)
        self.revision += 1

    def merging(self, other: Ledger, now: float) -> Iterator[None]:
        """Add all that ``other`` counted, in steps."""
        for number, who in enumerate(list(other.entries), 1):
            entry, mine = other.entries[who], self.entries.get(who)
            if mine is None:
                if len(self.entries) >= self.limit:
                    yield from self._making_room(now)
                mine = self.entries[who] = Entry(entry.first, entry.last)
            mine.add(entry, now)
            if number % STEP == 0:
                yield
        if other.others is not None:
            self._sum_up(other.others, other.summed_up, now)
        self.hours.add(other.hours.spans.items(), now)
        self.days.add(other.days.spans.items(), now)
        self.revision += 1
        yield

    def _entry_of(self, who: Who, new: Entry, now: float) -> Entry:
        """The entry of ``who``; if there is none, ``new`` becomes it."""
        entry = self.entries.get(who)
        if entry is None:
            if len(self.entries) >= self.limit:
                for _ in self._making_room(now):
                    pass
            entry = self.entries[who] = new
        return entry

    def _making_room(self, now: float) -> Iterator[None]:
        """Sum up those that were not seen for the longest time: who still calls stays listed."""

        def last(who: Who) -> float:
            seen = self.entries[who].seen(now)
            return seen if seen <= now + AHEAD else 0.0

        everyone = list(self.entries)
        runs = []
        for start in range(0, len(everyone), SORTED_AT_ONCE):
            runs.append(sorted(everyone[start : start + SORTED_AT_ONCE], key=last))
            yield
        leaving = islice(merge(*runs, key=last), -(-self.limit // MERGED_PART))
        for number, who in enumerate(list(leaving), 1):
            self._sum_up(self.entries.pop(who), 1, now)
            if number % STEP == 0:
                yield

    def _sum_up(self, entry: Entry, count: int, now: float) -> None:
        if self.others is None:
            self.others = Entry(entry.first, entry.last)
        self.others.add(entry, now)
        self.summed_up += count

    # As text.

    def lines(self) -> Iterator[bytes]:
        """Lines of JSON, each of them a ledger that read returns; merged they are this one."""
        everyone = list(self.entries)
        others = self.others
        rest: dict[str, Any] = {
            "others": None if others is None else [self.summed_up, others.as_json()],
            "hours": list(self.hours.spans.items()),
            "days": list(self.days.spans.items()),
        }
        for start in range(0, max(len(everyone), 1), STEP):
            part = [[*who, self.entries[who].as_json()] for who in everyone[start : start + STEP]]
            yield dumps({"ledger": 1, "entries": part, **rest}) + b"\n"
            rest = {"others": None, "hours": [], "days": []}

    @classmethod
    def read(cls, data: Any, limit: int, now: float) -> Self:
        """The ledger in a line whose JSON is ``data``; raises ValueError, also as OtherFormat."""
        made = cls(limit)
        try:
            if data["ledger"] != 1:
                raise OtherFormat("the form of the line is not known")
            for *names, entry in data["entries"]:
                who = Who(*map(_safe_name, map(str, names)))
                read = Entry.read(entry)
                if (held := made._entry_of(who, read, now)) is not read:
                    held.add(read, now)
            if data["others"] is not None:
                count, others = data["others"]
                made._sum_up(Entry.read(others), int(count), now)
            made.hours.add(((int(number), span) for number, span in data["hours"]), now)
            made.days.add(((int(number), span) for number, span in data["days"]), now)
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError("the line is not one of a ledger") from error
        return made


def _features(record: Record) -> Iterator[str]:
    """What an exchange used that today's API has no equivalent of."""
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
        name = _safe_name(name)
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


def _safe_name(name: str) -> str:
    """``name`` as it may be kept: not too long, printable, and no key.

    A terminal would obey control characters: each that cannot be printed becomes ``?``.
    """
    if name.lstrip().startswith("sk-"):
        return HIDDEN
    name = name[:LONGEST_NAME]
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "?" for letter in name)
