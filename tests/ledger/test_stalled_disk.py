"""A disk that stands still keeps no start and no end waiting, and loses nothing that it takes."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from ledger.harness import blocked, journal_of, opened, record, sums, total, with_one_exchange
from proxy.app import App
from proxy.ledger import ledgerfile
from proxy.server.server import running
from support import PATIENCE, settings, until
from support.processes import ROOT

pytestmark = pytest.mark.anyio


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
