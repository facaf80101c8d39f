"""Installs places, in a process beside the tests, until its standard input is closed.

Its argument is the list of places, in JSON. As soon as a place is installed, or has failed, it
prints a line of JSON with its name and the error, which is empty if there was none. Nobody writes
to its standard input; when that is closed, running installations are killed and leave nothing
behind. So no installation outlives the tests, in whatever way they end.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from packages.places import CACHE, Place

AT_ONCE = 2
"""How many installations run at the same time."""

INSTALL_WITHIN = 240
"""Seconds that an installation may take."""

LOOK_AGAIN = 0.2
"""Seconds until a place that another process installs is looked at again."""


async def install_all(places: Iterable[Place]) -> None:
    """Install them, starting in this order, and print a report of each."""
    free = asyncio.Semaphore(AT_ONCE)

    async def report(place: Place) -> None:
        async with free:
            line = json.dumps([place.name, await install(place)])
            print(line, flush=True)  # noqa: T201  (whoever started it reads it)

    async with asyncio.TaskGroup() as group:
        for place in places:
            group.create_task(report(place))


async def install(place: Place) -> str:
    """Install a place unless it exists; returns the error, or nothing."""
    if place.path.exists():
        return ""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        async with alone(place):
            return "" if place.path.exists() else await install_anew(place)
    except OSError as error:
        return str(error)


@asynccontextmanager
async def alone(place: Place) -> AsyncIterator[None]:
    """Keep other processes from installing the place: each worker of pytest-xdist would."""
    with Path(f"{place.path}.lock").open("w") as lock:  # noqa: ASYNC230  (quick)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(LOOK_AGAIN)
            else:
                break
        yield


async def install_anew(place: Place) -> str:
    """Install a place that does not exist; returns the error, or nothing."""
    with TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as scratch:
        new = Path(scratch, "new")
        new.mkdir()  # noqa: ASYNC240  (quick)
        if trouble := await run(place.command(new), scratch):
            return trouble
        new.rename(place.path)  # noqa: ASYNC240  (quick)
        return ""


async def run(command: tuple[str, ...], scratch: str) -> str:
    """Run a command to its end; returns the error, or nothing."""
    foreign = (
        "PYTHON",
        "NODE_PATH",
        "VIRTUAL_ENV",
    )  # these would let packages of other environments in
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
                os.killpg(process.pid, signal.SIGKILL)  # with all its children
            await process.wait()
    lines = stderr.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-2:]) or "it failed" if process.returncode else ""


async def install_until_stdin_closes(places: Iterable[Place]) -> None:
    """Install them all; give up when standard input is closed before that."""
    installing = asyncio.create_task(install_all(places))

    def end() -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin)
        installing.cancel()

    asyncio.get_running_loop().add_reader(sys.stdin, end)
    with suppress(asyncio.CancelledError):
        await installing


if __name__ == "__main__":
    asked = [Place(name, tool, tuple(more)) for name, tool, more in json.loads(sys.argv[1])]
    asyncio.run(install_until_stdin_closes(asked))
