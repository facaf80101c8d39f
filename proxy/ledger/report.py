"""The ledger as others read it: JSON for the page and for programs, CSV for spreadsheets.

Both come in parts, between which there is time for other work: ten thousand entries take a while.
Some parts are empty, and stand for that time alone. Times are in UTC (RFC 3339).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import Any

from ..core.jsontext import dumps
from ..observe.record import UNKNOWN
from ..versions import dates
from .ledger import Ledger, Who
from .tally import AHEAD, DAY, Buckets, Counts, Entry

RECENT = 30
"""How many days ago somebody was seen at most who still counts as needing the proxy."""

PART = 25
"""How many entries are printed at a time."""

LOOK = 1_000
"""How many entries are counted in one step."""

COLUMNS = (
    *("key", "client", "route", "version", "model", "answered_by", "first", "last"),
    *("exchanges", "translated", "passed", "streams", "errors"),
    *("bytes_received", "bytes_sent", "ended", "dropped", "features", "changes"),
)

_FORMULA = re.compile(r'(?:^|(?<=;))(?=[\s"]*[=+@\-\uff1d\uff0b\uff0d\uff20])')
"""Where a spreadsheet takes what follows for a formula, which a client's name must not become.

A cell may begin within one of ours, too: where a decimal has a comma, semicolons part columns. The
quotes that it may begin with there are none of it.
"""


def as_json(ledger: Ledger, now: float) -> Iterator[bytes]:
    """The ledger as one JSON object whose last member, ``entries``, is the longest."""
    head = yield from _head(ledger, now)
    yield dumps(head)[:-1] + b',"entries":['
    comma = b""
    for part in _parts(ledger):
        yield comma + b",".join(dumps(_row(who, entry, now)) for who, entry in part)
        comma = b","
    yield b"]}\n"


def as_csv(ledger: Ledger, now: float) -> Iterator[bytes]:
    """The entries as CSV with a head (RFC 4180); the last line may be the sum of others."""
    yield _lines([COLUMNS])
    for part in _parts(ledger):
        yield _lines([_cells(_row(who, entry, now)) for who, entry in part])
    if ledger.others is not None:
        who = Who(f"{ledger.summed_up} others", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
        yield _lines([_cells(_row(who, ledger.others, now))])


def _parts(ledger: Ledger) -> Iterator[list[tuple[Who, Entry]]]:
    """The entries as they are now, though others come in between."""
    everyone = list(ledger.entries)
    for start in range(0, len(everyone), PART):
        held = ((who, ledger.entries.get(who)) for who in everyone[start : start + PART])
        yield [(who, entry) for who, entry in held if entry is not None]


def _head(ledger: Ledger, now: float) -> Generator[bytes, None, dict[str, Any]]:
    others = ledger.others
    answer = yield from _summing_up(ledger, now)
    return {
        "now": _time(now),
        "versions": dates(),
        "summary": answer,
        "limit": ledger.limit,
        "others": None if others is None else {"entries": ledger.summed_up, **_counts(others, now)},
        "hours": _spans(ledger.hours, now),
        "days": _spans(ledger.days, now),
    }


def _summing_up(ledger: Ledger, now: float) -> Generator[bytes, None, dict[str, Any]]:
    """The answer in short: who needed the proxy in the last days, and what part no longer does.

    ``clients`` and ``keys`` are those who did, ``last`` is when the last of all did, None for
    never. ``translated`` and ``passed`` are exchanges of those days. A time in the future counts
    as lately, as the present time may be wrong, but is the last only if no other was seen lately.
    """
    since = now - RECENT * DAY
    clients, keys, versions = set(), set(), set()
    last = ahead = None
    for number, who in enumerate(list(ledger.entries), 1):
        entry = ledger.entries.get(who)
        if entry is not None and entry.translated:
            seen = entry.seen(now)
            if seen <= now + AHEAD:
                last = seen if last is None else max(last, seen)
            else:
                ahead = seen if ahead is None else max(ahead, seen)
            if seen >= since:
                clients.add(who.client)
                keys.add(who.key)
                versions.add(who.version)
        if number % LOOK == 0:
            yield b""
    if last is None or (ahead is not None and last < since):
        last = ahead
    spans = [
        counts
        for number, counted in ledger.days.spans.items()
        if since // DAY <= number <= (now + AHEAD) // DAY
        for counts in counted.values()
    ]
    return {
        "days": RECENT,
        "clients": len(clients),
        "keys": len(keys - {UNKNOWN}),
        "versions": sorted(versions),
        "last": None if last is None else _time(last),
        "translated": sum(translated for translated, _ in spans),
        "passed": sum(passed for _, passed in spans),
    }


def _spans(buckets: Buckets, now: float) -> list[list[Any]]:
    """Those within reach of ``now``, oldest first, each as its start and its counts."""
    oldest, latest = now // buckets.seconds - buckets.kept, (now + AHEAD) // buckets.seconds
    return [
        [_time(number * buckets.seconds), versions]
        for number, versions in sorted(buckets.spans.items())
        if oldest < number <= latest
    ]


def _row(who: Who, entry: Entry, now: float) -> dict[str, Any]:
    return {**who._asdict(), **_counts(entry, now)}


def _counts(entry: Entry, now: float) -> dict[str, Any]:
    return {
        "answered_by": entry.answered_by,
        "first": _time(entry.first),
        "last": _time(entry.seen(now)),
        "exchanges": entry.exchanges,
        "translated": entry.translated,
        "passed": entry.passed,
        "streams": entry.streams,
        "errors": entry.errors,
        "bytes_received": entry.bytes_received,
        "bytes_sent": entry.bytes_sent,
        "ended": entry.ended,
        "dropped": entry.dropped,
        "features": entry.features,
        "changes": entry.changes,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cells(row: dict[str, Any]) -> list[str]:
    return [_cell(row[column]) for column in COLUMNS]


def _cell(value: str | int | Counts) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        value = "; ".join(f"{name}: {count}" for name, count in value.items())
    if value == UNKNOWN:
        return ""
    return _FORMULA.sub("'", value)


def _lines(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
