"""What clients got, and what they were to get."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest

from faults.kinds import EXCHANGES, WHOLE, Exchange
from faults.proxies import Proxy

FAILED = "api_error"
LATE = "timeout_error"

CLOSED = "upstream api closed the connection"
BROKE_OFF = "upstream api broke off its answer"
NO_HTTP = "upstream api did not answer in HTTP"
TOO_LATE = "upstream api did not answer in time"
TOO_LONG = "upstream api did not finish in time"
TOO_MUCH = "upstream api sent too much beside its answer"


def endings(log: pytest.LogCaptureFixture) -> list[str]:
    """How the exchanges ended according to the log, and by which error."""
    lines = [record.getMessage() for record in log.records if record.name == "proxy.exchanges"]
    return [line[line.index("ended=") : line.index(" bytes_received=")] for line in lines]


@dataclass(frozen=True)
class Answer:
    """What a client got, taken apart."""

    status: int
    body: bytes
    whole: bool

    @property
    def events(self) -> list[bytes]:
        """The data of its events."""
        return [event.partition(b"data: ")[2] for event in self.body.split(b"\r\n\r\n")[:-1]]


def parsed(got: bytes) -> Answer:
    """An answer that ended with its connection."""
    head, _, body = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    lower = head.lower() + b"\r\n"
    if b"content-length: " in lower:
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return Answer(status, body, len(body) == length)
    parts: list[bytes] = []
    rest = io.BytesIO(body)
    while line := rest.readline():
        length = int(line, 16)
        if not length:
            return Answer(status, b"".join(parts), rest.read() == b"\r\n")
        parts.append(rest.read(length))
        rest.read(len(b"\r\n"))
    return Answer(status, b"".join(parts), whole=False)


def check_refused(got: bytes, status: int, type_: str, message: str) -> None:
    answer = parsed(got)
    assert answer.whole
    assert (answer.status, json.loads(answer.body)) == (
        status,
        {"type": "error", "error": {"type": type_, "message": message}},
    )


def check_finished(got: bytes, type_: str, message: str) -> None:
    """A stream that failed: all the text that there was, why there is no more, and a proper end."""
    answer = parsed(got)
    assert answer.whole
    *_, last, done = answer.events
    event = json.loads(last)
    assert (event["completion"], event["stop_reason"]) == (" Hi", "max_tokens")
    assert event["exception"] == f"{type_}: {message}"
    assert done == b"[DONE]"


def check_good(exchange: Exchange, got: bytes) -> None:
    answer = parsed(got)
    assert answer.whole
    assert answer.status == 200
    if exchange.streams:
        *_, last, done = answer.events
        assert json.loads(last)["completion"] == " Hi"
        assert json.loads(last)["stop_reason"] == "stop_sequence"
        assert json.loads(last)["exception"] is None
        assert done == b"[DONE]"
    elif exchange is WHOLE:
        assert json.loads(answer.body)["completion"] == " Hi"
    else:
        assert answer.body == b"first partlast part"


def check_cut(got: bytes) -> None:
    answer = parsed(got)
    assert answer.status == 200
    assert not answer.whole


def unchunked(exchange: Exchange) -> tuple[bytes, bytes]:
    """The head of a good answer without its framing, and its body."""
    head = exchange.parts[0].replace(b"transfer-encoding: chunked\r\n", b"")
    return head, parsed(exchange.good).body


def with_length(exchange: Exchange, field_of_head: bytes = b"") -> bytes:
    head, body = unchunked(exchange)
    return head[:-2] + field_of_head + b"content-length: %d\r\n\r\n" % len(body) + body


def unreachable(why: str) -> str:
    return f"upstream api cannot be reached: {why}"


async def check_unreachable(
    proxy: Proxy, log: pytest.LogCaptureFixture, message: str, status: int
) -> None:
    type_ = LATE if status == 504 else FAILED
    async with proxy.nothing_left():
        for exchange in EXCHANGES:
            check_refused(await proxy.ask(exchange.request), status, type_, message)
    assert endings(log) == [f'ended="upstream failed" error="{type_}: {message}"'] * len(EXCHANGES)
