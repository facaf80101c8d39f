"""Checks whether the memory of a process grows with the exchanges that it has served.

    python tests/soak.py --exchanges 200000

A real ``proxy serve`` in front of an upstream of this process: streams, whole answers, bytes that
pass through, refusals, answers that break off, and clients that leave in the middle. Prints the
memory of the process as it goes. The first half is the warm-up; exits with 1 if the second adds
more than ``GROWTH``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from support import LAST, STREAM_HEAD, Side, chunk, completion, connect, old_request, raw_upstream
from support.processes import served, write_config

GROWTH = 4 << 20
"""How much the process may grow within the second half, in bytes.

What is leaked by each exchange, be it 50 bytes, passes this within 100,000.
"""

CLIENTS = 32
LOOKS = 20

TEXTS = [completion(f" word{number}") for number in range(10)]
STREAM = STREAM_HEAD + b"".join(TEXTS) + LAST + chunk(b"")
WHOLE = b'{"completion": " Hi", "stop_reason": "stop_sequence", "model": "claude-2", "stop": null}'
REFUSAL = b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'

DONE = b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n"
PASSING = b"GET /v1/%b HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n\r\n"


def whole(status: int, body: bytes) -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


async def play(side: Side) -> None:
    """The upstream: the path and the number of tokens say how it answers."""
    while True:
        head, body = await side.request()
        if b"/v1/refuses" in head:
            await side.say(whole(529, REFUSAL))
        elif b"/v1/passes" in head:
            await side.say(whole(200, WHOLE * 50))
        elif b'"stream":true' in body.replace(b" ", b""):
            cut = b'"max_tokens_to_sample":1,' in body.replace(b" ", b"")
            await side.say(STREAM_HEAD + TEXTS[0] if cut else STREAM)
            if cut:
                return
        else:
            await side.say(whole(200, WHOLE))


async def streams(client: Side) -> None:
    await client.say(old_request())
    await client.until(DONE)


async def breaks_off(client: Side) -> None:
    await client.say(old_request(tokens=1))
    await client.until(DONE)


async def answers(client: Side) -> None:
    await client.say(old_request(stream=False))
    await client.until(b'"exception":null}')


async def passes(client: Side) -> None:
    await client.say(PASSING % b"passes")
    await client.head()
    await client.reader.readexactly(len(WHOLE) * 50)


async def refuses(client: Side) -> None:
    await client.say(PASSING % b"refuses")
    await client.until(REFUSAL)


async def leaves(client: Side) -> None:
    await client.say(old_request())
    await client.until(b"}\r\n\r\n")
    client.writer.transport.abort()


Kind = Callable[[Side], Awaitable[None]]
KINDS: list[Kind] = [streams, answers, streams, passes, refuses, breaks_off, streams, leaves]


async def drive(url: str, exchanges: int, look: Callable[[int], None]) -> None:
    """Make ``exchanges`` exchanges of all kinds, and ``look`` between them."""
    numbers = count()

    async def work() -> None:
        client = await connect(url)
        while (number := next(numbers)) < exchanges:
            kind = KINDS[number % len(KINDS)]
            await kind(client)
            if kind is leaves:
                client = await connect(url)
            if number % (exchanges // LOOKS) == 0:
                look(number)
        client.writer.close()
        with suppress(OSError):
            await client.writer.wait_closed()

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    look(exchanges)


def memory(process: int) -> int:
    """The resident memory of a process, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


async def soak(exchanges: int) -> int:
    """Drive a process; returns the exit code."""
    begun = time.monotonic()
    seen: list[tuple[int, int]] = []
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        async with raw_upstream(play) as upstream:
            write_config(Path(file.name), upstream)
            arguments = ("serve", "--config", file.name)
            async with served(*arguments, PROXY_LOG_LEVEL="ERROR") as proxy:

                def look(number: int) -> None:
                    size = memory(proxy.process.pid)
                    seen.append((number, size))
                    seconds = time.monotonic() - begun
                    print(f"{number:>9} exchanges {size / 2**20:8.1f} MiB {seconds:7.1f} s")  # noqa: T201

                await drive(proxy.url, exchanges, look)
                code = await proxy.stopped()
    warm = max(size for number, size in seen if number <= exchanges // 2)
    grown = seen[-1][1] - warm
    print(f"grown by {grown / 2**20:.1f} MiB since the warm-up, {GROWTH / 2**20:.0f} allowed")  # noqa: T201
    return 1 if grown > GROWTH or code else 0


def main() -> int:
    """Read the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--exchanges", type=int, default=200_000, metavar="N")
    return asyncio.run(soak(max(parser.parse_args().exchanges, LOOKS)))


if __name__ == "__main__":
    sys.exit(main())
