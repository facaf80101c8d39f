"""What both ends of the benchmark share: the text, its events, and the marker in the prompt.

The text depends only on its length, so that clients know the complete answer in advance. The marker
is part of the prompt, so that it reaches the mock through any proxy in between.
"""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

_WORDS = (
    " when the rain came over that hill they left with what food was warm and went home"
    " past mill gate and pond some rode most went slow one sang then dark fell upon them all"
)
_AWKWARD = (".\n\n", ' "no"', " café", " \\o/", " 你好", " 🙂")
"""Text that JSON escapes or that takes several bytes, for which a fast path may be wrong."""

PIECES = tuple(f" {word}" for word in _WORDS.split()) + _AWKWARD
"""The deltas, in order, over and over."""

END = b"\r\n\r\n"
"""The end of an event of /v1/complete."""

STAMPS = 1 << 18
"""How many timestamps the shared memory holds."""

_ID = "compl_01BenchBenchBenchBenchBe"
_MARKER = re.compile(rb"bench:(\d+),(\d+),(\d+),(-?\d+);")


@dataclass(frozen=True, slots=True)
class Play:
    """What the mock shall send: ``deltas``, ``delay`` ms apart, ``per_write`` of them at a time.

    ``stamps`` is the index in the shared memory at which its timestamps begin, -1 for none.
    """

    deltas: int
    delay: int = 0
    per_write: int = 1
    stamps: int = -1

    def marker(self) -> str:
        return f"bench:{self.deltas},{self.delay},{self.per_write},{self.stamps};"

    @classmethod
    def read(cls, body: bytes) -> Play:
        """The play that a request's body asks for, however it is wrapped."""
        found = _MARKER.search(body)
        return cls(*map(int, found.groups())) if found else cls(1)


def stamps(memory: int) -> memoryview:
    """The shared memory behind a file descriptor, as nanoseconds."""
    return memoryview(mmap.mmap(memory, STAMPS * 8)).cast("Q")


def text(deltas: int) -> str:
    """The whole completion, as a client of /v1/complete should read it."""
    return "".join(islice(cycle(PIECES), deltas))


def prompt_body(play: Play, *, stream: bool) -> bytes:
    """The body of a call to /v1/complete."""
    call = {
        "model": "claude-2.1",
        "prompt": f"\n\nHuman: {play.marker()} go on\n\nAssistant:",
        "max_tokens_to_sample": 4000,
        "stream": stream,
    }
    return json.dumps(call).encode()


def completion(piece: str, stop: str | None = None) -> dict[str, Any]:
    """A completion, or an increment of one, at 2023-06-01."""
    return {
        "type": "completion",
        "id": _ID,
        "completion": piece,
        "stop_reason": "stop_sequence" if stop else None,
        "model": "claude-2.1",
        "stop": stop,
        "log_id": _ID,
    }


def completion_event(piece: str, stop: str | None = None) -> bytes:
    """The same as an event."""
    return b"event: completion\r\ndata: %b\r\n\r\n" % compact(completion(piece, stop))


def message_event(body: dict[str, Any]) -> bytes:
    """An event of /v1/messages, whose lines end in LF."""
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), compact(body))


def message(content: list[dict[str, str]], stop_reason: str | None) -> dict[str, Any]:
    """A Message, at its beginning or whole."""
    return {
        "id": "msg_01BenchBenchBenchBenchBenc",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 1},
    }


def compact(body: dict[str, Any]) -> bytes:
    """JSON as the API prints it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


PIECE_EVENTS = tuple(completion_event(piece) for piece in PIECES)
LAST_EVENT = completion_event("", "\n\nHuman:")


def stream_bytes(deltas: int) -> bytes:
    """The body of a stream of completions as the mock sends it."""
    return b"".join(islice(cycle(PIECE_EVENTS), deltas)) + LAST_EVENT
