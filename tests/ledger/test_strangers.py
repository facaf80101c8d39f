"""What strangers may do to the ledger: whatever they call themselves, little of it is kept."""

from __future__ import annotations

import csv
import io

import pytest

from ledger.harness import NOW, counted, record, shown_as_json, sum_of, summary, total
from proxy.ledger import ledger, report, tally
from proxy.ledger.ledger import Ledger, Who
from proxy.ledger.report import as_csv, as_json
from proxy.ledger.tally import DAY, OTHER


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
