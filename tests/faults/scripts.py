"""What upstreams do when they do not behave."""

from __future__ import annotations

import asyncio

from faults.kinds import Exchange, Moment
from faults.proxies import ScriptedUpstream
from support import Play, Side, chunk, happened, reset

SOON = 0.05
"""Seconds that a proxy waits which is to run out of patience."""

LONG = b"x" * (200 << 10)
"""More than may arrive without a part of a body."""


async def closes(_: Side) -> None:
    """Return, which closes."""


async def hears_and_closes(side: Side) -> None:
    """Close with nothing unread, or it would be a reset."""
    await side.reader.read(1 << 16)


async def resets(side: Side) -> None:
    reset(side)


async def half_closes(side: Side) -> None:
    side.writer.write_eof()
    await side.rest()


async def stalls(side: Side) -> None:
    await side.rest()


def says(data: bytes) -> Play:
    """Say something, and wait for the other end to close."""

    async def play(side: Side) -> None:
        await side.say(data)
        await side.rest()

    return play


def says_last(data: bytes) -> Play:
    """Say something, and close."""

    async def play(side: Side) -> None:
        await side.say(data)

    return play


async def goes_on(side: Side) -> None:
    """Say one byte of an answer after the other, without end and without a long silence."""
    while not side.writer.is_closing():
        await side.say(chunk(b"\n"))
        await asyncio.sleep(SOON / 5)


async def drips(side: Side) -> None:
    """Say without end what belongs to no answer."""
    while not side.writer.is_closing():
        await side.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99)


def scripted(exchange: Exchange, moment: Moment, seen: asyncio.Event, then: Play) -> Play:
    """Behave up to ``moment``, and on once the client has ``seen`` what it can see by then."""

    async def play(side: Side) -> None:
        if moment is Moment.ASKED_IN_PART:
            await side.reader.readexactly(20)
        elif moment >= Moment.ASKED:
            await side.request()
        if moment > Moment.ASKED:
            await side.say(b"".join(exchange.parts[: moment - Moment.ASKED]))
        await happened(seen)
        await then(side)

    return play


def closes_at_reuse(upstream: ScriptedUpstream, then: Play) -> Play:
    """Answer one request well, and hear another."""

    async def play(side: Side) -> None:
        await upstream.answer(side)
        await side.request()
        upstream.requests += 1
        await then(side)

    return play
