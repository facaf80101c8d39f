"""The endpoint ``/-/ledger``: who gets it, in which form, and when it is sent again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.harness import ask, proxy
from proxy.admin import page
from proxy.ledger.ledger import Ledger
from proxy.ledger.tally import DAY
from proxy.observe.metrics import Metrics
from proxy.server.reload import read_again
from support import PATIENCE, settings
from support.processes import starved

pytestmark = pytest.mark.anyio


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
