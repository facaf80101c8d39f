"""Where an upstream is: its addresses, those that fail, and those that were known before."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from proxy.core import errors
from proxy.upstream import addresses
from proxy.upstream.lookup import look_up as look_up_truly
from support import Side, raw_upstream
from upstream.harness import ANSWER, ask, by_name, connected, named, said

pytestmark = pytest.mark.anyio


async def test_nobody_there_is_told_without_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with connected(url) as upstream:
        with pytest.raises(errors.UpstreamUnreachable) as refused:
            await ask(upstream)
    assert refused.value.message == "upstream api cannot be reached: connection refused"


async def test_a_name_that_nobody_knows_is_told() -> None:
    async with connected("http://no-such-host.invalid") as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="its name is not known"):
            await ask(upstream)


async def test_an_upstream_that_does_not_speak_tls_is_told_so() -> None:
    async def play(side: Side) -> None:
        await side.say(b"what?\r\n")

    async with raw_upstream(play) as url, connected(url.replace("p:", "ps:")) as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="TLS failed"):
            await ask(upstream)


def lookups(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have a name resolve to these addresses, one list per look-up; returns the look-ups."""
    asked: list[str] = []
    left = list(answers)

    def known(host: str) -> list[str]:
        if host in (DEAD, ALIVE):  # as loops ask, too
            return [host]
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    async def look_up(host: str, port: int) -> list[Any]:
        addresses = known(host)
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(addresses, "look_up", look_up)
    return asked


DEAD, ALIVE = "127.0.0.2", "127.0.0.1"


async def test_the_next_address_serves_where_the_first_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups(monkeypatch, [DEAD, ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        answer = await ask(upstream)
        assert answer.status == 204
        answer.close()


async def test_an_address_that_failed_is_not_believed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = lookups(monkeypatch, [DEAD], [ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        with pytest.raises(errors.UpstreamUnreachable):
            await ask(upstream)
        for _ in range(3):
            (await ask(upstream)).close()
    assert len(asked) == 2


async def test_a_burst_asks_for_a_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lookups(monkeypatch, [ALIVE])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        for answer in await asyncio.gather(*(ask(upstream) for _ in range(20))):
            answer.close()
    assert len(asked) == 1


async def hangs() -> None:
    await asyncio.Event().wait()


async def fails(error: int) -> None:
    raise socket.gaierror(error, "as the system says it")


@pytest.mark.parametrize("asked_again", [hangs, partial(fails, socket.EAI_AGAIN)])
async def test_a_host_is_where_it_was_while_no_name_server_answers(
    monkeypatch: pytest.MonkeyPatch, asked_again: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(addresses, "TTL", 0.0)
    monkeypatch.setattr(addresses, "STALE_AFTER", 0.01)

    async def look_up(host: str, port: int) -> Any:
        await asked_again()
        return await look_up_truly(host, port)

    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", look_up)
        for _ in range(2):
            (await ask(upstream)).close()


async def test_asking_where_a_host_is_leaves_time_to_connect_to_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sandbox has a second for both."""
    monkeypatch.setattr(addresses, "TTL", 0.0)
    async with (
        raw_upstream(said(ANSWER)) as url,
        connected(by_name(url), connect=addresses.STALE_AFTER) as upstream,
    ):
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", lambda *_: hangs())
        (await ask(upstream)).close()


async def test_a_host_whose_name_is_gone_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "TTL", 0.0)
    async with raw_upstream(said(ANSWER)) as url, connected(by_name(url)) as upstream:
        (await ask(upstream)).close()
        monkeypatch.setattr(addresses, "look_up", lambda *_: fails(socket.EAI_NONAME))
        for _ in range(2):
            with pytest.raises(errors.UpstreamUnreachable, match="its name is not known"):
                await ask(upstream)


async def test_where_a_host_was_but_is_no_more_it_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it takes to find where it is."""
    lookups(monkeypatch, [DEAD])
    monkeypatch.setattr(addresses, "STALE_AFTER", 0.0)

    async def look_up(_: str, port: int) -> Any:
        for _turn in range(20):
            await asyncio.sleep(0)
        return await look_up_truly(ALIVE, port)

    async with raw_upstream(said(ANSWER)) as url, connected(named(url)) as upstream:
        with pytest.raises(errors.UpstreamUnreachable):
            await ask(upstream)
        monkeypatch.setattr(addresses, "look_up", look_up)
        (await ask(upstream)).close()


@pytest.mark.parametrize("asked_again", [hangs, partial(fails, socket.EAI_AGAIN)])
async def test_an_upstream_that_was_down_is_found_again_while_no_name_server_answers(
    monkeypatch: pytest.MonkeyPatch, asked_again: Callable[[], Awaitable[None]]
) -> None:
    lookups(monkeypatch, [DEAD])
    async with raw_upstream(said(ANSWER)) as url, connected(named(url), connect=0.1) as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="connection refused"):
            await ask(upstream)
        monkeypatch.setattr(addresses, "look_up", lambda *_: asked_again())
        for _ in range(2):
            with pytest.raises(errors.UpstreamUnreachable, match="connection refused"):
                await ask(upstream)


async def test_a_name_server_that_is_down_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "look_up", lambda *_: fails(socket.EAI_AGAIN))
    async with connected("http://api.example") as upstream:
        with pytest.raises(errors.UpstreamUnreachable, match="no name server answers"):
            await ask(upstream)
