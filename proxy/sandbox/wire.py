"""The answers of the sandbox, down to their bytes.

Pure: the same request always gives the same bytes. ``answer`` makes up a text; ``*_body`` and
``*_frames`` encode it, as the API does: every event but pings is padded with 0-15 blanks before its
last brace, text is raw UTF-8, bodies are compact.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from .errors import ApiError
from .fields import Json
from .rules import HUMAN, Asked


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says to a request, and why it stops there."""

    pieces: tuple[str, ...]
    """One per token."""
    reason: Literal["end_turn", "max_tokens", "stop_sequence"]
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# Answers.

_MARKER = re.compile(r"\[sandbox:(\w+)=([^\[\]]*)\]")  # no part of it is looked at twice
_OPENING = 'Hello! You said: "{}"'
_CONTINUED = ' — you said: "{}"'  # after a prefill
_REST = (
    " This is the sandbox: no key, no model, not even a café."
    " 日本 and 🙂 show that every byte arrives."
)
_QUOTED_WORDS, _QUOTED_LETTERS = 7, 60


def switches(question: str) -> dict[str, str]:
    """What ``[sandbox:name=value]`` in a question asks for."""
    return dict(_MARKER.findall(question))


def answer(asked: Asked, lead: str = "") -> Answer:
    """An answer that quotes the question; ``lead`` stands before its first word."""
    opening = _CONTINUED if asked.prefilled else lead + _OPENING
    pieces = _pieces(opening.format(_quote(asked.question)) + _REST)[: asked.limit]
    text, stop = _until_stop("".join(pieces), asked.stops)
    if stop is not None:
        return Answer(_pieces(text), "stop_sequence", stop)
    return Answer(pieces, "max_tokens" if len(pieces) == asked.limit else "end_turn")


def _quote(question: str) -> str:
    words = _MARKER.sub("", question).split()
    short = " ".join(words[:_QUOTED_WORDS])[:_QUOTED_LETTERS]
    return short if short == " ".join(words) else short + "…"


def _pieces(text: str) -> tuple[str, ...]:
    """Words with the blanks before them: about what a token is."""
    return tuple(re.findall(r"\s*\S+|\s+", text))


def _until_stop(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """The text before the stop sequence that was complete first."""
    ends = {text.find(stop) + len(stop): stop for stop in stops if stop in text}
    if not ends:
        return text, None
    stop = ends[min(ends)]
    return text[: min(ends) - len(stop)], stop


# The wire.

Kind = Literal["text", "end", "other"]


class Frame(NamedTuple):
    """One event as its bytes, and whether it carries text or belongs to the end of its stream."""

    kind: Kind
    wire: bytes


_LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PING: tuple[Kind, Json] = ("other", {"type": "ping"})


def seed_of(*parts: bytes) -> bytes:
    """The seed of everything that looks random in an answer."""
    return hashlib.sha256(b"\0".join(parts)).digest()


def new_id(kind: str, seed: bytes) -> str:
    """An identifier as the API makes them: ``msg_01…``."""
    noise = hashlib.shake_128(kind.encode() + seed).digest(22)
    return f"{kind}_01" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in noise)


def compact(data: Any) -> bytes:
    return orjson.dumps(data)


def encode(data: Json, blanks: int, eol: bytes) -> bytes:
    """One event, named by its type, with ``blanks`` before its last brace."""
    name = str(data["type"]).encode()
    line = b'{"type": "ping"}' if name == b"ping" else compact(data)[:-1] + b" " * blanks + b"}"
    return b"event: " + name + eol + b"data: " + line + eol + eol


def _frames(events: list[tuple[Kind, Json]], eol: bytes, seed: bytes) -> list[Frame]:
    noise = hashlib.shake_128(seed).digest(len(events))
    return [
        Frame(kind, encode(data, byte % 16, eol))
        for (kind, data), byte in zip(events, noise, strict=True)
    ]


def error_body(error: ApiError, seed: bytes, *, streamed: bool = False) -> Json:
    """An error; within a stream it has another key in front."""
    fields: Json = {"details": None} if streamed else {}
    fields |= {"type": error.type, "message": error.message}
    return {
        "type": "error",
        "error": fields,
        "request_id": new_id("req", seed),
    }


def error_frame(error: ApiError, eol: bytes, seed: bytes) -> Frame:
    """An error within a stream, whose status was sent long ago."""
    return _frames([("end", error_body(error, seed, streamed=True))], eol, seed)[0]


def message_body(asked: Asked, said: Answer, seed: bytes) -> Json:
    """A whole Message, as it is answered where nothing is streamed."""
    content = [{"type": "text", "text": said.text}] if said.pieces else []
    return _message(asked, seed, content, said)


def message_frames(asked: Asked, said: Answer, seed: bytes) -> list[Frame]:
    """A Message as a stream; without a content block where there is no text."""
    events: list[tuple[Kind, Json]] = [
        ("other", {"type": "message_start", "message": _message(asked, seed, [], None)}),
        *(_block_events(said) if said.pieces else ()),
        (
            "end",
            {
                "type": "message_delta",
                "delta": _ending(said),
                "usage": _input_usage(asked) | {"output_tokens": len(said.pieces)},
            },
        ),
        ("end", {"type": "message_stop"}),
    ]
    return _frames(events, b"\n", seed)


def _block_events(said: Answer) -> list[tuple[Kind, Json]]:
    block = {"type": "text", "text": ""}
    deltas = ({"type": "text_delta", "text": piece} for piece in said.pieces)
    return [
        ("other", {"type": "content_block_start", "index": 0, "content_block": block}),
        _PING,
        *(("text", {"type": "content_block_delta", "index": 0, "delta": d}) for d in deltas),
        ("other", {"type": "content_block_stop", "index": 0}),
    ]


def _message(asked: Asked, seed: bytes, content: list[Json], ended: Answer | None) -> Json:
    kept = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return {
        "model": asked.model,
        "id": new_id("msg", seed),
        "type": "message",
        "role": "assistant",
        "content": content,
        **_ending(ended),
        "usage": {
            **_input_usage(asked),
            "cache_creation": kept,
            "output_tokens": len(ended.pieces) if ended else 1,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def _ending(ended: Answer | None) -> Json:
    return {
        "stop_reason": ended.reason if ended else None,
        "stop_sequence": ended.stop if ended else None,
        "stop_details": None,
    }


def _input_usage(asked: Asked) -> Json:
    return {
        "input_tokens": asked.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def completion_body(asked: Asked, said: Answer, seed: bytes) -> Json:
    """A whole completion, as it is answered where nothing is streamed."""
    return _completion(asked, seed, said.text, said)


def completion_frames(asked: Asked, said: Answer, seed: bytes) -> list[Frame]:
    """The end comes with the last piece where it was cut off, else alone, with an empty text."""
    *pieces, last = said.pieces if said.reason == "max_tokens" else (*said.pieces, "")
    events: list[tuple[Kind, Json]] = [
        ("text", _completion(asked, seed, piece, None)) for piece in pieces
    ]
    if len(events) > 1:
        events.insert(2, _PING)
    events.append(("end", _completion(asked, seed, last, said)))
    return _frames(events, b"\r\n", seed)


def _completion(asked: Asked, seed: bytes, text: str, ended: Answer | None) -> Json:
    reason = stop = None
    if ended:
        reason = "max_tokens" if ended.reason == "max_tokens" else "stop_sequence"
        stop = ended.stop or (HUMAN if ended.reason == "end_turn" else None)
    name = new_id("compl", seed)
    return {
        "type": "completion",
        "id": name,
        "completion": text,
        "stop_reason": reason,
        "model": asked.model,
        "stop": stop,
        "log_id": name,
    }
