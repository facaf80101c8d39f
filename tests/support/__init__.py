"""What tests share: a client and an upstream as raw sockets, and a configuration to run between.

processes    commands of ours as real processes
browser      a browser, to look at the page
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proxy import config

Play = Callable[["Side"], Awaitable[None]]

PATIENCE = 20.0
"""Seconds after which a test gives up on something that should have happened long ago."""

COMPLETION_KEYS = ["completion", "stop", "stop_reason", "truncated", "log_id", "model", "exception"]
"""All that stands in a completion of 2023-01-01, in this order."""

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that never use TLS: loading certificates would take them a tenth of a second."""


class Side:
    """One end of a connection, for a test that controls every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Read up to the blank line that ends a head."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> tuple[bytes, bytes]:
        """Read a request whose body has a content-length; returns its head and body."""
        head = await self.head()
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        async with asyncio.timeout(PATIENCE):
            return head, await self.reader.readexactly(length)

    async def until(self, text: bytes) -> bytes:
        """Read up to and including ``text``."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(text)

    async def say(self, data: bytes) -> None:
        """Write and flush."""
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Read until the other end has closed."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def raw_upstream(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that runs ``play`` for each connection; yields its base URL."""
    failures: list[BaseException] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with Side(reader, writer) as side:
            try:
                await play(side)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            except BaseException as error:
                failures.append(error)
                raise

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
    assert not failures


def reset(side: Side) -> None:
    """Close with a reset (RST) instead of a FIN."""
    opened: socket.socket = side.writer.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.writer.transport.abort()


async def happened(event: asyncio.Event) -> None:
    """Wait for what a test knows will happen."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def until(true: Callable[[], bool]) -> None:
    """Poll for a condition that nothing reports."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0)  # a turn for whoever makes it true


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for one name, and its private key."""

    file: Path
    key: Path

    @classmethod
    def made(cls, place: Path, host: str) -> Self:
        """Have openssl create one for ``host``, in files whose names begin with ``place``."""
        made = cls(place.with_suffix(".pem"), place.with_suffix(".key"))
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        subject = ["-subj", "/CN=test", "-addext", f"subjectAltName={host}"]
        files = ["-out", str(made.file), "-keyout", str(made.key)]
        subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
        return made

    def serve(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


async def connect(url: str) -> Side:
    """A client's connection to ``url``."""
    host, _, port = url.removeprefix("http://").partition(":")
    return Side(*await asyncio.open_connection(host, int(port)))


def settings(
    upstream: str, *, bridge: bool = False, more: dict[str, Any] | None = None
) -> config.Config:
    """A configuration with a route for completions and one for everything else.

    ``more`` adds to its sections, or replaces values in them.
    """
    complete = {"name": "complete", "path": "/v1/complete", "methods": ["POST"], "upstream": "api"}
    raw: dict[str, Any] = {
        "server": {"port": 0},
        "upstreams": {"api": {"base_url": upstream, "speaks": ["2023-06-01"]}},
        "routes": [complete, {"path": "/{rest:path}", "upstream": "api"}],
    }
    if bridge:
        complete["bridge"] = "messages"
        raw["models"] = {"claude-*": "claude-haiku-4-5"}
    for section, values in (more or {}).items():
        raw[section] = {**raw.get(section, {}), **values}
    return config.parse(json.dumps(raw), "test", {})


def post(path: str, body: bytes | dict[str, object], *fields: bytes) -> bytes:
    """A request that has the server close the connection after its answer."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    lines = [
        b"POST %b HTTP/1.1" % path.encode(),
        b"host: proxy",
        b"connection: close",
        b"content-length: %d" % len(body),
        *fields,
    ]
    return b"\r\n".join((*lines, b"", body))


def old_request(*, prompt: str = "Hi", stream: bool = True, tokens: int = 9) -> bytes:
    """A call of /v1/complete as programs of early 2023 sent it."""
    body = json.dumps(
        {
            "model": "claude-v1",
            "prompt": f"\n\nHuman: {prompt}\n\nAssistant:",
            "max_tokens_to_sample": tokens,
            "stream": stream,
        }
    ).encode()
    return (
        b"POST /v1/complete HTTP/1.1\r\nhost: proxy\r\naccept: application/json\r\n"
        b"client: anthropic-python/0.2.8\r\nx-api-key: k\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def completion(text: str, **more: object) -> bytes:
    """One event of /v1/complete at 2023-06-01, in one chunk of the chunked coding."""
    body = {"completion": text, "stop_reason": None, "model": "claude-2", "stop": None, **more}
    return chunk(f"event: completion\r\ndata: {json.dumps(body)}\r\n\r\n".encode())


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk of the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = completion("", stop_reason="stop_sequence", stop="\n\nHuman:")
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"request-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
)


async def answer_all(side: Side) -> None:
    """Answer every request with a short stream."""
    while True:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))
