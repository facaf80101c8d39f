"""The mock upstream: it sends the events that a marker in the prompt asks for, and timestamps them.

Its own cost must not affect a figure, so every event is made before the first request. Each write
is sent at once: if a delta waited for the next one, the cost of a delta would be hidden.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from . import wire
from .wire import Play

_STREAM = re.compile(rb'"stream"\s*:\s*true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nrequest-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _delta(piece: str) -> bytes:
    delta = {"type": "text_delta", "text": piece}
    return wire.message_event({"type": "content_block_delta", "index": 0, "delta": delta})


@dataclass(frozen=True, slots=True)
class Script:
    """The chunks of one kind of stream. The ``first`` of the deltas may differ from ``deltas``."""

    opening: bytes
    first: bytes
    deltas: Sequence[bytes]
    closing: bytes

    def cut(self, begin: int, end: int) -> bytes:
        """The deltas from ``begin`` to before ``end``."""
        count = len(self.deltas)
        if end == begin + 1:
            return self.deltas[begin % count] if begin else self.first
        return b"".join(self.cut(index, index + 1) for index in range(begin, end))


COMPLETIONS = Script(
    opening=b"",
    first=_chunk(wire.PIECE_EVENTS[0]),
    deltas=[_chunk(event) for event in wire.PIECE_EVENTS],
    closing=_chunk(wire.LAST_EVENT) + b"0\r\n\r\n",
)

MESSAGES = Script(
    opening=_chunk(
        wire.message_event({"type": "message_start", "message": wire.message([], None)})
        + wire.message_event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            }
        )
        + wire.message_event({"type": "ping"})
    ),
    first=_chunk(_delta(wire.PIECES[0].lstrip())),  # an answer of today has no blank before it
    deltas=[_chunk(_delta(piece)) for piece in wire.PIECES],
    closing=_chunk(
        wire.message_event({"type": "content_block_stop", "index": 0})
        + wire.message_event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 1},
            }
        )
        + wire.message_event({"type": "message_stop"})
    )
    + b"0\r\n\r\n",
)


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, stamps: memoryview) -> None:
        self._stamps = stamps
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []
        self._play = Play(0)
        self._script = COMPLETIONS
        self._sent = 0
        self._began = 0.0
        self._next: asyncio.Handle | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        _ = error
        if self._next:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        messages = self._path.endswith(b"/messages")
        self._play = Play.read(body)
        if not _STREAM.search(body):
            self._answer(messages=messages)
            return
        self._script = MESSAGES if messages else COMPLETIONS
        self._sent = 0
        self._began = self._loop.time()
        self._transport.write(_STREAM_HEAD + self._script.opening)
        self._proceed()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._sent < self._play.deltas and not self._play.delay:
            self._next = self._loop.call_soon(self._proceed)

    def _answer(self, *, messages: bool) -> None:
        answer = wire.text(self._play.deltas)
        if messages:
            body = wire.message([{"type": "text", "text": answer.lstrip()}], "end_turn")
        else:
            body = wire.completion(answer, "\n\nHuman:")
        data = wire.compact(body)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_bench\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )

    def _proceed(self) -> None:
        """Send the next write, and see to it that the one after follows."""
        if self._full and not self._play.delay:
            return
        play = self._play
        end = min(self._sent + play.per_write, play.deltas)
        if play.stamps >= 0:
            now = time.monotonic_ns()
            for index in range(self._sent, end):
                self._stamps[play.stamps + index] = now
        self._transport.write(self._script.cut(self._sent, end))
        self._sent = end
        then = self._proceed if end < play.deltas else self._close
        if play.delay:
            due = self._began + end / play.per_write * play.delay / 1000
            self._next = self._loop.call_at(due, then)
        else:  # in a turn of its own, or the loop would join both writes
            self._next = self._loop.call_soon(then)

    def _close(self) -> None:
        self._transport.write(self._script.closing)


async def _serve(memory: int, port: int) -> None:
    stamps = wire.stamps(memory)
    loop = asyncio.get_running_loop()
    orphaned = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), orphaned.set)  # it ends when whoever started us does
    server = await loop.create_server(lambda: Answering(stamps), "127.0.0.1", port, backlog=4096)
    await orphaned.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.mock", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True, help="descriptor for the stamps")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options.memory, options.port))


if __name__ == "__main__":
    main()
