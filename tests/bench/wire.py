"""What the two ends of the bench agree on: the text, its events, and the marker in the prompt.

The text follows from its length alone, so an answer is checked whole without being sent along. The
marker is part of the prompt, so it reaches the mock through whatever stands in between.
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
"""What JSON escapes, and what takes more than one byte: a fast path must not trip over these."""

PIECES = tuple(f" {word}" for word in _WORDS.split()) + _AWKWARD
"""The deltas, in order, over and over."""

END = b"\r\n\r\n"
"""What ends an event of completions."""

STAMPS = 1 << 18
"""How many times of sending the shared memory holds."""

_ID = "compl_01BenchBenchBenchBenchBe"
_MARKER = re.compile(rb"bench:(\d+),(\d+),(\d+),(-?\d+);")


@dataclass(frozen=True, slots=True)
class Play:
    """What the mock should do: ``deltas``, ``delay`` ms apart, ``per_write`` of them in one write.

    ``stamps`` is where in the shared memory the times of sending go, -1 for nowhere.
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
