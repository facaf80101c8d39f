"""Others have their turn, however much one upstream sends at once."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from faults.answers import check_good, parsed, unchunked
from faults.kinds import BRIDGED, BYTES, END, NATIVE, STREAMS, WHOLE, Exchange
from faults.proxies import EVENT_LIMIT, Proxy, ScriptedUpstream, proxied
from proxy.exchange.client import Client
from proxy.exchange.streaming import IN_A_TURN
from proxy.translation.stream import StreamTranslation
from proxy.upstream import answer, http1
from proxy.upstream.coding import PIECE, SLICE, Decoding
from support import LAST, STREAM_HEAD, Certificate, Side, chunk, completion, raw_upstream

pytestmark = pytest.mark.anyio


class Turns:
    """How often others had their turn so far."""

    past = 0


async def asked_in_turns(proxy: Proxy, exchange: Exchange, turns: Turns) -> bytes:
    """Ask once, and count the turns until that is over."""
    async with proxy.nothing_left():
        asked = asyncio.create_task(proxy.ask(exchange.request))
        while not asked.done():
            turns.past += 1
            await asyncio.sleep(0)  # which is the turn
        return await asked


async def good_in_turns(proxy: Proxy, exchange: Exchange, turns: Turns) -> None:
    """As asked_in_turns, where all goes well."""
    check_good(exchange, await asked_in_turns(proxy, exchange, turns))


@pytest.mark.parametrize("amount", [200_000, 0], ids=["large", "empty"])
@pytest.mark.parametrize("exchange", [NATIVE, BRIDGED, WHOLE], ids=lambda exchange: exchange.name)
async def test_others_have_their_turn_while_a_bomb_is_unpacked(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, exchange: Exchange, amount: int
) -> None:
    """Be it one member that becomes much, or very many that become nothing."""
    turns = Turns()
    unpacked: list[int] = []
    unpack = Decoding.__call__

    def watched(self: Decoding, part: bytes) -> Iterator[bytes]:
        for piece in unpack(self, part):
            unpacked.append(turns.past)
            yield piece

    monkeypatch.setattr(Decoding, "__call__", watched)
    head, body = unchunked(exchange)
    filler = (b"\n" if exchange.streams else b" ") * amount
    nothing = b"" if amount else gzip.compress(b"") * 4000
    body = nothing + gzip.compress(filler + body)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.upstream.good = head[:-2] + fields + body
    await good_in_turns(proxy, exchange, turns)
    assert len(unpacked) >= (len(filler) // PIECE or len(nothing) // SLICE)
    assert len(set(unpacked)) == len(unpacked)


@pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.name)
async def test_others_have_their_turn_while_much_that_came_at_once_is_translated(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, exchange: Exchange
) -> None:
    turns = Turns()
    fed: Counter[int] = Counter()
    feed = StreamTranslation.feed_piece

    def watched(self: StreamTranslation, chunk: bytes, *, more: bool) -> Iterator[bytes]:
        fed[turns.past] += len(chunk)
        return feed(self, chunk, more=more)

    monkeypatch.setattr(StreamTranslation, "feed_piece", watched)
    head, body = unchunked(exchange)
    body = b"\n" * 100_000 + body
    proxy.upstream.good = head[:-2] + b"content-length: %d\r\n\r\n" % len(body) + body
    await good_in_turns(proxy, exchange, turns)
    assert sum(fed.values()) == len(body)
    assert max(fed.values()) <= 2 * IN_A_TURN


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_others_have_their_turn_while_events_repeat_a_long_text(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, version: bytes
) -> None:
    """However fast the client takes them, and whichever way they are sent."""
    turns = Turns()
    written: Counter[int] = Counter()
    write = Client._write_at_once

    def watched(self: Client, parts: Sequence[bytes]) -> bool:
        written[turns.past] += 1
        return write(self, parts)

    monkeypatch.setattr(Client, "_write_at_once", watched)
    monkeypatch.setattr("proxy.exchange.client.IN_A_TURN", 1)
    texts = ["x" * (EVENT_LIMIT // 2)] * 40
    proxy.upstream.good = STREAM_HEAD + b"".join(map(completion, texts)) + LAST + END
    exchange = replace(NATIVE, request=NATIVE.request.replace(b"1.1", version, 1))
    *_, last, _, _ = (await asked_in_turns(proxy, exchange, turns)).split(b"data: ")
    assert b'"completion":"%b"' % "".join(texts).encode() in last
    assert max(written.values()) == 1


async def test_others_have_their_turn_while_very_many_chunks_arrive(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is something to read, uvloop reads on."""
    turns = Turns()
    read: Counter[int] = Counter()
    arrived = answer.Answer.arrived

    def watched(self: answer.Answer, data: bytes) -> None:
        read[turns.past] += 1
        arrived(self, data)

    monkeypatch.setattr(answer.Answer, "arrived", watched)
    proxy.upstream.good = BYTES.parts[0] + chunk(b"x" * (4 << 20)) + END
    assert parsed(await asked_in_turns(proxy, BYTES, turns)).whole
    assert max(read.values()) <= 2


@pytest.mark.usefixtures("anyio_backend")
async def test_others_have_their_turn_while_very_small_records_are_deciphered(
    monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Certificate]
) -> None:
    """As long as there is something to read, event loops decipher it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["right"].file))
    turns = Turns()
    read: Counter[int] = Counter()
    arrived = answer.Answer.arrived

    def watched(self: answer.Answer, data: bytes) -> None:
        read[turns.past] += len(data) > http1.DECRYPTED_AT_ONCE
        arrived(self, data)

    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
        side.writer.writelines([b"x"] * 60_000)
        await side.rest()

    monkeypatch.setattr(answer.Answer, "arrived", watched)
    upstream = ScriptedUpstream()
    upstream.scripts.append(play)
    async with (
        raw_upstream(upstream.play, certificates["right"].serve()) as url,
        proxied(upstream, url, {}) as proxy,
    ):
        assert parsed(await asked_in_turns(proxy, BYTES, turns)).whole
    assert max(read.values()) == 1
