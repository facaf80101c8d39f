"""The answers of the sandbox: as slow as was asked for, or what a failure leaves of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile

from starlette.responses import Response
from starlette.types import ASGIApp

from . import rules, wire
from .errors import invalid, overloaded, rate_limited
from .fields import Json
from .reply import End, Reply
from .rules import Asked
from .wire import Answer, Frame

FAILURES = {
    "overloaded": "529 overloaded_error, before anything else",
    "rate_limit": "429 rate_limit_error with retry-after",
    "error_first": "HTTP 200 whose only event is an error; 529 where nothing is streamed",
    "error_mid": "an error event after three pieces of text; 529 where nothing is streamed",
    "cut": "the connection breaks in the middle of the answer",
    "eof": "the body ends properly, but before the answer does",
    "hang": "the head and the first piece, then silence",
    "slow_head": "silence from the start",
    "html": "502 with an HTML page, as from a gateway in between",
    "nonsense": "HTTP 200 with what is not JSON: an event of the stream, or the whole body",
}
"""How the sandbox can fail, and what each way looks like."""

GATEWAY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>502</body></html>\n"
NONSENSE = b"this is not JSON"


@dataclass(frozen=True, slots=True)
class Switches:
    """How slowly to answer, in seconds, and how to fail, if at all: one of FAILURES."""

    delay: float
    fail: str | None

    def __post_init__(self) -> None:
        if self.fail is not None and self.fail not in FAILURES:
            raise ValueError(f"the sandbox cannot fail by {self.fail!r}, only by {list(FAILURES)}")
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"a delay is some seconds, not {self.delay!r}")

    def but(self, markers: dict[str, str]) -> Switches:
        """These switches, where the markers do not say otherwise."""
        try:
            delay = float(markers.get("delay", self.delay))
            return Switches(delay, markers.get("fail", self.fail))
        except ValueError as error:
            raise invalid(f"sandbox marker: {error}") from error


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an endpoint that generates text reads, answers and streams."""

    read: Callable[[bytes, str], Asked]
    body: Callable[[Asked, Answer, bytes], Json]
    frames: Callable[[Asked, Answer, bytes], list[Frame]]
    text_event: bytes
    """The name of the events that carry text."""
    eol: bytes
    lead: str
    """What stands before the first word of an answer."""


MESSAGES = Dialect(
    rules.read_messages, wire.message_body, wire.message_frames, b"content_block_delta", b"\n", ""
)
COMPLETE = Dialect(
    rules.read_complete, wire.completion_body, wire.completion_frames, b"completion", b"\r\n", " "
)


def generate(dialect: Dialect, body: bytes, version: str, seed: bytes, usual: Switches) -> ASGIApp:
    """Answer a request for text, by the ``usual`` switches where its text has no marker.

    What differs from answer to answer comes from ``seed``. Raises ApiError.
    """
    asked = dialect.read(body, version)
    switches = usual.but(wire.switches(asked.question))
    match switches.fail:
        case "overloaded":
            raise overloaded()
        case "rate_limit":
            raise rate_limited()
        case "html":
            return Response(GATEWAY_PAGE, 502, media_type="text/html")
        case "slow_head":
            return Reply({}, wait=math.inf)
    said = wire.answer(asked, dialect.lead)
    if asked.stream:
        return _streamed(dialect, dialect.frames(asked, said, seed), switches, seed)
    return _whole(wire.compact(dialect.body(asked, said, seed)), switches, seed)


def _streamed(dialect: Dialect, frames: list[Frame], switches: Switches, seed: bytes) -> Reply:
    """The frames as a stream, or as the failure that was asked for leaves them."""
    error = wire.error_frame(overloaded(), dialect.eol, seed)
    end: End = "whole"
    match switches.fail:
        case "error_first":
            frames = [error]
        case "error_mid":
            frames = [*_first_texts(frames, 3), error]
        case "eof":
            frames = _unfinished(frames)
        case "nonsense":
            some = _first_texts(frames, 2)
            frames = [*some, _nonsense(dialect), *frames[len(some) :]]
        case "cut":
            frames, end = _first_texts(frames, 3), "cut"
        case "hang":
            frames, end = _first_texts(frames, 1), "hang"
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "request-id": wire.new_id("req", seed),
    }
    parts = [(switches.delay if frame.kind == "text" else 0, frame.wire) for frame in frames]
    return Reply(headers, parts, end=end)


def _unfinished(frames: Iterable[Frame]) -> list[Frame]:
    return list(takewhile(lambda frame: frame.kind != "end", frames))


def _first_texts(frames: list[Frame], count: int) -> list[Frame]:
    """The frames up to this many pieces of text, and never the end."""
    unfinished = _unfinished(frames)
    places = [place for place, frame in enumerate(unfinished) if frame.kind == "text"]
    return unfinished[: places[:count][-1] + 1] if places else unfinished


def _nonsense(dialect: Dialect) -> Frame:
    lines = b"event: " + dialect.text_event, b"data: " + NONSENSE, b"", b""
    return Frame("other", dialect.eol.join(lines))


def _whole(body: bytes, switches: Switches, seed: bytes) -> Reply:
    """The whole body, or as the failure that was asked for leaves it."""
    end: End = "whole"
    length, half = {"content-length": str(len(body))}, body[: len(body) // 2]
    match switches.fail:
        case "error_first" | "error_mid":
            raise overloaded()
        case "nonsense":
            body, length = NONSENSE, {}
        case "eof":
            body, length = half, {}
        case "cut":
            body, end = half, "cut"
        case "hang":
            body, end = half, "hang"
    headers = {"content-type": "application/json", "request-id": wire.new_id("req", seed)}
    return Reply(headers | length, [(0, body)], wait=switches.delay, end=end)
