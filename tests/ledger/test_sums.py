"""How ledgers add up, in whichever order, and how their lines are read."""

from __future__ import annotations

import json
import re
from itertools import permutations

import pytest

from ledger.harness import NOW, counted, passed, record, shown_as_json, sum_of, total
from proxy.core import jsontext
from proxy.ledger.ledger import Ledger
from proxy.ledger.tally import Entry


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
