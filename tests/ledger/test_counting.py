"""What is counted, and how it is told: whoever used what, when, and what became of it."""

from __future__ import annotations

from ledger.harness import NOW, counted, passed, record, shown_as_json, summary
from proxy.ledger import ledger
from proxy.ledger.ledger import NOBODY, Ledger


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
