"""The ledger as others read it: JSON for the page and for programs, CSV for spreadsheets.

Both come in parts, between which there is time for other work: ten thousand entries take a while.
Times are in UTC (RFC 3339).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from .jsontext import dumps
from .ledger import DAY, UNKNOWN, Buckets, Counts, Entry, Ledger, Who
from .versions import dates

RECENT = 30
"""Within how many days somebody was seen who still counts as one that needs the proxy."""

PART = 100
"""How many entries are printed at a time."""

COLUMNS = (
    *("key", "client", "route", "version", "model", "answered_by", "first", "last"),
    *("exchanges", "translated", "passed", "streams", "errors"),
    *("bytes_received", "bytes_sent", "ended", "dropped", "features", "changes"),
)

_FORMULA = re.compile(r"\s*[=+@\-\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""With what a spreadsheet takes a cell for a formula, which a client's name must not become."""


def as_json(ledger: Ledger, now: float) -> Iterator[bytes]:
    """The ledger as one JSON object whose last member, ``entries``, is the longest."""
    yield dumps(_head(ledger, now))[:-1] + b',"entries":['
    comma = b""
    for part in _parts(ledger):
        yield comma + b",".join(dumps(_row(who, entry)) for who, entry in part)
        comma = b","
    yield b"]}\n"


def as_csv(ledger: Ledger) -> Iterator[bytes]:
    """The entries as CSV with a head (RFC 4180); the last line may be the sum of others."""
    yield _lines([COLUMNS])
    for part in _parts(ledger):
        yield _lines([_cells(_row(who, entry)) for who, entry in part])
    if ledger.others is not None:
        who = Who(f"{ledger.summed_up} others", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
        yield _lines([_cells(_row(who, ledger.others))])


def _parts(ledger: Ledger) -> Iterator[list[tuple[Who, Entry]]]:
    """The entries as they are now, though others come in between."""
    entries = list(ledger.entries.items())
    for start in range(0, len(entries), PART):
        yield entries[start : start + PART]


def _head(ledger: Ledger, now: float) -> dict[str, Any]:
    others = ledger.others
    return {
        "now": _time(now),
        "versions": dates(),
        "summary": summary(ledger, now),
        "limit": ledger.limit,
        "others": None if others is None else {"entries": ledger.summed_up, **_counts(others)},
        "hours": _spans(ledger.hours, now),
        "days": _spans(ledger.days, now),
    }


def summary(ledger: Ledger, now: float) -> dict[str, Any]:
    """The answer in short: who needed the proxy in the last days, and what part no longer does.

    ``clients`` and ``keys`` are those who did, ``last`` is when the last of all did, None for
    never. ``translated`` and ``passed`` are exchanges of those days.
    """
    since = now - RECENT * DAY
    needing = [(who, entry) for who, entry in ledger.entries.items() if entry.translated]
    recent = [who for who, entry in needing if entry.last >= since]
    spans = [
        counts
        for number, versions in ledger.days.spans.items()
        if number >= since // DAY
        for counts in versions.values()
    ]
    last = max((entry.last for _, entry in needing), default=None)
    return {
        "days": RECENT,
        "clients": len({who.client for who in recent}),
        "keys": len({who.key for who in recent} - {UNKNOWN}),
        "versions": sorted({who.version for who in recent}),
        "last": None if last is None else _time(last),
        "translated": sum(translated for translated, _ in spans),
        "passed": sum(passed for _, passed in spans),
    }


def _spans(buckets: Buckets, now: float) -> list[list[Any]]:
    """Those within reach of ``now``, oldest first, each as its start and its counts."""
    oldest = now // buckets.seconds - buckets.kept
    return [
        [_time(number * buckets.seconds), versions]
        for number, versions in sorted(buckets.spans.items())
        if number > oldest
    ]


def _row(who: Who, entry: Entry) -> dict[str, Any]:
    return {**who._asdict(), **_counts(entry)}


def _counts(entry: Entry) -> dict[str, Any]:
    return {
        "answered_by": entry.answered_by,
        "first": _time(entry.first),
        "last": _time(entry.last),
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
    return f"'{value}" if _FORMULA.match(value) else value


def _lines(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
