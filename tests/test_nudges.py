"""Announcements of a version's end, and brown-outs: which answers they change, when and how."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.app import App
from proxy.core.nudges import SECOND, Brownout, Nudge, Window
from proxy.server.server import running
from support import (
    LAST,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    raw_upstream,
)

LINK = "https://example.com/move"
ANSWER = STREAM_HEAD + completion(" Hi") + LAST + chunk(b"")


def settings(upstream: str, nudge: dict[str, Any], **more: object) -> config.Config:
    """A configuration whose route of completions has a nudge."""
    complete = {"path": "/v1/complete", "methods": ["POST"], "upstream": "api", "nudge": nudge}
    raw = {
        "server": {"port": 0},
        "upstreams": {"api": {"base_url": upstream, "speaks": ["2023-06-01"]}},
        "routes": [complete | more, {"path": "/{rest:path}", "upstream": "api"}],
    }
    return config.parse(json.dumps(raw), "test", {})


@asynccontextmanager
async def asking(
    nudge: dict[str, Any], said: bytes = ANSWER, **more: object
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The proxy in front of an upstream that says one thing; and the heads that one heard."""
    heard: list[bytes] = []

    async def play(side: Side) -> None:
        while True:
            heard.append((await side.request())[0])
            await side.say(said)

    async with (
        raw_upstream(play) as upstream,
        running(App(settings(upstream, nudge, **more))) as url,
    ):
        yield url, heard


async def asked(url: str, request: bytes) -> tuple[str, str]:
    """The head and the body of an answer."""
    async with await connect(url) as client:
        await client.say(request.replace(b"\r\nhost:", b"\r\nconnection: close\r\nhost:", 1))
        head, _, body = (await client.rest()).decode().partition("\r\n\r\n")
        return head, body


def announced(head: str) -> dict[str, list[str]]:
    """The fields of a head that announce the end of a version, or refuse in a brown-out."""
    names = ("deprecation", "sunset", "link", "retry-after", "x-should-retry")
    pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
    return {name: [v for n, v in pairs if n == name] for name in names if name in dict(pairs)}


DATES = {"deprecation": "2026-12-01", "sunset": "2027-03-01T12:30:00+02:00", "link": LINK}
FIELDS = {
    "deprecation": ["@1796083200"],
    "sunset": ["Mon, 01 Mar 2027 10:30:00 GMT"],
    "link": [f'<{LINK}>; rel="deprecation"', f'<{LINK}>; rel="sunset"'],
}


@pytest.mark.anyio
async def test_a_translated_answer_tells_of_the_end_and_any_other_does_not() -> None:
    async with asking(DATES) as (url, _):
        translated, _ = await asked(url, old_request())
        passed, _ = await asked(
            url, old_request().replace(b"client:", b"anthropic-version: 2023-06-01\r\nclient:")
        )
    assert translated.startswith("HTTP/1.1 200 ")
    assert announced(translated) == FIELDS
    assert announced(passed) == {}


@pytest.mark.anyio
@pytest.mark.parametrize("bridge", [{}, {"bridge": "messages"}])
async def test_an_error_tells_of_it_too(bridge: dict[str, str]) -> None:
    refused = b"HTTP/1.1 429 Too Many\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\n{}"
    async with asking(DATES, refused, **bridge) as (url, _):
        theirs, _ = await asked(url, old_request())
        ours, _ = await asked(url, old_request().replace(b"{", b"["))
    assert theirs.startswith("HTTP/1.1 429 ")
    assert announced(theirs) == {**FIELDS, "retry-after": ["3"]}
    assert ours.startswith("HTTP/1.1 400 ")
    assert announced(ours) == FIELDS


@pytest.mark.anyio
async def test_what_the_upstream_says_of_its_own_end_stands() -> None:
    own = b'deprecation: @1\r\nlink: </own>; rel="deprecation"\r\ntransfer-encoding'
    async with asking(DATES, ANSWER.replace(b"transfer-encoding", own)) as (url, _):
        head, _ = await asked(url, old_request())
    assert announced(head) == {
        "deprecation": ["@1"],
        "sunset": FIELDS["sunset"],
        "link": ['</own>; rel="deprecation"', *FIELDS["link"]],
    }


def planned(begins: datetime, **more: object) -> dict[str, Any]:
    """A nudge whose rehearsal of an hour begins then."""
    window = {"from": begins.strftime("%Y-%m-%dT%H:%M:%SZ"), "for": "1h", **more}
    return {"sunset": "2999-01-01", "link": LINK, "brownouts": [window]}


@pytest.mark.anyio
async def test_a_call_during_a_brown_out_is_refused_in_words_that_lead_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=20)
    caplog.set_level(logging.INFO, "proxy.exchanges")
    async with asking(planned(begun)) as (url, heard):
        head, body = await asked(url, old_request())
        passed, _ = await asked(url, b"GET /v1/complete HTTP/1.1\r\nhost: proxy\r\n\r\n")
        _, figures = await asked(url, b"GET /-/metrics HTTP/1.1\r\nhost: proxy\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable")
    assert 'error="Brownout",route="/v1/complete",type="version_brownout"} 1.0' in figures
    error = json.loads(body)
    assert error.keys() == {"type", "error"}
    assert error["error"]["type"] == "version_brownout"
    assert "ends on 2999-01-01" in error["error"]["message"]
    assert f"until {begun + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}" in error["error"]["message"]
    assert LINK in error["error"]["message"]
    fields = announced(head)
    assert 2300 < int(fields.pop("retry-after")[0]) <= 2400
    assert fields == {
        "sunset": ["Tue, 01 Jan 2999 00:00:00 GMT"],
        "link": [f'<{LINK}>; rel="sunset"'],
        "x-should-retry": ["false"],
    }
    assert passed.startswith("HTTP/1.1 200 ")
    assert [head.split(b" ")[0] for head in heard] == [b"GET"]
    line = caplog.messages[0]
    assert "status=503 ended=refused" in line
    assert 'error="version_brownout: ' in line


@pytest.mark.anyio
@pytest.mark.parametrize("begins", [timedelta(hours=-2), timedelta(hours=2)])
async def test_before_and_after_a_brown_out_calls_are_served(begins: timedelta) -> None:
    async with asking(planned(datetime.now(UTC) + begins)) as (url, heard):
        head, _ = await asked(url, old_request())
    assert head.startswith("HTTP/1.1 200 ")
    assert len(heard) == 1


MOMENTS = st.datetimes(
    datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
)  # fmt: skip
SPANS = st.integers(1, 366 * 86_400).map(lambda number: number * SECOND)


@given(MOMENTS, SPANS, st.none() | SPANS, MOMENTS)
def test_a_window_is_open_from_its_start_for_its_length_each_time(
    start: datetime, length: timedelta, gap: timedelta | None, now: datetime
) -> None:
    every = None if gap is None else length + gap
    closes = Window(start, length, every).closes(now)
    times = 0 if every is None or now < start else (now - start) // every
    begun = start + times * (every or length)
    open_ = begun <= now < begun + length
    assert closes == (begun + length if open_ else None)


@given(MOMENTS, SPANS, st.sampled_from([-12, -5, 0, 1, 14]))
def test_where_on_earth_somebody_asks_makes_no_difference(
    now: datetime, length: timedelta, offset: int
) -> None:
    window = Window(now - length / 2, length, length * 2)
    assert window.closes(now.astimezone(timezone(timedelta(hours=offset)))) == window.closes(now)


@given(MOMENTS, SPANS, SPANS, st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_a_refusal_lasts_to_the_end_of_its_window_and_never_past_the_sunset(
    now: datetime, length: timedelta, left: timedelta, percent: int, draw: float
) -> None:
    window = Window(now - length / 2, length, percent=percent)
    nudge = Nudge(sunset=now + left, link=LINK, brownouts=(window,))
    refusal = nudge.refusal(now, draw)
    assert (refusal is not None) == (draw * 100 < percent)
    if refusal is not None:
        wait = int(dict(refusal.headers)[b"retry-after"])
        assert wait - 1 < min(length / 2, left) / SECOND <= wait
    assert nudge.refusal(now + left, draw) is None


@pytest.mark.parametrize(("percent", "refused"), [(1, 1), (50, 50), (100, 100)])
def test_of_a_hundred_calls_so_many_are_refused(percent: int, refused: int) -> None:
    now = datetime(2027, 2, 1, tzinfo=UTC)
    nudge = Nudge(
        sunset=datetime(2027, 3, 1, tzinfo=UTC),
        link=LINK,
        brownouts=(Window(now, timedelta(hours=1), percent=percent),),
    )
    refusals = [nudge.refusal(now, draw / 100) for draw in range(100)]
    assert sum(isinstance(refusal, Brownout) for refusal in refusals) == refused


@given(MOMENTS)
def test_the_fields_say_the_moment_in_their_own_notations(moment: datetime) -> None:
    fields = dict(Nudge(deprecation=moment, sunset=moment).fields([]))
    whole = moment.replace(microsecond=0)
    assert re.fullmatch(rb"@\d+", fields[b"deprecation"])
    assert datetime.fromtimestamp(int(fields[b"deprecation"][1:]), UTC) == whole
    assert parsedate_to_datetime(fields[b"sunset"].decode()) == whole
