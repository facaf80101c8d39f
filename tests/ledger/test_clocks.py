"""What clocks may do to the ledger: one that is wrong for a while hides nothing."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path

import pytest

from ledger.harness import MOMENT, NOW, counted, journal_of, record, shown_as_json, summary, total
from proxy import config
from proxy.ledger import journal, ledger
from proxy.ledger.journal import Journal
from proxy.ledger.ledger import Ledger
from proxy.ledger.report import as_csv
from proxy.ledger.tally import DAY, Entry

pytestmark = pytest.mark.anyio

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
