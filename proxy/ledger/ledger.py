"""The migration ledger: who still needs the proxy, for what, and since when.

Two ledgers are merged by adding their counts. So several processes can each count for themselves,
write down what they have counted, and add up what all have written, in any order.

What takes long for many entries is done in steps, by iterators that yield nothing, so that an event
loop can serve others in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple, Self

from ..core.jsontext import dumps
from ..core.nudges import Brownout
from ..observe.record import UNKNOWN, Record
from .tally import AHEAD, DAY, HOUR, LONGEST_NAME, Buckets, Entry, safe_name

NEWER = "newer"
"""Stands for any version that is newer than all known ones."""

HOURS, DAYS = 72, 90
"""How many of the last hours and days have counts of their own."""

MERGED_PART = 10
"""When there are too many entries, one in so many is merged into ``Ledger.others``."""

STEP = 25
"""How many entries a step handles, and a line of the file holds: a millisecond's work."""

SORTED_AT_ONCE = 2_000
"""How many entries are sorted in one step."""


class Who(NamedTuple):
    """Whose use an entry counts. ``key`` is a fingerprint, ``version`` the client's."""

    key: str
    client: str
    route: str
    model: str
    version: str


NOBODY = Who(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
"""Stands for all senders of requests that match no route: these are no use of the API."""


class OtherFormat(ValueError):
    """A line is in another format of the ledger, as a later proxy may write it."""


class Ledger:
    """At most ``limit`` entries. More are merged into ``others``, the longest unseen first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: dict[Who, Entry] = {}
        self.others: Entry | None = None
        """The sum of the entries that there was no room for."""
        self.summed_up = 0
        """How many entries these were; one that came back and was merged again counts twice."""
        self.hours = Buckets(HOUR, HOURS)
        self.days = Buckets(DAY, DAYS)
        self.revision = 0
        """Grows with each change; 0 as long as nothing was counted."""

    def count(self, record: Record, now: float) -> None:
        """Add an exchange that is over ``now``."""
        version = record.client_version
        translated = bool(record.changes) or version != record.upstream_version
        unread = False
        if not translated and record.ended == "refused":
            translated = record.error_class == Brownout.__name__  # which only translated calls meet
            unread = not translated
        if version == UNKNOWN and not unread:
            version = NEWER
        who: tuple[str, ...] = NOBODY  # a plain tuple is equal to a Who, and cheaper
        if record.route != UNKNOWN:
            who = (record.key, record.client, record.route, record.model[:LONGEST_NAME], version)
        entry = self.entries.get(who)  # type: ignore[call-overload]
        if entry is None:
            entry = self._entry_of(Who(*map(safe_name, who)), Entry(now, now), now)
        entry.count(record, now, translated=translated, passed=not (translated or unread))
        if not unread:
            self.hours.count(now, version, translated=translated)
            self.days.count(now, version, translated=translated)
        self.revision += 1

    def total(self) -> int:
        """How many exchanges were counted."""
        entries = chain(self.entries.values(), filter(None, [self.others]))
        return sum(entry.exchanges for entry in entries)

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
        """Merge those not seen for longest into ``others``: whoever still calls stays listed."""

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

    # Serialization.

    def lines(self) -> Iterator[bytes]:
        """Lines of JSON, each of which ``read`` reads as a ledger; merged they are this one."""
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
                who = Who(*map(safe_name, map(str, names)))
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
