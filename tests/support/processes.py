"""The commands as real processes, whose log lines tests can wait for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from support import PATIENCE, Side, connect

ROOT = Path(__file__).parents[2]


class Served:
    """A command that serves: its address, its process, and what it has logged so far."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.url = ""
        self.admin = ""
        """The address of /-/, which may be another."""
        self.said: list[str] = []
        """The lines on standard error that were read so far."""
        self.printed = ""
        self.process = process
        self._stdout = process.stdout
        self._stderr = process.stderr

    async def begun(self) -> None:
        """Wait for the line that holds the address."""
        async with asyncio.timeout(PATIENCE):
            self.printed = (await self._stdout.readline()).decode()
        addresses = re.findall(r"http://\S+", self.printed)
        assert addresses, self.printed + (await self._stderr.read()).decode()
        self.url, self.admin = addresses[0], addresses[-1]

    async def logged(self, *texts: str) -> str:
        """Wait for the next line of the log that holds all of these."""
        async with asyncio.timeout(PATIENCE):
            while line := (await self._stderr.readline()).decode():
                self.said.append(line)
                if all(text in line for text in texts):
                    return line
        raise AssertionError(f"{texts} was never logged: {''.join(self.said)}")

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal; with ``group`` to its whole process group, as a terminal does."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    async def silent(self) -> None:
        """Read until it, and every process that it started, has closed standard error."""
        async with asyncio.timeout(PATIENCE):
            self.said.append((await self._stderr.read()).decode())

    async def ended(self) -> int:
        """Wait until it ends; returns the exit code."""
        await self.silent()
        async with asyncio.timeout(PATIENCE):
            self.printed += (await self._stdout.read()).decode()
            return await self.process.wait()

    async def stopped(self) -> int:
        """Send SIGTERM and wait until it ends; returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()


@asynccontextmanager
async def served(
    *arguments: str, within: Sequence[str] = (), **environ: str
) -> AsyncIterator[Served]:
    """Run a command that serves; ``within`` is a wrapper to run it by, such as ``prlimit``."""
    process = await asyncio.create_subprocess_exec(
        *(*within, sys.executable, "-m", "proxy", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    command = Served(process)
    try:
        await command.begun()
        yield command
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def workers_of(process: int) -> list[int]:
    """The processes that a supervisor has started to serve."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def opened(process: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


@contextmanager
def no_more_descriptors(process: int, but: int = 0) -> Iterator[None]:
    """Limit a process to the descriptors that it has open, and ``but`` so many more."""
    before = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (opened(process) + but, before[1]))
    yield
    resource.prlimit(process, resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def starved(file: Path) -> AsyncIterator[tuple[Served, Side]]:
    """A proxy that can open no more files or connections, and a client that is connected to it."""
    write_config(file, "http://127.0.0.1:9")
    async with (
        served("serve", "--config", str(file)) as proxy,
        await connect(proxy.url) as client,
    ):
        await client.say(b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await client.until(b"healthy\n")
        with no_more_descriptors(proxy.process.pid):
            yield proxy, client


def write_config(file: Path, upstream: str, **more: dict[str, Any]) -> None:
    """Write a configuration that sends everything to ``upstream``, as JSON, which is YAML too."""
    config = {
        "server": {"port": 0},
        "upstreams": {"api": {"base_url": upstream, "speaks": ["2023-06-01"]}},
        "routes": [{"path": "/{rest:path}", "upstream": "api"}],
        **more,
    }
    file.write_text(json.dumps(config, indent=1))
