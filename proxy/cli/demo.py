"""The product in ten seconds: an old client's streaming call, and both wires as they happen.

Needs no key and no network. The client is plain ``http.client``: like the SDKs of 2023 it knows
nothing of today's API.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import config
from ..app import build
from ..core.sse import Decoder
from ..sandbox import sandbox
from ..server import server
from .terminal import CYAN, GREEN, paint, print_line

CONFIG = """
server: {{port: 0}}
upstreams:
  sandbox:
    base_url: {upstream}
    speaks: ["2023-06-01"]
models:
  "claude-*": claude-haiku-4-5-20251001
routes:
  - name: complete
    path: /v1/complete
    methods: [POST]
    upstream: sandbox
    bridge: messages
  - path: /{{rest:path}}
    upstream: sandbox
"""

REQUEST = {
    "model": "claude-v1",
    "prompt": "\n\nHuman: Say hello to 2023!\n\nAssistant:",
    "max_tokens_to_sample": 200,
    "stream": True,
}

HEADERS = {
    "Accept": "application/json",
    "Anthropic-SDK": "anthropic-python/0.2.10",
    "Anthropic-Version": "2023-01-01",
    "Content-Type": "application/json",
    "X-API-Key": "no-key-needed",
}

TRY = """
Try it yourself (Ctrl-C ends the demo):

  curl -N {proxy}/v1/complete \\
    -H 'anthropic-version: 2023-01-01' -H 'x-api-key: none' -H 'content-type: application/json' \\
    -d '{{"model": "claude-v1", "prompt": "\\n\\nHuman: Hi\\n\\nAssistant:", \
"max_tokens_to_sample": 200, "stream": true}}'

Who has called, for what, and a form to try more:

  {proxy}/-/
"""


def run(*, keep: bool = False) -> int:
    """Play the demo on standard output; ``keep`` stays up afterwards. Returns the exit code."""
    return asyncio.run(_play(keep=keep))


async def _play(*, keep: bool) -> int:
    wires = Wires(shutil.get_terminal_size((120, 24)).columns)
    upstream = Tapped(sandbox.build(delay=0.08), wires.upstream_said)
    async with server.running(upstream) as upstream_url:
        settings = config.parse(CONFIG.format(upstream=upstream_url), "demo", {})
        async with server.running(build(settings)) as proxy_url:
            wires.headings(upstream_url, proxy_url)
            loop = asyncio.get_running_loop()

            def got(line: str) -> None:
                loop.call_soon_threadsafe(wires.client_got, line)

            answer = await asyncio.to_thread(_old_client, proxy_url, got)
            wires.result(answer)
            if keep:
                print_line(TRY.format(proxy=proxy_url), sys.stdout)
                await asyncio.Event().wait()
    return 0 if answer["exception"] is None else 1


def _old_client(proxy_url: str, got: Callable[[str], None]) -> dict[str, object]:
    """Stream a completion as a program of early 2023 did; returns the last event."""
    connection = http.client.HTTPConnection(urlsplit(proxy_url).netloc, timeout=30)
    connection.request("POST", "/v1/complete", json.dumps(REQUEST), HEADERS)
    response = connection.getresponse()
    last: dict[str, object] = {}
    for raw in response:
        line = raw.decode().rstrip("\r\n")
        if line:
            got(line)
        if line.startswith("data: {"):
            last = json.loads(line.removeprefix("data: "))
    connection.close()
    return last


class Tapped:
    """An ASGI application whose responses are also shown to ``tap``, event by event."""

    def __init__(self, app: ASGIApp, tap: Callable[[str, str], None]) -> None:
        self._app = app
        self._tap = tap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        decoder = Decoder()

        async def tapped(message: Message) -> None:
            for frame in decoder.feed(message.get("body", b"")):
                self._tap(frame.name or "message", frame.data.decode())
            await send(message)

        await self._app(scope, receive, tapped if scope["type"] == "http" else send)


class Wires:
    """Two columns: what the upstream said, and what the old client got."""

    def __init__(self, width: int) -> None:
        self._column = max(width // 2 - 2, 40)

    def headings(self, upstream_url: str, proxy_url: str) -> None:
        """Say who is who."""
        self._row(f"upstream (today's API) {upstream_url}", f"old client (2023) -> {proxy_url}")
        self._row("POST /v1/messages, version 2023-06-01", "POST /v1/complete, version 2023-01-01")
        self._row("-" * self._column, "-" * self._column)

    def upstream_said(self, name: str, data: str) -> None:
        """Show one event of the upstream."""
        self._row(f"event: {name}  data: {data}", "")

    def client_got(self, line: str) -> None:
        """Show one line that reached the client: how the text ends, and what follows it."""
        text, stop, rest = line.partition('","stop":')
        if stop and len(line) > self._column:
            shown = max(self._column * 2 // 3, len(_OPENING) + 2)
            if len(text) > shown:
                text = f"{_OPENING}…{text[len(_OPENING) + 1 - shown :]}"
            line = f"{text}{stop}{rest}"[: self._column - 1] + "…"
        self._row("", line)

    def result(self, answer: dict[str, object]) -> None:
        """Show what the old program ends up with."""
        text = textwrap.indent(textwrap.fill(str(answer["completion"]).strip(), 76), "  ")
        print_line(f"\nThe old program's answer ({answer['stop_reason']}):\n{text}", sys.stdout)

    def _row(self, left: str, right: str) -> None:
        left, right = (_shortened(text, self._column) for text in (left, right))
        padded = left + " " * (self._column - _width(left))
        left, right = paint(padded, CYAN, sys.stdout), paint(right, GREEN, sys.stdout)
        print_line(f"{left} | {right}", sys.stdout)


_OPENING = 'data: {"completion":"'


def _width(text: str) -> int:
    """The columns that ``text`` takes in a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _shortened(text: str, width: int) -> str:
    """``text`` in ``width`` columns; its middle is left out."""
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[-tail:]}"
