"""Both ends of the wire, as bare sockets: an upstream that serves a recording, and a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from proxy import config
from proxy.app import App
from proxy.server.server import running
from proxy.upstream.answer import Answer, Take, never
from replay.recording import Cut, Recording

PATIENCE = 20.0
"""Seconds after which a test gives up on something that should have happened long ago."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a request or response, and its fields, names in lower case."""

    line: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, head: bytes) -> Head:
        line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (field.partition(":") for field in fields)
        return cls(line, tuple((name.lower(), value.strip()) for name, _, value in pairs))

    def values(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value for key, value in self.fields if key == name]


@dataclass(frozen=True, slots=True)
class Got:
    """What the client got: the head, the body, and whether that is the whole of it.

    ``asked`` is the head of what the upstream was asked for it.
    """

    head: Head
    body: bytes
    whole: bool
    asked: Head

    @property
    def status(self) -> int:
        return int(self.head.line.split(" ")[1])

    @property
    def phrase(self) -> str:
        return self.head.line.partition(" ")[2].partition(" ")[2]


class Replayer:
    """An upstream that answers with recordings, and two proxies in front of it."""

    def __init__(self) -> None:
        self._proxies: dict[bool, str] = {}
        self._next: tuple[Recording, Cut, _Pace] | None = None
        self._asked: list[Head] = []
        self._answering: list[asyncio.Task[Any]] = []

    async def play(
        self, recording: Recording, cut: Cut, request: bytes, *, bridge: bool = False
    ) -> Got:
        """Send ``request`` to a proxy whose upstream answers with the recording."""
        with _in_step() as pace:
            self._asked.clear()
            self._answering.clear()
            self._next = recording, cut, pace
            head, rest = await _exchange(self._proxies[bridge], request)
            pace.stop_waiting()
            await asyncio.gather(*self._answering)
        body, whole = _body(head, rest)
        assert len(self._asked) == 1
        return Got(head, body, whole, self._asked[0])

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the upstream of one exchange."""
        task = asyncio.current_task()
        assert task is not None
        assert self._next is not None
        self._answering.append(task)
        recording, cut, pace = self._next
        try:
            head = Head.read(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int((head.values("content-length") or ["0"])[0]))
            self._asked.append(head)
            for piece in _answer(recording, cut):
                writer.write(piece)
                await writer.drain()
                await pace.wanted()
        except ConnectionError:
            return  # the proxy had heard enough
        finally:
            writer.close()

    async def open(self, stack: AsyncExitStack) -> None:
        """Start all three."""
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        stack.callback(server.close)
        upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for bridge in (False, True):
            app = App(_settings(upstream, bridge=bridge))
            self._proxies[bridge] = await stack.enter_async_context(running(app))


@asynccontextmanager
async def replayer() -> AsyncIterator[Replayer]:
    """A replayer for as many recordings as there are, one after the other."""
    made = Replayer()
    async with AsyncExitStack() as stack:
        await made.open(stack)
        yield made


def call(method: str, path: str, version: str | None, body: dict[str, Any] | None) -> bytes:
    """A request; ``version`` None is how programs of early 2023 called: without saying one."""
    content = b"" if body is None else json.dumps(body).encode()
    fields = {
        "host": "proxy",
        "connection": "close",
        "x-api-key": "k",
        **({"anthropic-version": version} if version else {}),
        **({"content-length": str(len(content))} if body is not None else {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


class _Pace:
    """Lets the upstream say more when the proxy wants to hear more, and no sooner.

    Otherwise what is said in pieces would arrive in one.
    """

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._free = False

    def want(self) -> None:
        self._wanted.set()

    def stop_waiting(self) -> None:
        """From now on the upstream need not wait: nobody counts its pieces any more."""
        self._free = True
        self._wanted.set()

    async def wanted(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._wanted.wait()
        if not self._free:
            self._wanted.clear()


@contextmanager
def _in_step() -> Iterator[_Pace]:
    """A pace that is set by what the proxy reads of its upstream's answer."""
    pace = _Pace()
    read, forward, close_soon = Answer.read, Answer.forward, Answer.close_soon

    async def wanting_read(answer: Answer) -> bytes:
        pace.want()
        return await read(answer)

    async def wanting_forward(
        answer: Answer, take: Take, enough: Callable[[], bool] = never
    ) -> None:
        async def taken(wait: Awaitable[None]) -> None:
            await wait
            pace.want()

        def wanting(parts: Sequence[bytes]) -> Awaitable[None] | None:
            if (wait := take(parts)) is not None:
                return taken(wait)
            pace.want()
            return None

        pace.want()
        await forward(answer, wanting, enough)

    def letting_go(answer: Answer) -> None:
        pace.stop_waiting()
        close_soon(answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answer, "read", wanting_read)
        patch.setattr(Answer, "forward", wanting_forward)
        patch.setattr(Answer, "close_soon", letting_go)
        yield pace


def _answer(recording: Recording, cut: Cut) -> Iterator[bytes]:
    """The head, the pieces of the body and its end, which a broken answer does not have."""
    length = ("content-length", str(len(recording.wire)))
    framing = length if cut == "whole" else ("transfer-encoding", "chunked")
    fields = (*recording.fields, framing, ("connection", "close"))
    lines = [f"{name}: {value}" for name, value in fields]
    yield "\r\n".join([f"HTTP/1.1 {recording.status} X", *lines, "", ""]).encode("latin-1")
    if cut == "whole":
        yield recording.wire
        return
    for piece in recording.pieces(cut):
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    if cut != "broken":
        yield b"0\r\n\r\n"


async def _exchange(url: str, request: bytes) -> tuple[Head, bytes]:
    host, _, port = url.removeprefix("http://").partition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            head = Head.read(await reader.readuntil(b"\r\n\r\n"))
            return head, await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def _body(head: Head, rest: bytes) -> tuple[bytes, bool]:
    """The body out of its framing, and whether it is whole."""
    for length in head.values("content-length"):
        return rest, len(rest) == int(length)
    assert head.values("transfer-encoding") == ["chunked"]
    parts: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n"
            return b"".join(parts), True
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) :].removeprefix(b"\r\n")
    return b"".join(parts), False


def _settings(upstream: str, *, bridge: bool) -> config.Config:
    """A configuration with both a route for completions and one for all else."""
    complete = {"path": "/v1/complete", "upstream": "api"}
    models = {"claude-*": "claude-haiku-4-5"}
    raw = {
        "upstreams": {"api": {"base_url": upstream, "speaks": ["2023-06-01"]}},
        "routes": [
            complete | ({"bridge": "messages"} if bridge else {}),
            {"path": "/{rest:path}", "upstream": "api"},
        ],
        **({"models": models} if bridge else {}),
    }
    return config.parse(json.dumps(raw), "test", {})


def subsequence(some: Iterable[object], of: Iterable[object]) -> bool:
    """Whether ``some`` stand in ``of`` in their order."""
    remaining = iter(of)
    return all(item in remaining for item in some)
