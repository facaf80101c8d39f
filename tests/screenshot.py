"""Takes the picture of the README: the page after 70 days of calls by invented clients.

python tests/screenshot.py FILE [light|dark] [WIDTH HEIGHT]
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from proxy.app import App
from proxy.ledger.tally import DAY
from proxy.observe.record import Record
from proxy.server.server import running
from support import settings
from support.browser import browser

DAYS = 70


class Program(NamedTuple):
    """Somebody who calls ``most`` times a day, ever more or, if ``leaving``, ever less."""

    client: str
    key: str
    model: str
    version: str
    most: int
    leaving: bool
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


PROGRAMS = (
    Program("anthropic-python/0.2.8", "a1f2c10bf3d1", "claude-v1", "2023-01-01", 36, leaving=True),
    Program("anthropic-python/0.2.8", "a1f2c10bf3d1", "claude-2", "2023-01-01", 14, leaving=True),
    Program(
        *("langchain/0.0.224", "77d0c95e0b12", "claude-v1.3", "2023-01-01", 22),
        leaving=True,
        dropped=("top_p",),
        notes=("stop_sequences: the blank ones are enforced by the proxy",),
    ),
    Program(
        *("python-requests/2.31.0", "c93a9be0771f", "claude-instant-v1", "2023-01-01", 5),
        leaving=True,
        notes=("tags: left out, it has no effect",),
    ),
    Program("anthropic-python/0.125.0", "5be0c93a7712", "-", "2023-06-01", 180, leaving=False),
    Program("anthropic-typescript/1.12.0", "d1b2077fa0c4", "-", "2026-10-21", 70, leaving=False),
)


def invent(app: App, now: float) -> None:
    """Tell the ledger of all that these have called up to now."""
    clock = [0.0]
    chance = random.Random(7)  # noqa: S311  (it is for looks)
    app.journal._clock = lambda: clock[0]
    for day in range(DAYS):
        for program in PROGRAMS:
            part = 1.05 - day / DAYS if program.leaving else (day + 10) / DAYS
            for _ in range(int(chance.random() * program.most * part + 0.5)):
                clock[0] = now - (DAYS - 1 - day + chance.random()) * DAY
                app.journal.count(exchange(program, chance))


def exchange(program: Program, chance: random.Random) -> Record:
    """One of a program's exchanges."""
    old = program.leaving
    made = Record("POST", "/v1/complete")
    made.route = "complete" if old else "/{rest:path}"
    made.client, made.key, made.model = program.client, program.key, program.model
    made.client_version = program.version
    made.upstream_version = "2023-06-01" if old else program.version
    made.changes = ("CompletionsBecameIncremental", "CompleteThroughMessages") if old else ()
    made.answered_by = "claude-haiku-4-5-20251001" if old else "-"
    made.streams = old and chance.random() < 0.7
    made.dropped, made.notes = program.dropped, program.notes
    made.ended = "upstream refused" if chance.random() < 0.02 else "complete"
    return made


async def main(file: str, scheme: str = "light", width: str = "1100", height: str = "910") -> None:
    """Take the picture."""
    app = App(settings("http://127.0.0.1:9"))
    invent(app, time.time() - 240)
    with TemporaryDirectory() as profile:
        async with running(app) as url, browser(Path(profile)) as page:
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await page("Emulation.setEmulatedMedia", features=features)
            await page("Page.navigate", url=f"{url}/-/ledger?format=html")
            await page.until("document.querySelector('#made').textContent")
            await page.screenshot(Path(file), int(width), int(height))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
