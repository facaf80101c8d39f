"""Hundreds of exchanges at once, with random faults on both sides: no stream ever looks wrong.

A failure prints the seed of its random choices: ``PROXY_SEED=7`` repeats a run, and
``PROXY_CHAOS=20000`` runs more exchanges. What a client read before it disconnected is checked by
the same rules as a stream that was read to its end.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path

import pytest

from faults.kinds import MESSAGE, events
from proxy.app import App
from proxy.server.server import running
from support import (
    COMPLETION_KEYS,
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    raw_upstream,
    reset,
)
from support import settings as configured

pytestmark = pytest.mark.anyio

EXCHANGES = int(os.environ.get("PROXY_CHAOS", "400"))
SEED = int(os.environ.get("PROXY_SEED", random.SystemRandom().randrange(1 << 32)))
AT_ONCE = 50
LONGEST = 40
"""The most deltas of a text."""

STALL = 0.05
"""How long upstreams and clients pause, in seconds; the upstream's idle time is 20 times that."""


@dataclass(frozen=True)
class Plan:
    """What chance has in store for one exchange: everything follows from its number."""

    number: int

    @property
    def dice(self) -> random.Random:
        """The same dice each time, for whoever plays a part of it."""
        return random.Random(SEED * 1_000_003 + self.number)  # noqa: S311

    @property
    def words(self) -> list[str]:
        """The deltas of its text, each of which names the exchange."""
        dice = self.dice
        odd = ["", " \u2028", ' "\\', " \U0001f600", "\r\n\r\ndata: [DONE]", " é"]
        count = dice.randrange(1, LONGEST)
        return [f" {self.number}.{index}{dice.choice(odd)};" for index in range(count)]

    @property
    def upstream(self) -> str:
        return self.dice.choice(UPSTREAMS)

    @property
    def client(self) -> str:
        return self.dice.choice(["reads"] * 3 + ["leaves", "resets", "trickles", "is slow"])


END = chunk(b"")
ERROR = chunk(
    b'event: error\r\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Overloaded"}}\r\n\r\n'
)
GARBAGE = chunk(
    b"event: completion\r\ndata: {what\xff\r\n\r\n"
    b"event: content_block_delta\r\ndata: {what\xff\r\n\r\n"
)


class Act(Enum):
    """What an upstream does, beside saying something."""

    PAUSE = "a moment"
    STALL = "many moments"
    CLOSE = "close the connection"
    RESET = "close it as a process that dies does"
    WAIT = "do nothing more until the other end closes"


Script = list[bytes | Act]


def parts_of(data: bytes, dice: random.Random) -> list[bytes]:
    """Some bytes in parts that end anywhere."""
    parts = []
    while data:
        size = dice.choice([1, 2, 7, 100, 1000])
        parts.append(data[:size])
        data = data[size:]
    return parts


@dataclass(frozen=True)
class Wire:
    """How an upstream says a text: what comes first, each word, and what comes last."""

    first: bytes
    word: Callable[[str], bytes]
    last: bytes


def delta(word: str) -> bytes:
    text = {"type": "text_delta", "text": word}
    return events({"type": "content_block_delta", "index": 0, "delta": text})


NATIVE = Wire(b"", completion, LAST)
BRIDGED = Wire(
    events(
        {"type": "message_start", "message": MESSAGE},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ),
    delta,
    events(
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ),
)

Write = Callable[[list[bytes], int, bytes, random.Random], Script]
"""Makes a script: of the events, how many of them come before it goes wrong, the last, and dice."""

WHOLE: dict[str, Write] = {
    "answers": lambda events, _, last, __: [b"".join(events) + last + END],
    "answers in odd parts": lambda events, _, last, dice: [
        *parts_of(b"".join(events) + last + END, dice)
    ],
    "answers slowly": lambda events, _, last, __: [
        step for event in (*events, last + END) for step in (event, Act.PAUSE)
    ],
    "stalls": lambda events, some, last, _: [
        *events[:some],
        Act.STALL,
        *events[some:],
        last + END,
    ],
    "closes after its answer": lambda events, _, last, __: [
        b"".join(events) + last + END,
        Act.CLOSE,
    ],
}
"""How upstreams say the whole text."""

CUT: dict[str, Write] = {
    "closes": lambda events, some, _, __: [*events[:some], Act.CLOSE],
    "resets": lambda events, some, _, __: [*events[:some], Act.RESET],
    "cuts within an event": lambda events, some, last, dice: [
        *events[:some],
        last[: dice.randrange(1, len(LAST) - 9)],
        Act.CLOSE,
    ],
    "stalls and cuts": lambda events, some, _, __: [*events[:some], Act.STALL, Act.CLOSE],
    "stalls for ever": lambda events, some, _, __: [*events[:some], Act.WAIT],
    "ends without an end": lambda events, some, _, __: [*events[:some], chunk(b"")],
    "says garbage": lambda events, some, _, __: [*events[:some], GARBAGE + chunk(b"")],
    "says a broken chunk": lambda events, some, _, __: [*events[:some], b"zz\r\nwhat\r\n"],
    "says an error": lambda events, some, _, __: [*events[:some], ERROR + chunk(b"")],
}
"""How they do not."""

HEADLESS: dict[str, Script] = {
    "refuses": [b"HTTP/1.1 529 Overloaded\r\ncontent-length: 2\r\n\r\n{}"],
    "says nothing": [Act.CLOSE],
    "says no HTTP": [b"what?\r\n\r\n"],
    "breaks off its head": [STREAM_HEAD[:40], Act.RESET],
}
"""How they do not even begin."""

UPSTREAMS = sorted((*WHOLE, *CUT, *HEADLESS))


def script(plan: Plan, wire: Wire) -> Script:
    """What the upstream of an exchange does."""
    if plan.upstream in HEADLESS:
        return HEADLESS[plan.upstream]
    said = [*map(wire.word, plan.words)]
    some = plan.dice.randrange(len(said) + 1)
    write = (WHOLE | CUT)[plan.upstream]
    return [STREAM_HEAD + wire.first, *write(said, some, wire.last, plan.dice)]


class Services:
    """The upstream of all exchanges; it knows how many connections are open."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.open = 0
        self.played: Counter[str] = Counter()

    async def play(self, side: Side) -> None:
        self.open += 1
        try:
            while await self._answer(side):
                pass
        finally:
            self.open -= 1

    async def _answer(self, side: Side) -> bool:
        """Answer one request; says whether the connection takes another."""
        _, body = await side.request()
        plan = Plan(int(json.loads(body)["metadata"]["user_id"]))
        self.played[plan.upstream] += 1
        for step in script(plan, self.wire):
            match step:
                case bytes():
                    await side.say(step)
                case Act.PAUSE | Act.STALL:
                    await asyncio.sleep(STALL / 10 if step is Act.PAUSE else STALL)
                case Act.WAIT:
                    await side.rest()
                case Act.RESET:
                    reset(side)
                    return False
                case Act.CLOSE:
                    return False
        return True


def request(plan: Plan) -> bytes:
    """The request of an exchange, which names it where it crosses untouched."""
    body = {
        "model": "claude-v1",
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "max_tokens_to_sample": 9,
        "stream": True,
        "metadata": {"user_id": str(plan.number)},
    }
    sent = json.dumps(body).encode()
    head = b"POST /v1/complete HTTP/1.1\r\nhost: proxy\r\ncontent-length: %d\r\n\r\n"
    return head % len(sent) + sent


async def played(url: str, plan: Plan) -> tuple[bytes, bool]:
    """What the client of an exchange got, and whether it waited for the end."""
    dice = plan.dice
    async with await connect(url) as client:
        if plan.client == "trickles":
            for part in parts_of(request(plan), dice):
                await client.say(part)
                await asyncio.sleep(0)  # so that the proxy reads it before the next
        else:
            await client.say(request(plan))
        if plan.client in ("leaves", "resets"):
            got = await some_of(client, dice.randrange(20_000))
            if plan.client == "resets":
                reset(client)
            return got, False
        return await answer_of(client, slowly=plan.client == "is slow"), True


async def some_of(client: Side, size: int) -> bytes:
    """As much as comes of ``size`` bytes before there is a pause."""
    got = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(STALL):
            while len(got) < size and (part := await client.reader.read(size - len(got))):
                got += part
    return got


async def answer_of(client: Side, *, slowly: bool) -> bytes:
    """A whole answer, by its framing."""
    got = await client.head()
    async with asyncio.timeout(PATIENCE):
        if b"transfer-encoding: chunked" not in got:
            length = int(got.partition(b"content-length: ")[2].split(b"\r\n")[0])
            return got + await client.reader.readexactly(length)
        while not got.endswith(b"\r\n0\r\n\r\n"):
            if slowly:
                await asyncio.sleep(STALL / 50)
            part = await client.reader.read(999 if slowly else 65536)
            assert part, "the connection was cut"
            got += part
    return got


def check(plan: Plan, got: bytes, *, to_the_end: bool) -> str:
    """Hold what one client got to the rules; says how it ended."""
    head, has_head, body = got.partition(b"\r\n\r\n")
    if not has_head and not to_the_end:
        return "left before"
    if not head.startswith(b"HTTP/1.1 200 "):
        assert plan.upstream not in WHOLE, head
        if to_the_end:
            assert list(json.loads(body)) == ["type", "error"]
        return "refused"
    events = unchunked(body).split(b"\r\n\r\n")
    if to_the_end:
        assert events[-2:] == [b"data: [DONE]", b""]
    whole = events[:-1]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in whole)
    ended = b"data: [DONE]" in whole
    if ended:
        assert whole.index(b"data: [DONE]") == len(whole) - 1
        whole.pop()
    snapshots = [json.loads(event.removeprefix(b"data: ")) for event in whole]
    check_snapshots(plan, snapshots, ended=ended)
    return "ended" if ended else "left"


def check_snapshots(plan: Plan, snapshots: list[dict[str, object]], *, ended: bool) -> None:
    """The texts grow, are the exchange's own, and are called whole only if they are."""
    text = ""
    own = "".join(plan.words)
    for index, snapshot in enumerate(snapshots):
        assert list(snapshot) == COMPLETION_KEYS
        now = str(snapshot["completion"])
        assert now.startswith(text)
        assert own.startswith(now)
        is_last = snapshot["stop_reason"] is not None
        assert is_last or len(now) > len(text)
        assert not is_last or index == len(snapshots) - 1
        assert is_last or snapshot["exception"] is None
        text = now
    if not ended:
        return
    last = snapshots[-1]
    assert last["stop_reason"] is not None
    if plan.upstream in WHOLE:
        assert (last["completion"], last["exception"]) == (own, None)
        assert last["stop_reason"] == "stop_sequence"
    else:
        assert last["stop_reason"] == "max_tokens"
        assert last["exception"]


def unchunked(data: bytes) -> bytes:
    """The body within its chunks, as far as it came."""
    body = b""
    while data:
        size, found, data = data.partition(b"\r\n")
        if not found:
            break
        length = int(size, 16)
        body += data[:length]
        data = data[length + 2 :]
    return body


async def clean_exchange(url: str) -> None:
    """An exchange without faults, after all those with."""
    plan = next(
        plan
        for plan in map(Plan, count(EXCHANGES))
        if (plan.upstream, plan.client) == ("answers", "reads")
    )
    got, _ = await played(url, plan)
    assert check(plan, got, to_the_end=True) == "ended"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so; the loop goes on meanwhile."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not is_so():  # noqa: ASYNC110  (nobody tells of it)
                await asyncio.sleep(0.01)  # seldom: the loop has other exchanges to serve
    except TimeoutError:
        raise AssertionError(what) from None


@asynccontextmanager
async def proxy(services: Services) -> AsyncIterator[tuple[App, str]]:
    """The proxy in front of them."""
    async with raw_upstream(services.play) as upstream:
        api = {
            "base_url": upstream,
            "speaks": ["2023-06-01"],
            "timeouts": {"first_byte": STALL * 20, "idle": STALL * 20},
        }
        app = App(
            configured(upstream, bridge=services.wire is BRIDGED, more={"upstreams": {"api": api}})
        )
        async with running(app) as url:
            yield app, url


@pytest.mark.parametrize("wire", [NATIVE, BRIDGED], ids=["native", "bridged"])
async def test_under_chaos_every_stream_is_true_and_nothing_is_left(wire: Wire) -> None:
    services = Services(wire)
    endings: Counter[str] = Counter()
    numbers = iter(range(EXCHANGES))

    async def work(url: str) -> None:
        for number in numbers:
            plan = Plan(number)
            try:
                got, to_the_end = await played(url, plan)
                endings[check(plan, got, to_the_end=to_the_end)] += 1
            except BaseException as error:
                error.add_note(
                    f"PROXY_SEED={SEED}, exchange {number}: "
                    f"the upstream {plan.upstream}, the client {plan.client}"
                )
                raise

    async with proxy(services) as (app, url):
        before = descriptors(), len(asyncio.all_tasks())
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(url))
        await settled("exchanges are left", lambda: not len(app.exchanges))
        await clean_exchange(url)
        await app.reload(app.config)  # which closes the connections that are free, and no other
        await settled("connections to the upstream are left", lambda: not services.open)
        await settled("tasks are left", lambda: len(asyncio.all_tasks()) <= before[1])
        gc.collect()
        await settled("descriptors are left", lambda: descriptors() <= before[0])
    assert endings.total() == EXCHANGES
    assert set(services.played) == set(UPSTREAMS)
    # How much a client has when it leaves is for the machine to say.
    assert {"ended", "refused"} < set(endings) <= {"ended", "left", "left before", "refused"}
