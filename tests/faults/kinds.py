"""Kinds of exchanges: the request of each, and the parts of a good answer to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from proxy.exchange.exchange import RESENDABLE
from support import LAST, STREAM_HEAD, chunk, completion, post


class Moment(IntEnum):
    """How far the upstream has come with a good answer when something goes wrong."""

    ACCEPTED = 0
    ASKED_IN_PART = 1
    ASKED = 2
    HEAD = 3
    BEGUN = 4
    ALL_BUT_THE_END = 5


@dataclass(frozen=True)
class Exchange:
    """One kind of exchange: its request, and the parts of a good answer from the upstream.

    ``parts`` are the head, the first and the last piece of the body, and its end. ``begun`` and
    ``last`` are what a client has seen after the first and the last piece, None for nothing.
    """

    name: str
    request: bytes
    parts: tuple[bytes, bytes, bytes, bytes]
    begun: bytes | None
    last: bytes | None

    @property
    def streams(self) -> bool:
        """Whether the client gets a translated stream, which the proxy can end properly."""
        return self.name in ("native", "bridged")

    @property
    def good(self) -> bytes:
        """The complete answer."""
        return b"".join(self.parts)

    def seen(self, moment: Moment) -> bytes | None:
        """What the client must have received once the upstream has come to ``moment``."""
        return {Moment.BEGUN: self.begun, Moment.ALL_BUT_THE_END: self.last}.get(moment)


def events(*bodies: dict[str, Any]) -> bytes:
    """Events of /v1/messages, as one chunk."""
    return chunk(
        b"".join(f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode() for body in bodies)
    )


def _asking(*, stream: bool) -> bytes:
    body = {
        "model": "claude-v1",
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "max_tokens_to_sample": 9,
        "stream": stream,
    }
    return json.dumps(body).encode()


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
END = chunk(b"")
JSON_HEAD = STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")
COMPLETION = json.dumps(
    {"completion": " Hi", "stop_reason": "stop_sequence", "stop": "\n\nHuman:", "model": "claude-2"}
).encode()

NATIVE = Exchange(
    "native",
    post("/v1/complete", _asking(stream=True)),
    (STREAM_HEAD, completion(" Hi"), LAST, END),
    b'"completion":" Hi"',
    b'"stop_reason":"stop_sequence"',
)
BRIDGED = Exchange(
    "bridged",
    post("/bridged/v1/complete", _asking(stream=True)),
    (
        STREAM_HEAD,
        events(
            {"type": "message_start", "message": MESSAGE},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "Hi"},
            },
        ),
        events(
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 2},
            },
            {"type": "message_stop"},
        ),
        END,
    ),
    b'"completion":" Hi"',
    b'"stop_reason":"stop_sequence"',
)
WHOLE = Exchange(
    "whole",
    post("/v1/complete", _asking(stream=False)),
    (JSON_HEAD, chunk(COMPLETION[:20]), chunk(COMPLETION[20:]), END),
    None,
    None,
)
BYTES = Exchange(
    "bytes",
    post("/v1/files", b"some bytes", b"anthropic-version: 2023-06-01"),
    (STREAM_HEAD, chunk(b"first part"), chunk(b"last part"), END),
    b"first part",
    b"last part",
)
EXCHANGES = (NATIVE, BRIDGED, WHOLE, BYTES)
TRANSLATED = (NATIVE, BRIDGED, WHOLE)
STREAMS = (NATIVE, BRIDGED)

BEFORE_THE_HEAD = (Moment.ACCEPTED, Moment.ASKED_IN_PART, Moment.ASKED)
UP_TO_BEGUN = (Moment.ASKED, Moment.HEAD, Moment.BEGUN)
AFTER_THE_HEAD = (Moment.HEAD, Moment.BEGUN, Moment.ALL_BUT_THE_END)

LARGE = post("/v1/files", b"x" * (RESENDABLE + 1), b"anthropic-version: 2023-06-01")

UPLOAD = LARGE[:-1]
"""An upload that is never finished, and too large to wait for."""
