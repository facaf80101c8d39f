"""A headless Chromium, driven over its own pipe: no driver and no package between it and a test.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from support import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

FLAGS = (
    "--headless",
    "--no-sandbox",  # there is none for root, and nothing is visited but ourselves
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-lcd-text",  # whose colours are of the screen that it is drawn for
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Page:
    """One page, with what it has complained of and asked for."""

    def __init__(self, reader: asyncio.StreamReader, write: int) -> None:
        self.complaints: list[str] = []
        """Errors of scripts, of the console, and of what could not be loaded or was forbidden."""
        self.requests: list[str] = []
        """The addresses of all that it asked for."""
        self._reader = reader
        self._write = write
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._page: dict[str, str] = {}

    async def open(self) -> None:
        """Attach to a page of its own."""
        self._reading = asyncio.create_task(self._read())
        target = await self("Target.createTarget", url="about:blank")
        attached = await self("Target.attachToTarget", **target, flatten=True)
        self._page = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self(f"{domain}.enable")

    async def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have something done; returns its result."""
        number = next(self._numbers)
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        asked = {"id": number, "method": method, "params": parameters, **self._page}
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        async with asyncio.timeout(PATIENCE):
            told = await done
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        told = await self(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true, looking once a frame; returns its value."""
        waiting = (
            "new Promise((done) => { const look = () => { let value; try { value = "
            f"({script}); }} catch {{}} value ? done(value) : setTimeout(look, 16); }}; look(); }})"
        )
        return await self.run(waiting)

    async def screenshot(self, file: Path, width: int, height: int, scale: float = 1) -> None:
        """The page as it looks in a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        await self("Emulation.setDeviceMetricsOverride", **size, mobile=False)
        shot = await self("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))

    async def close(self) -> None:
        """End the browser."""
        self._page = {}
        await self("Browser.close")
        await self._reading

    async def _read(self) -> None:
        while text := await self._reader.read(1 << 20):
            while not text.endswith(b"\0"):
                text += await self._reader.read(1 << 20)
            for message in text.split(b"\0")[:-1]:
                self._take(json.loads(message))

    def _take(self, told: dict[str, Any]) -> None:
        if "id" in told:
            self._waiting.pop(told["id"]).set_result(told)
            return
        about = told["params"]
        match told["method"]:
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning"):
                self.complaints.append(json.dumps(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(about["entry"]))
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A page in a Chromium that knows nothing from before."""
    assert CHROMIUM is not None
    to_read, write = os.pipe()
    read, to_write = os.pipe()

    def pipes() -> None:  # Chromium reads from 3 and writes to 4, whatever numbers they have here
        ends = os.dup(to_read), os.dup(to_write)
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}"),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        preexec_fn=pipes,
        pass_fds=(3, 4),
    )
    os.close(to_read)
    os.close(to_write)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb")
    )
    page = Page(reader, write)
    try:
        await page.open()
        yield page
        await page.close()
    except BaseException:
        process.kill()
        raise
    finally:
        await process.wait()
        transport.close()
        os.close(write)
