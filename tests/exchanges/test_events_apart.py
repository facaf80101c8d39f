"""Each event is in a chunk of its own: programs of 2023 took each part that they read for one.

Node.js hands its programs the chunks of a body one by one, even if they arrive together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest.mock import AsyncMock, Mock

import pytest
from starlette.types import Message

from exchanges.harness import client_with, proxy_to
from proxy.exchange.client import MOST_APART
from proxy.exchange.extensions import Gone
from support import LAST, STREAM_HEAD, Side, chunk, completion, connect, old_request, post

pytestmark = pytest.mark.anyio

EVENTS = [completion(f" {number}") for number in range(500)]


async def chunks(client: Side) -> list[bytes]:
    """The chunks of the rest of a body, as they are on the wire."""
    found = []
    while size := int(await client.until(b"\r\n"), 16):
        found.append((await client.reader.readexactly(size + 2))[:-2])
    return found


def assert_one_each(found: list[bytes]) -> None:
    for each in found:
        assert each.startswith(b"data: ")
        assert each.index(b"\r\n\r\n") == len(each) - 4
    assert found[-1] == b"data: [DONE]\r\n\r\n"


@pytest.mark.parametrize("name", ["alike", "unlike"])
async def test_events_that_arrived_together_are_sent_apart(name: str) -> None:
    """Up to the last snapshot and what follows it: one event of the upstream becomes both."""
    events = EVENTS
    if name == "unlike":
        events = [completion(f" {number}", log_id=f"{number}") for number in range(500)]

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + b"".join(events) + LAST + chunk(b""))

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(old_request())
        await client.head()
        found = await chunks(client)
        assert_one_each(found)
        assert len(found) == len(events) + 2


async def test_chunks_that_arrived_together_pass_apart() -> None:
    """What passes through is not known to hold events, but its chunks may, one each."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + b"".join(EVENTS) + chunk(b""))

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(post("/v1/complete", b"{}", b"anthropic-version: 2023-06-01"))
        await client.head()
        assert [chunk(each) for each in await chunks(client)] == EVENTS


async def test_chunks_too_small_to_be_events_pass_together() -> None:
    """Framing each would take as long as reading it."""
    connection = Mock()
    wait = client_with(AsyncMock(), connection).write([b"x"] * (MOST_APART + 1))
    if wait is not None:
        await wait
    connection.write.assert_called_once_with((b"x" * (MOST_APART + 1),))


async def test_events_that_had_to_wait_are_sent_apart() -> None:
    written: list[bytes] = []

    class Full:
        def when_left(self, call: Callable[[Gone], None]) -> None: ...

        def write(self, parts: Sequence[bytes]) -> bool:
            written.extend(parts if written else ())
            return bool(written)

    async def send(message: Message) -> None:
        written.append(message["body"])

    client = client_with(send, Full())
    writing = client.write_all([b"1", b"2", b"3"])
    assert writing is not None
    await writing
    assert written == [b"1", b"2", b"3"]
    assert [*client.unwritten] == []


async def test_of_events_that_wait_those_that_were_sent_are_not_owed_any_more() -> None:
    """Else they would be sent twice where a drain ends just behind them."""
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        if len(sent) == 2:
            raise ConnectionError
        sent.append(message["body"])

    client = client_with(send)
    events = [b"1", b"2", b"3", b"4"]
    writing = client.write_all(events)
    assert writing is not None
    with pytest.raises(ConnectionError):
        await writing
    assert sent == events[:2]
    assert [*client.unwritten] == events[2:]
