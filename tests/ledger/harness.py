"""Exchanges for a ledger to count, and what is read of it."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy import config
from proxy.app import App
from proxy.core import jsontext
from proxy.ledger import journal, ledgerfile
from proxy.ledger.journal import Journal
from proxy.ledger.ledger import Ledger
from proxy.ledger.report import as_json
from proxy.observe.record import Record
from proxy.server.server import running
from support import (
    PATIENCE,
    PLAIN,
    answer_all,
    connect,
    old_request,
    raw_upstream,
    settings,
)

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


def opened() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


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


@asynccontextmanager
async def proxy(**more: dict[str, Any]) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    async with raw_upstream(answer_all) as upstream:
        app = App(settings(upstream, more=more))
        async with running(app) as url, httpx.AsyncClient(verify=PLAIN, base_url=url) as client:
            yield client, url
