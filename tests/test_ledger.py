"""The ledger counts all use, whatever strangers call themselves and however a process ends."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy import config
from proxy.admin import page
from proxy.app import App
from proxy.cli.cli import main
from proxy.core import jsontext
from proxy.ledger import journal, ledger, ledgerfile, report, tally
from proxy.ledger.journal import Journal
from proxy.ledger.ledger import NOBODY, Ledger, Who
from proxy.ledger.report import as_csv, as_json
from proxy.ledger.tally import DAY, OTHER, Entry
from proxy.observe.metrics import Metrics
from proxy.observe.record import Record
from proxy.server.reload import read_again
from proxy.server.server import running
from support import (
    LAST,
    PATIENCE,
    PLAIN,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    raw_upstream,
    settings,
    until,
)
from support.processes import ROOT, served, starved, write_config

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
MOMENT = "2027-01-15T08:00:00Z"
"""The same as it is shown."""


def record(**more: Any) -> Record:
    """An exchange of an old client that was translated."""
    usual = {
        "route": "complete",
        "client": "anthropic-python/0.2.8",
        "key": "0123456789ab",
        "model": "claude-v1",
        "client_version": "2023-01-01",
        "upstream_version": "2023-06-01",
        "changes": ("CompletionsBecameIncremental",),
    }
    made = Record("POST", "/v1/complete")
    for name, value in (usual | more).items():
        setattr(made, name, value)
    return made


def passed(**more: Any) -> Record:
    """An exchange that passed through."""
    return record(client_version="2023-06-01", changes=(), model="-", **more)


def counted(*records: Record, limit: int = 100, now: float = NOW) -> Ledger:
    """A ledger of exchanges a second apart."""
    made = Ledger(limit)
    for seconds, each in enumerate(records):
        made.count(each, now + seconds)
    return made


def shown_as_json(of: Ledger, now: float = NOW) -> dict[str, Any]:
    """A ledger as ``/-/ledger`` shows it to programs."""
    read: dict[str, Any] = json.loads(b"".join(as_json(of, now)))
    return read


def summary(of: Ledger, now: float) -> dict[str, Any]:
    """The summary in it."""
    short: dict[str, Any] = shown_as_json(of, now)["summary"]
    return short


def sum_of(lines: Iterable[bytes], limit: int = 100, now: float = NOW) -> Ledger:
    """The ledgers in these lines, merged."""
    made = Ledger(limit)
    for line in lines:
        for _ in made.merging(Ledger.read(jsontext.loads(line), limit, now), now):
            pass
    return made


def total(of: Ledger) -> int:
    """All exchanges that a ledger knows of."""
    others = 0 if of.others is None else of.others.exchanges
    return others + sum(entry.exchanges for entry in of.entries.values())


# What is counted.


def test_an_entry_says_who_did_what_and_when() -> None:
    made = counted(
        record(streams=True, answered_by="claude-haiku-4-5", bytes_received=5, bytes_sent=70),
        record(
            ended="upstream refused",
            dropped=("top_p",),
            notes=("tags: left out, it has no effect", "model: a answers for b"),
        ),
        record(model="claude-2"),
    )
    first, second = shown_as_json(made)["entries"]
    assert first == {
        "key": "0123456789ab",
        "client": "anthropic-python/0.2.8",
        "route": "complete",
        "model": "claude-v1",
        "version": "2023-01-01",
        "answered_by": "claude-haiku-4-5",
        "first": "2027-01-15T08:00:00Z",
        "last": "2027-01-15T08:00:01Z",
        "exchanges": 2,
        "translated": 2,
        "passed": 0,
        "streams": 1,
        "errors": 1,
        "bytes_received": 5,
        "bytes_sent": 70,
        "ended": {"complete": 1, "upstream refused": 1},
        "dropped": {"top_p": 1},
        "features": {"whole text in every event": 1, "tags": 1},
        "changes": {"CompletionsBecameIncremental": 2},
    }
    assert (second["model"], second["exchanges"]) == ("claude-2", 1)


def test_the_share_that_has_migrated_is_told() -> None:
    made = counted(*[passed(key="new")] * 3, record())
    answer = summary(made, NOW)
    assert answer["clients"] == answer["keys"] == 1
    assert (answer["translated"], answer["passed"]) == (1, 3)
    assert answer["versions"] == ["2023-01-01"]
    assert answer["last"] == "2027-01-15T08:00:03Z"


def test_no_key_is_none() -> None:
    answer = summary(counted(record(key="-"), record()), NOW)
    assert (answer["clients"], answer["keys"]) == (1, 1)
    assert summary(counted(record(key="-")), NOW)["keys"] == 0


def test_who_was_not_seen_for_long_no_longer_needs_it_but_when_is_told() -> None:
    answer = summary(counted(record()), NOW + 31 * 86_400)
    assert (answer["clients"], answer["translated"]) == (0, 0)
    assert answer["last"] == "2027-01-15T08:00:00Z"


def test_a_version_newer_than_all_known_passes_and_one_that_was_refused_counts_as_neither() -> None:
    unknown = {"client_version": "-", "upstream_version": "-", "changes": ()}
    made = counted(record(**unknown), record(**unknown, ended="refused"))
    newer, refused = made.entries.items()
    assert newer[0].version == "newer"
    assert (newer[1].passed, newer[1].translated) == (1, 0)
    assert refused[0].version == "-"
    assert (refused[1].passed, refused[1].translated, refused[1].exchanges) == (0, 0, 1)


def test_what_was_refused_did_not_pass_through() -> None:
    bridged = {"client_version": "2023-06-01", "changes": (), "ended": "refused"}
    made = counted(
        record(**bridged, error_class="InvalidRequest"), record(**bridged, error_class="Brownout")
    )
    (entry,) = made.entries.values()
    assert (entry.exchanges, entry.translated, entry.passed) == (2, 1, 0)
    assert shown_as_json(made)["days"] == [["2027-01-15T00:00:00Z", {"2023-06-01": [1, 0]}]]


def test_what_no_route_takes_is_one_entry_whoever_asks() -> None:
    made = counted(*(record(route="-", key=f"{n}", client=f"scanner/{n}") for n in range(9)))
    assert {who: entry.exchanges for who, entry in made.entries.items()} == {NOBODY: 9}


def test_exchanges_are_told_by_hour_and_day_and_only_so_many() -> None:
    made = Ledger(100)
    for day in range(200):
        made.count(record() if day % 2 else passed(), NOW + day * 86_400)
    now = NOW + 199 * 86_400
    shown = shown_as_json(made, now)
    assert len(shown["days"]) == ledger.DAYS
    assert shown["days"][-1] == ["2027-08-02T00:00:00Z", {"2023-01-01": [1, 0]}]
    assert shown["days"][-2] == ["2027-08-01T00:00:00Z", {"2023-06-01": [0, 1]}]
    assert [time for time, _ in shown["hours"]] == [
        "2027-07-31T08:00:00Z",
        "2027-08-01T08:00:00Z",
        "2027-08-02T08:00:00Z",
    ]


# What strangers may do to it.


def test_there_are_so_many_entries_and_those_gone_for_longest_are_summed_up() -> None:
    made = counted(*(record(key=f"{n}") for n in range(1_000)), limit=100)
    assert len(made.entries) <= 100
    assert Who("999", *next(iter(made.entries))[1:]) in made.entries
    assert total(made) == 1_000
    assert made.summed_up == 1_000 - len(made.entries)
    others = shown_as_json(made)["others"]
    assert others["entries"] == made.summed_up
    assert others["first"] == "2027-01-15T08:00:00Z"


def test_who_has_been_gone_for_longest_is_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SORTED_AT_ONCE", 7)
    made = Ledger(100)
    for number in range(100):
        made.count(record(key=f"{number}"), NOW + number * 37 % 100)  # in no order
    made.count(record(key="one more"), NOW + 100)
    assert {who.key for who in made.entries} == {
        "one more",
        *(f"{number}" for number in range(100) if number * 37 % 100 >= 10),
    }


def test_names_are_short_and_few_and_can_be_written() -> None:
    many = tuple(f"parameter {n} " + "x" * 500 for n in range(1_000))
    made = counted(record(model="m" * 5_000), record(dropped=many), record(model="\ud800"))
    assert [len(who.model) for who in made.entries] == [100, 9, 1]
    dropped = list(made.entries.values())[1].dropped
    assert len(dropped) <= tally.MOST_NAMES + 1
    assert dropped[OTHER] == 1_000 - tally.MOST_NAMES
    assert max(map(len, dropped)) == 100
    made.count(record(model="\ud800"), NOW)
    assert len(made.entries) == 3
    for name in "abcdefgh":  # in one exchange after the other
        made.count(record(dropped=(name,)), NOW)
    assert len(dropped) <= tally.MOST_NAMES + 1
    assert dropped[OTHER] == 1_008 - tally.MOST_NAMES
    assert shown_as_json(sum_of(made.lines())) == shown_as_json(made)


def test_a_key_that_has_gone_astray_is_not_kept() -> None:
    made = counted(*[record(model="sk-ant-hunter2", dropped=("sk-hunter2",))] * 2)
    assert b"hunter2" not in b"".join(made.lines())
    assert total(made) == 2


def test_no_cell_of_the_csv_is_a_formula() -> None:
    nasty = ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "＝1", 'a,b"c')  # noqa: RUF001
    made = counted(*(record(model=name, dropped=(name,)) for name in nasty))
    head, *rows = csv.reader(io.StringIO(b"".join(as_csv(made, NOW)).decode(), newline=""))
    models = [row[head.index("model")] for row in rows]
    assert models == [*(f"'{name}" for name in nasty[:-1]), nasty[-1]]
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in {"=", "+", "-", "@", "＝"}]  # noqa: RUF001


def test_no_cell_of_the_csv_is_a_formula_where_semicolons_part_them() -> None:
    quoted = (record(model='a;"=1'), record(model='a; ""+1'), record(model='a;"'))
    made = counted(record(model="a;=1; -1;b", dropped=("x;@y",)), *quoted)
    text = b"".join(as_csv(made, NOW)).decode()
    cells = [cell for row in csv.reader(io.StringIO(text), delimiter=";") for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in {"=", "+", "-", "@"}]
    assert "a;'=1;' -1;b" in text


def test_no_name_speaks_to_a_terminal() -> None:
    made = counted(record(model="a\x1b]0;b\x07\x9b1m\u202e", dropped=("\r\n=1", "\x7f")))
    lines = b"".join((*as_csv(made, NOW), *as_json(made, NOW), *made.lines())).decode().splitlines()
    assert ",a?]0;b??1m?," in lines[1]
    assert all(map(str.isprintable, lines))


def test_the_csv_tells_the_others_too() -> None:
    made = counted(*(record(key=f"{n}") for n in range(101)), limit=100)
    rows = list(csv.DictReader(io.StringIO(b"".join(as_csv(made, NOW)).decode(), newline="")))
    assert len(rows) == len(made.entries) + 1
    assert rows[-1]["key"] == "10 others"
    assert sum(int(row["exchanges"]) for row in rows) == 101


def test_whoever_counts_as_lately_seen_has_exchanges_in_the_same_days() -> None:
    last = NOW - report.RECENT * DAY
    short = summary(counted(record(), now=last), NOW)
    assert (short["clients"], short["translated"]) == (1, 1)


# What clocks may do to it.

TEN_YEARS = 3_652 * 86_400


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_sums_the_latest_that_is_believed_tells(*, ahead: bool, turned: bool) -> None:
    far = NOW + (10 * 365 * DAY if ahead else -DAY)
    both = [Entry(NOW, NOW, "believed"), Entry(far, far, "other")]
    one, other = reversed(both) if turned else both
    one.add(other, NOW)
    assert (one.last, one.answered_by) == (NOW, "believed")


@pytest.mark.parametrize(
    ("seen", "last"),
    [
        ([NOW - DAY, NOW + TEN_YEARS], NOW - DAY),
        ([NOW + TEN_YEARS, NOW - DAY], NOW - DAY),
        ([NOW - 60 * DAY, NOW + TEN_YEARS], NOW + TEN_YEARS),
        ([NOW + 2 * TEN_YEARS, NOW + TEN_YEARS], NOW + 2 * TEN_YEARS),
    ],
    ids=["of two", "turned", "nobody else for long", "nobody else"],
)
def test_who_was_last_is_no_time_ahead_if_others_were_seen_lately(
    seen: list[float], last: float
) -> None:
    made = Ledger(100)
    for number, moment in enumerate(seen):
        made.count(record(key=f"{number}"), moment)
    short = summary(made, NOW)
    assert datetime.fromisoformat(short["last"]).timestamp() == last
    assert short["keys"] == sum(moment > NOW - 30 * DAY for moment in seen)


def test_a_clock_that_was_set_back_is_believed() -> None:
    made = Ledger(100)
    for now in (NOW, NOW - 3_600):
        made.count(record(), now)
    (entry,) = made.entries.values()
    assert (entry.first, entry.last) == (NOW - 3_600, NOW - 3_600)
    shown = shown_as_json(made, NOW - 3_600)
    assert [time for time, _ in shown["hours"]] == ["2027-01-15T07:00:00Z", "2027-01-15T08:00:00Z"]


async def ledger_of_a_clock(file: str | None, *moments: float) -> Ledger:
    """What is counted by a journal whose clock shows these one after the other."""
    now = moments[0]
    one = Journal(config.Ledger(file, 100), clock=lambda: now)
    for now in moments:  # noqa: B007  (the clock looks at it)
        one.count(record())
        await one.sync()
    found = await one.ledger()
    await one.close()
    return found


@pytest.mark.parametrize("kept_in", [None, "ledger"])
async def test_a_clock_that_was_ten_years_ahead_for_long_hides_nothing(
    tmp_path: Path, kept_in: str | None
) -> None:
    file = kept_in and str(tmp_path / kept_in)
    ahead = [
        NOW + years + hour * 3_600 for years in (2 * TEN_YEARS, TEN_YEARS) for hour in range(100)
    ]
    since = [NOW + hour * 3_600 for hour in range(100)]
    found = await ledger_of_a_clock(file, NOW, *ahead, *since)
    assert total(found) == 1 + len(ahead) + len(since)
    (entry,) = found.entries.values()
    assert (entry.first, entry.last) == (NOW, since[-1])
    shown = shown_as_json(found, since[-1])
    assert shown["summary"]["last"] == "2027-01-19T11:00:00Z"
    assert len(shown["hours"]) == ledger.HOURS
    assert shown["hours"][-1][0] == "2027-01-19T11:00:00Z"
    assert shown["summary"]["translated"] == 101  # those of this month
    assert len(found.hours.spans) <= 2 * ledger.HOURS


@pytest.mark.parametrize("from_size", [0, 10**9], ids=["compacted", "as it was"])
async def test_a_clock_that_was_behind_at_the_start_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_size: int
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", from_size)
    file = tmp_path / "ledger"
    moments = [NOW - hour * 3_600 for hour in reversed(range(1_000))]
    lines = [line for now in moments for line in counted(record(), now=now).lines()]
    file.write_bytes(b"".join(lines))
    now = NOW - TEN_YEARS
    one = Journal(config.Ledger(str(file), 100), clock=lambda: now)
    await one.sync()
    assert (len(file.read_bytes().splitlines()) == 1) is (from_size == 0)
    now = NOW
    for each in (one, journal_of(file)):
        found = await each.ledger()
        shown = shown_as_json(found)
        assert (shown["summary"]["last"], shown["summary"]["clients"]) == (MOMENT, 1)
        assert [row["last"] for row in shown["entries"]] == [MOMENT]
        (row,) = csv.DictReader(io.StringIO(b"".join(as_csv(found, NOW)).decode(), newline=""))
        assert (row["last"], row["exchanges"]) == (MOMENT, "1000")
        assert (shown["hours"][-1][0], len(shown["hours"])) == (MOMENT, ledger.HOURS)
        await each.close()


def test_who_was_seen_lately_by_a_clock_that_is_right_again_makes_no_room() -> None:
    made = counted(*(record(key=f"{n}") for n in range(100)), now=NOW - DAY)
    for _ in made.merging(counted(record(key="0")), NOW - TEN_YEARS):
        pass
    made.count(record(key="new"), NOW)
    assert "0" in {who.key for who in made.entries}
    assert "1" not in {who.key for who in made.entries}


def test_who_was_seen_at_an_impossible_time_makes_room_first() -> None:
    made = counted(*(record(key=f"{n}") for n in range(90)), now=NOW + TEN_YEARS)
    for n in range(100):
        made.count(record(key=f"now {n}"), NOW + n)
    held = {who.key for who in made.entries}
    assert {f"now {n}" for n in range(100)} & held == {f"now {n}" for n in range(100)}
    assert total(made) == 190


# How ledgers add up.


def test_the_order_in_which_ledgers_are_added_does_not_matter() -> None:
    parts = [
        counted(record(), record(dropped=("a",)), passed()),
        counted(record(streams=True, answered_by="x"), now=NOW + 90),
        counted(record(ended="crashed"), record(key="other"), now=NOW - 86_400),
    ]
    sums = set()
    for order in permutations(line for part in parts for line in part.lines()):
        made = sum_of(order)
        shown = shown_as_json(made)
        shown["entries"].sort(key=lambda row: (row["key"], row["version"]))
        sums.add(json.dumps(shown, sort_keys=True))
    assert len(sums) == 1
    assert total(made) == 6


def line_of_one(last: str) -> str:
    """A line with one entry, last seen at the time that ``last`` writes."""
    text = b"".join(counted(record()).lines()).decode()
    return re.sub(r'"last":[^,]+', f'"last":{last}', text)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"7",
        b'{"ledger":2}',
        b'{"ledger":1,"entries":[["only","four","names","here",{}]]}',
        b'{"ledger":1,"entries":[],"others":null,"hours":[["a",{}]],"days":[]}',
        b'{"ledger":1,"entries":[],"others":null,"hours":[[1e999,{}]],"days":[]}',
        b'{"ledger":1,"entries":[],"others":[1,null],"hours":[],"days":[]}',
        b'{"ledger":1,"entries":[],"others":null,"hours":[[1,{"v":[1]}]],"days":[]}',
        b'{"ledger":1,"entries":[],"others":null,"hours":[[1e15,{"v":[1,2]}]],"days":[]}',
        b'{"ledger":1,"entries":[],"others":null,"hours":[],"days":[[-9,{"v":[1,2]}]]}',
        *(line_of_one(last=time).encode() for time in ("1e999", "1e300", "253402300800", "-1")),
    ],
)
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"line|number|unpack|literal|time"):
        Ledger.read(jsontext.loads(line), 100, NOW)


def test_an_entry_is_read_as_it_was_written() -> None:
    made = counted(record(streams=True, dropped=("a",), bytes_sent=3, ended="drained"))
    (entry,) = made.entries.values()
    assert Entry.read(jsontext.loads(jsontext.dumps(entry.as_json()))) == entry
    earlier = entry.as_json()
    del earlier["latest"]  # older proxies do not write it
    assert Entry.read(earlier) == entry


# The file.


def journal_of(file: Path) -> Journal:
    return Journal(config.Ledger(str(file), 100), clock=lambda: NOW)


async def with_one_exchange(file: Path) -> Path:
    """``file``, once it is a ledger of one exchange."""
    one = journal_of(file)
    one.count(record())
    await one.close()
    return file


async def sums(file: Path) -> int:
    """The number of exchanges that a journal opened now would find in the file."""
    read = journal_of(file)
    found = total(await read.ledger())
    await read.close()
    return found


async def test_all_who_share_a_file_sum_up_alike(tmp_path: Path) -> None:
    one, other = (Journal(config.Ledger(), tmp_path) for _ in range(2))
    for count in range(1, 5):
        for each in (one, other):
            each.count(record())
            each.count(passed())
        assert total(await one.ledger()) == 4 * count - 2  # the other has not written yet
        assert total(await other.ledger()) == 4 * count
        assert shown_as_json(await one.ledger()) == shown_as_json(await other.ledger())
    await one.close()
    await other.close()
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o600


async def test_who_asks_while_the_file_is_waited_for_shares_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may wait for seconds, and a stop would wait for all of them."""
    looked, go_on = 0, threading.Event()
    look = ledgerfile.File.read_new

    def patient(file: ledgerfile.File) -> tuple[bool, list[bytes]]:
        nonlocal looked
        looked += 1
        assert go_on.wait(PATIENCE)
        return look(file)

    monkeypatch.setattr(ledgerfile.File, "read_new", patient)
    one = journal_of(tmp_path / "ledger")
    one.count(record())
    asking = [asyncio.create_task(one.ledger())]
    await until(lambda: looked == 1)
    asking += [asyncio.create_task(one.ledger()) for _ in range(20)]
    one.count(record())
    await asyncio.sleep(0)
    for left in asking[1:-1]:
        left.cancel()
    go_on.set()
    assert total(await asking[-1]) == 2
    await one.close()
    assert looked == 3


def blocked(monkeypatch: pytest.MonkeyPatch, call: str) -> threading.Event:
    """Have a method of the file block until this event is set, and its callers soon give up."""
    go_on = threading.Event()
    truly = getattr(ledgerfile.File, call)

    def waiting(*given: Any) -> Any:
        assert go_on.wait(PATIENCE)
        return truly(*given)

    monkeypatch.setattr(ledgerfile.File, call, waiting)
    monkeypatch.setattr(journal, "DISK_PATIENCE", 0.01)
    return go_on


async def test_who_asks_while_the_disk_stands_still_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = blocked(monkeypatch, "append")
    set_up = settings("http://127.0.0.1:9", more={"ledger": {"file": str(tmp_path / "ledger")}})
    async with running(App(set_up)) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/v1/models")
        refused = await client.get("/-/ledger")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "disk does not answer" in refused.json()["error"]["message"]
        monkeypatch.undo()
        go_on.set()
        assert (await client.get("/-/ledger")).status_code == 200


STANDS_STILL = """
import asyncio, sys, threading
from proxy import config
from proxy.ledger import journal, ledgerfile
from proxy.observe.record import Record

ledgerfile.File.append = lambda *_: threading.Event().wait()
journal.DISK_PATIENCE = 0.1

async def live():
    one = journal.Journal(config.Ledger(file=sys.argv[1]))
    one.count(Record("POST", "/v1/complete"))
    await one.close()

asyncio.run(live())
"""


def test_no_end_waits_for_a_disk_that_stands_still(tmp_path: Path) -> None:
    ended = subprocess.run(
        (sys.executable, "-c", STANDS_STILL, tmp_path / "ledger"),
        cwd=ROOT,
        check=True,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    )
    assert "what was counted last may be lost" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_what_was_given_up_is_written_when_the_disk_goes_on_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = blocked(monkeypatch, "append")
    files = opened()
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    one = journal_of(tmp_path / "ledger")
    one.count(record())
    await one.close()
    go_on.set()
    await until(lambda: asyncio.all_tasks() == tasks and threading.active_count() == threads)
    assert opened() == files
    monkeypatch.undo()
    assert await sums(tmp_path / "ledger") == 1


def opened() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


async def test_a_start_does_not_wait_for_a_disk_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did, for ever, and a process that starts heeds no signal."""
    file = await with_one_exchange(tmp_path / "ledger")
    go_on = blocked(monkeypatch, "read_new")
    set_up = settings("http://127.0.0.1:9", more={"ledger": {"file": str(file)}})
    async with running(App(set_up)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/models")).status_code == 502
        monkeypatch.undo()
        go_on.set()
        assert (await client.get("/-/ledger")).json()["summary"]["translated"] == 1


async def test_who_asks_after_the_end_has_no_file_opened_anew(tmp_path: Path) -> None:
    """At a port of their own all endpoints answer to the very end."""
    files, threads = opened(), threading.active_count()
    one = journal_of(tmp_path / "ledger")
    one.count(record())
    await one.close()
    assert total(await one.ledger()) == 1
    await until(lambda: threading.active_count() == threads)
    assert opened() == files


async def test_a_disk_that_fails_last_of_all_closes_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one on another machine does; the number of the file is the next one's then."""
    close = os.close

    def failing(opened: int) -> None:
        close(opened)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    one = journal_of(tmp_path / "ledger")
    one.count(record())
    await one.sync()
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        await one.close()
    assert "Input/output error; what was counted last may be lost" in caplog.text
    with (tmp_path / "other").open("wb") as other:
        await one.close()
        os.fstat(other.fileno())


async def test_it_is_written_by_itself_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH", 0.01)
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
    one.count(record())
    await until(lambda: file.read_bytes().count(b"\n") == 2)
    assert await sums(file) == 2
    await one.close()


@pytest.mark.parametrize(("cut", "whole"), [(1, 2), (2, 1), (40, 1)])
async def test_a_torn_line_is_passed_over_and_what_follows_is_not(
    tmp_path: Path, cut: int, whole: int
) -> None:
    file = tmp_path / "ledger"
    for _ in range(2):
        one = journal_of(file)
        one.count(record())
        await one.close()
    file.write_bytes(file.read_bytes()[:-cut])
    assert await sums(file) == whole
    after = journal_of(file)
    after.count(record())
    await after.close()
    assert await sums(file) == whole + 1


async def test_a_line_of_something_else_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    with file.open("ab") as opened:
        opened.write(b'\x00\xff\n\n{"ledger":1}\n[1]\n')
    assert await sums(file) == 1
    assert "1 lines" in caplog.text


async def test_a_disk_that_is_full_is_logged_once_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ledger"
    file.symlink_to("/dev/full")
    one = journal_of(file)
    for count in range(1, 4):
        one.count(record())
        assert total(await one.ledger()) == count
    assert caplog.text.count("cannot be written") == 1
    assert await one.ledger() is await one.ledger()  # or each who asks, and reads slowly, kept one
    file.unlink()
    assert total(await one.ledger()) == 3
    await one.close()
    assert await sums(file) == 3


async def test_what_could_not_be_written_is_tried_again_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "FLUSH", 0.01)
    monkeypatch.setattr(journal, "RETRY", 0.01)
    file = tmp_path / "ledger"
    file.symlink_to("/dev/full")
    one = journal_of(file)
    one.count(record())
    await until(lambda: "cannot be written" in caplog.text)
    file.unlink()
    await until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
    assert await sums(file) == 1
    await one.close()


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size``, as on a full disk: the last write is a part."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


async def test_a_full_disk_hides_nothing_that_others_have_written(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one, other = journal_of(file), journal_of(file)
    assert total(await one.ledger()) == 0
    other.count(record())
    await other.sync()
    one.count(record())
    with full_at(file.stat().st_size):
        assert total(await one.ledger()) == 2
        one.count(record())
        assert total(await one.ledger()) == 3
    for each in (one, other):
        assert total(await each.ledger()) == 3
        await each.close()


async def test_a_line_for_which_there_is_no_room_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    written = file.read_bytes()
    with full_at(len(written) + 9):
        one.count(record())
        assert total(await one.ledger()) == 2
        assert file.read_bytes() == written
    await one.close()
    assert await sums(file) == 2


def test_what_others_have_appended_is_not_lost(tmp_path: Path) -> None:
    (line,) = Ledger(100).lines()
    mine, others = (ledgerfile.File(tmp_path / "ledger") for _ in range(2))
    try:
        mine.append([line])
        assert mine.read_new() == (True, [line[:-1]])
        others.append([line])
        mine.compact([line])
        assert mine.path.read_bytes() == line * 2
        mine.path.write_bytes(line * 2 + line[:-9])  # as a crash leaves it
        mine.append([line])
        assert others.read_new()[1][-1] == line[:-1]
    finally:
        mine.close()
        others.close()


async def test_a_torn_line_on_a_full_disk_hides_nothing(tmp_path: Path) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    with file.open("ab") as opened:
        opened.write(b'{"ledger":1,"ent')
    with full_at(file.stat().st_size):
        assert await sums(file) == 1
    assert await sums(file) == 1


async def test_what_was_read_before_reading_failed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    monkeypatch.setattr(ledgerfile, "PART", 100)
    pread = os.pread
    read: list[int] = []

    def failing(opened: int, length: int, start: int) -> bytes:
        if length == ledgerfile.PART:
            read.append(start)
            if len(read) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(opened, length, start)

    monkeypatch.setattr(os, "pread", failing)
    other = journal_of(file)
    assert total(await other.ledger()) == 0
    assert total(await other.ledger()) == 1
    await other.close()


async def test_a_file_that_is_emptied_while_it_is_read_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    size, pread = file.stat().st_size, os.pread

    def emptied(opened: int, length: int, start: int) -> bytes:
        if length == size:
            os.truncate(file, 0)
        return pread(opened, length, start)

    monkeypatch.setattr(os, "pread", emptied)
    other = journal_of(file)
    assert total(await other.ledger()) == 0
    monkeypatch.undo()
    other.count(record())
    assert total(await other.ledger()) == 1
    await other.close()


async def test_a_file_that_has_grown_is_written_anew_under_the_others_feet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    one, other = journal_of(file), journal_of(file)
    largest = 0
    for count in range(1, 101):
        for each in (one, other):
            each.count(record())
            await each.sync()
        largest = max(largest, file.stat().st_size)
        assert total(await one.ledger()) == 2 * count
    assert largest < 10_000 < 200 * len(b"".join(counted(record()).lines()))
    assert total(await other.ledger()) == 200
    await one.close()
    await other.close()
    assert await sums(file) == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["ledger"]  # noqa: PTH208


async def test_a_file_that_was_emptied_begins_anew_though_it_is_longer_at_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    file.write_bytes(b"")
    for number in range(9):
        one.count(record(key=f"{number}"))
    assert total(await one.ledger()) == 9
    await one.close()
    assert await sums(file) == 9


@contextmanager
def in_place_of(file: Path, kind: str) -> Iterator[None]:
    """Have something else bear the name of a file for a while."""
    away = file.with_name("away")
    file.rename(away)
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "foreign":
            file.write_text("my own notes")
        case "loop":
            file.symlink_to(file)
        case _:
            file.symlink_to(kind)
    yield
    if kind == "directory":
        file.rmdir()
    else:
        file.unlink()
    away.rename(file)


@pytest.mark.parametrize(
    "kind", ["pipe", "directory", "foreign", "loop", "/dev/zero", "/dev/full", "/dev/null"]
)
async def test_what_is_no_ledger_takes_nothing_and_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    with in_place_of(file, kind):
        async with asyncio.timeout(PATIENCE):
            for count in range(2, 5):
                one.count(record(key=f"{count}"))
                assert total(await one.ledger()) == count
        if kind == "foreign":
            assert file.read_text() == "my own notes"
    assert caplog.text.count("cannot be written") == 1
    assert total(await one.ledger()) == 4
    await one.close()
    assert await sums(file) == 4


@pytest.mark.parametrize("kept_in", [None, "ledger"])
async def test_many_entries_leave_time_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_in: str | None
) -> None:
    monkeypatch.setattr(journal, "SLICE", 0.0)
    one = Journal(config.Ledger(kept_in and str(tmp_path / kept_in), 1_000), clock=lambda: NOW)
    for number in range(1_100):
        one.count(record(key=f"{number}"))
    syncing = asyncio.create_task(one.sync())
    turns = 0
    while not syncing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1_000 / ledger.STEP
    found = await one.ledger()
    assert total(found) == 1_100
    assert max(line.count(b'"first"') for line in found.lines()) <= ledger.STEP + 1  # the others
    for parts in (as_json(found, NOW), as_csv(found, NOW)):
        assert max(part.count(b"anthropic-python") for part in parts) <= report.PART
    await one.close()


@pytest.mark.parametrize("way", [Path.unlink, lambda file: os.truncate(file, 0)])
async def test_a_file_that_is_taken_away_or_emptied_begins_anew(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    for _ in range(3):
        one.count(record())
        await one.sync()
    way(file)
    one.count(record())
    assert total(await one.ledger()) == 1
    await one.close()
    assert await sums(file) == 1


async def test_a_ledger_that_begins_anew_is_another(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    seen = set()
    for count in range(1, 5):
        one.count(record())
        await one.ledger()
        seen.add(one.revision)
        file.unlink()
        await one.ledger()
        seen.add(one.revision)
        assert len(seen) == 2 * count
    await one.close()


async def test_a_file_that_cannot_be_replaced_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    (tmp_path / "ledger.new").mkdir()
    one = journal_of(file)
    for count in range(1, 30):
        one.count(record())
        assert total(await one.ledger()) == count
    assert 0 < caplog.text.count("cannot be written anew") < 5
    await one.close()
    assert await sums(file) == 29


async def test_a_file_that_is_written_anew_stays_where_it_is_and_who_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    volume, names = tmp_path / "volume", tmp_path / "names"
    volume.mkdir()
    names.mkdir()
    file, link, another = volume / "ledger", names / "link", tmp_path / "another"
    file.touch(0o640)
    link.symlink_to(file)
    another.write_text("of somebody else")
    (volume / "ledger.new").symlink_to(another)
    one = journal_of(link)
    for _ in range(30):
        one.count(record())
        await one.sync()
    await one.close()
    assert link.readlink() == file
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_size < 10_000
    assert await sums(file) == 30
    assert another.read_text() == "of somebody else"
    assert [each.name for each in (*volume.iterdir(), *names.iterdir())] == ["ledger", "link"]


@pytest.mark.parametrize("why", [errno.EPERM, errno.EINVAL], ids=["no right", "no such user"])
async def test_a_file_that_is_written_anew_belongs_to_whom_it_did(
    why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def refused(_: int, uid: int, gid: int) -> None:
        given.append((uid, gid))
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    monkeypatch.setattr(os, "fchown", refused)
    file = tmp_path / "ledger"
    one = journal_of(file)
    for _ in range(30):
        one.count(record())
        await one.sync()
    await one.close()
    assert (-1, file.stat().st_gid) in given
    assert (file.stat().st_uid, -1) in given
    assert file.stat().st_size < 10_000
    assert await sums(file) == 30


def test_a_file_whose_mode_cannot_be_kept_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    file = ledgerfile.File(tmp_path / "ledger")
    file.read_new()
    before = opened()
    with pytest.raises(PermissionError):
        file.compact([])
    assert opened() == before
    file.close()


async def test_a_file_with_lines_of_a_later_form_loses_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    later = b'{"ledger":2,"entries":"in another way"}\n' * 100
    file.write_bytes(later)
    one = journal_of(file)
    one.count(record())
    assert total(await one.ledger()) == 1
    assert file.read_bytes().startswith(later)
    assert "100 lines of" in caplog.text
    file.unlink()
    file.write_bytes(b"".join(counted(record()).lines()) * 100)
    assert total(await one.ledger()) == 100
    assert file.stat().st_size < 2_000
    await one.close()


async def test_a_lock_that_another_keeps_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledgerfile, "LOCK_PATIENCE", 0.01)
    file = tmp_path / "ledger"
    holder = ledgerfile.File(file)
    one = journal_of(file)
    one.count(record())
    with holder.locked():
        assert total(await one.ledger()) == 1
    assert "it is locked by another" in caplog.text
    assert total(await one.ledger()) == 1
    holder.close()
    await one.close()
    assert await sums(file) == 1


# The process.


def test_a_file_that_cannot_be_written_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my own notes")
    cases = {
        tmp_path: "cannot be written: Is a directory",
        tmp_path / "missing" / "ledger": "cannot be written: No such file or directory",
        Path("/dev/null"): "cannot be written: it is no regular file",
        foreign: "cannot be written: it is no ledger: name another file, or a new one",
    }
    for path, why in cases.items():
        with pytest.raises(OSError, match=re.escape(f"ledger.file {path} {why}")):
            journal.check(config.Ledger(str(path)))
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9", ledger={"file": str(tmp_path)})
    assert main(["serve", "--config", str(file)]) == 1
    message = f"anthropic-version-proxy: ledger.file {tmp_path} cannot be written: Is a directory\n"
    assert capfd.readouterr().err == message
    assert foreign.read_text() == "my own notes"


def test_who_may_not_write_the_file_is_told_as_whom_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:  # the suite may run as root, who is refused nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(ledgerfile.File, "locked", refused)
    message = (
        f"{tmp_path} cannot be written: Permission denied: uid {os.geteuid()} must be allowed to"
    )
    with pytest.raises(OSError, match=re.escape(message)):
        journal.check(config.Ledger(str(tmp_path / "ledger")))


async def answer_all(side: Side) -> None:
    """Answer every request with a short stream."""
    while True:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))


async def ask(url: str, times: int) -> None:
    """Stream completions as an old client does, each on a connection of its own."""
    for _ in range(times):
        async with await connect(url) as client:
            await client.say(old_request())
            await client.until(b"[DONE]\r\n\r\n\r\n0\r\n\r\n")


async def seen(url: str) -> int:
    """How many exchanges the ledger tells of, on a connection of its own."""
    async with httpx.AsyncClient(verify=PLAIN) as client:
        answer = (await client.get(f"{url}/-/ledger")).raise_for_status().json()
    return sum(entry["exchanges"] for entry in answer["entries"])


async def test_the_kill_of_a_process_costs_a_second_at_most(tmp_path: Path) -> None:
    file, kept_in = tmp_path / "proxy.yaml", tmp_path / "ledger.jsonl"
    async with raw_upstream(answer_all) as upstream:
        write_config(file, upstream, ledger={"file": str(kept_in)})
        async with served("serve", "--config", str(file)) as proxy:
            await ask(proxy.url, 2)
            await until(lambda: kept_in.stat().st_size > 0)
            proxy.signal(signal.SIGKILL)
            await proxy.ended()
    assert await sums(kept_in) == 2


async def test_an_orderly_end_costs_nothing(tmp_path: Path) -> None:
    kept_in = tmp_path / "ledger.jsonl"
    for before in (0, 1):
        async with proxy(ledger={"file": str(kept_in)}) as (_, url):
            assert await seen(url) == before
            await ask(url, 1)
    assert await sums(kept_in) == 2


async def test_workers_add_up_whichever_answers(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    async with raw_upstream(answer_all) as upstream:
        write_config(file, upstream)
        async with served("serve", "--config", str(file), "--workers", "2") as proxy:
            await ask(proxy.url, 20)
            async with asyncio.timeout(PATIENCE):
                while await seen(proxy.url) < 20:  # noqa: ASYNC110  (another process writes)
                    await asyncio.sleep(0.05)
            assert [await seen(proxy.url) for _ in range(10)] == [20] * 10
            assert await proxy.stopped() == 0


# The endpoint.


@asynccontextmanager
async def proxy(**more: dict[str, Any]) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    async with raw_upstream(answer_all) as upstream:
        app = App(settings(upstream, more=more))
        async with running(app) as url, httpx.AsyncClient(verify=PLAIN, base_url=url) as client:
            yield client, url


async def test_an_exchange_stands_in_the_ledger_when_its_answer_is_over() -> None:
    async with proxy() as (client, url):
        await ask(url, 2)
        (entry,) = (await client.get("/-/ledger")).json()["entries"]
    assert entry["client"] == "anthropic-python/0.2.8"
    assert entry["route"] == "complete"
    assert (entry["exchanges"], entry["streams"], entry["translated"]) == (2, 2, 2)
    assert entry["ended"] == {"complete": 2}
    assert entry["features"] == {"whole text in every event": 2}
    assert entry["key"] == "8254c329a928"


async def test_the_first_who_asks_gets_it_though_nothing_more_can_be_opened(tmp_path: Path) -> None:
    async with starved(tmp_path / "proxy.yaml") as (_, client):
        await client.say(b"GET /-/ledger HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_the_form_is_the_one_that_is_asked_for() -> None:
    json_, csv_, html = "application/json", "text/csv; charset=utf-8", "text/html; charset=utf-8"
    forms = [
        ("*/*", "", json_),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "", html),
        ("text/csv", "", csv_),
        ("text/html", "?format=json", json_),
        ("text/html", "?format=csv", csv_),
        ("application/json", "?format=html", html),
    ]
    async with proxy() as (client, _):
        for accept, query, content_type in forms:
            answer = await client.get(f"/-/ledger{query}", headers={"accept": accept})
            assert answer.status_code == 200
            assert answer.headers["content-type"] == content_type
            assert answer.headers["vary"] == "accept"
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_however_many_read_it_others_are_served_between_two_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = 0
    made = []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def parts(_: Ledger, __: float) -> Iterator[bytes]:
        for number in range(20):
            made.append(turns)
            yield b"%d\n" % number

    monkeypatch.setattr(page, "as_csv", parts)
    async with proxy() as (client, _):
        turning = asyncio.create_task(turn())
        await asyncio.gather(*(client.get("/-/ledger?format=csv") for _ in range(10)))
        turning.cancel()
    assert len(set(made)) == len(made) == 10 * 20


async def test_only_so_many_read_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen hundred that took nothing of it had the process grow by a gigabyte."""
    go_on = False

    def parts(_: Ledger, __: float) -> Iterator[bytes]:
        while not go_on:
            yield b""
        yield b"all\n"

    monkeypatch.setattr(page, "AT_ONCE", 2)
    monkeypatch.setattr(page, "as_csv", parts)
    csv_ = "/-/ledger?format=csv"
    async with proxy() as (client, _), client.stream("GET", csv_) as first:
        async with client.stream("GET", csv_) as leaving:
            refused = await client.get("/-/ledger")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert leaving.status_code == 200
        async with asyncio.timeout(PATIENCE):
            while (await client.get("/-/ledger")).status_code != 200:
                pass
        go_on = True
        assert await first.aread() == b"all\n"
        assert (await client.get(csv_)).content == b"all\n"


async def test_what_has_not_changed_is_not_sent_again() -> None:
    async with proxy() as (client, url):
        first = await client.get("/-/ledger")
        again = {"if-none-match": first.headers["etag"]}
        assert (await client.get("/-/ledger", headers=again)).status_code == 304
        assert (await client.get("/-/ledger?format=csv", headers=again)).status_code == 200
        await ask(url, 1)
        assert (await client.get("/-/ledger", headers=again)).status_code == 200


async def test_what_only_time_has_changed_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (client, url):
        await ask(url, 1)
        first = await client.get("/-/ledger")
        assert first.json()["summary"]["clients"] == 1
        later = time.time() + 40 * DAY
        monkeypatch.setattr(time, "time", lambda: later)
        again = await client.get("/-/ledger", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 200
        assert again.json()["summary"]["clients"] == 0


async def test_what_has_changed_is_sent_though_no_file_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    async with proxy(ledger={"file": str(file)}) as (client, url):
        file.unlink()
        file.symlink_to("/dev/full")
        tags = set()
        for count in range(1, 4):
            await ask(url, 1)
            answer = await client.get("/-/ledger")
            assert answer.json()["entries"][0]["exchanges"] == count
            tags.add(answer.headers["etag"])
        assert len(tags) == 3
        file.unlink()


async def test_the_top_leads_to_the_page_and_an_unknown_form_nowhere() -> None:
    async with proxy() as (client, _):
        top = await client.get("/-/")
        assert (top.status_code, top.headers["location"]) == (307, "ledger?format=html")
        wrong = await client.get("/-/ledger?format=xml")
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"] == "format: must be one of json, csv, html"


async def test_without_admin_there_is_no_ledger() -> None:
    async with proxy(admin={"enabled": False}) as (client, _):
        for path in ("/-/", "/-/ledger"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/-/playground", json={})).status_code == 404


def test_a_reload_keeps_the_ledger_where_it_is(tmp_path: Path) -> None:
    before = settings("http://127.0.0.1:9", more={"ledger": {"entries": 200}})
    now = settings("http://127.0.0.1:9", more={"ledger": {"file": str(tmp_path / "new")}})
    read = read_again(lambda: now, Metrics(None, None), before)
    assert read is not None
    assert read.ledger == before.ledger
    assert not os.listdir(tmp_path)  # noqa: PTH208
