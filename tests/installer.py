"""Installs places for as long as it is listened to: a process of its own beside the tests.

Its argument names the places, in JSON. On standard output it tells of each place once, as soon as
it is there or cannot be: a line of JSON with its name and what went wrong. Nobody writes to its
standard input; when that ends, whatever is being installed is killed and leaves nothing behind. So
no installation outlives the tests, in whatever way they end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from places import CACHE, Place

AT_ONCE = 2
"""Installations at a time."""

INSTALL_WITHIN = 240
"""Seconds that an installation may take."""


async def install_all(places: Iterable[Place]) -> None:
    """Install them in this order, and tell of each."""
    free = asyncio.Semaphore(AT_ONCE)

    async def tell(place: Place) -> None:
        async with free:
            report = json.dumps([place.name, await install(place)])
            print(report, flush=True)  # noqa: T201  (whoever started it reads it)

    async with asyncio.TaskGroup() as group:
        for place in places:
            group.create_task(tell(place))


async def install(place: Place) -> str:
    """Fill a place unless it is there; returns what went wrong."""
    if place.path.exists():
        return ""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch, "new")
            new.mkdir()  # noqa: ASYNC240  (it waits for nothing)
            trouble = await run(place.command(new), scratch)
            return trouble or move(new, place.path)
    except OSError as error:
        return str(error)


def move(new: Path, path: Path) -> str:
    """Rename into place, unless a run that was faster has done so; returns what went wrong."""
    try:
        new.rename(path)
    except OSError as error:
        return "" if path.exists() else str(error)
    return ""


async def run(command: tuple[str, ...], scratch: str) -> str:
    """Run a command to its end; returns what went wrong."""
    foreign = ("PYTHON", "NODE_PATH", "VIRTUAL_ENV")  # they would let other environments in
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environ | {"TMPDIR": scratch},
        process_group=0,
    )
    try:
        async with asyncio.timeout(INSTALL_WITHIN):
            _, stderr = await process.communicate()
    except TimeoutError:
        return f"it took over {INSTALL_WITHIN} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it began is in its group
            await process.wait()
    told = stderr.decode(errors="replace").strip().splitlines()
    return " ".join(told[-2:]) or "it failed" if process.returncode else ""


async def until_nobody_listens(places: Iterable[Place]) -> None:
    """Install them all, unless standard input ends before."""
    installing = asyncio.create_task(install_all(places))

    def end() -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin)
        installing.cancel()

    asyncio.get_running_loop().add_reader(sys.stdin, end)
    with suppress(asyncio.CancelledError):
        await installing


if __name__ == "__main__":
    asked = [Place(name, tool, tuple(more)) for name, tool, more in json.loads(sys.argv[1])]
    asyncio.run(until_nobody_listens(asked))
