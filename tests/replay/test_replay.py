"""Recorded answers of upstreams, played through the proxy over real sockets.

There is no expected file: what must come out is worked out from what went in, by other rules than
the proxy's own (``reading``). The recordings beside this file are synthetic, one for each
peculiarity that was ever seen on the wire. More can be played from any other folder:

    PROXY_RECORDINGS=/some/folder pytest tests/replay

It is searched for ``*.sse``, ``*.json``, ``*.txt`` and the like, packed with gzip or not. What a
name does not say, such as another path or status, stands in ``NAME.meta.json`` (see ``recording``).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from replay import reading
from replay.reading import Json, NoAnswer, Refusal, Told
from replay.recording import Cut, Recording, recordings
from replay.wire import Got, Replayer, call, subsequence
from replay.wire import replayer as open_replayer
from support import COMPLETION_KEYS

ASKED_MODEL = "claude-v1"
COMPLETE, MESSAGES = "/v1/complete", "/v1/messages"

LINE_ENDS = ("\x85".encode(), "\u2028".encode(), "\u2029".encode())
"""What readers of 2023 take for the end of a line."""

KEPT = ("request-id", "retry-after", "x-should-retry")
"""Fields of an answer that a client needs, whatever its body becomes."""

HERE = Path(__file__).parent / "recordings"
ELSEWHERE = os.environ.get("PROXY_RECORDINGS")
RECORDINGS = [*recordings(HERE), *(recordings(Path(ELSEWHERE)) if ELSEWHERE else ())]
ERRORS = [
    recording
    for recording in RECORDINGS
    if recording.status >= 400
    and recording.method == "POST"
    and recording.endpoint in (COMPLETE, MESSAGES)
]


def answers(endpoint: str, *, stream: bool) -> list[Recording]:
    """The recordings of an endpoint, streams or whole bodies, that are not errors."""
    return [
        recording
        for recording in RECORDINGS
        if (recording.method, recording.endpoint, recording.status) == ("POST", endpoint, 200)
        and recording.streams == stream
    ]


def each_cut(
    played: Iterable[Recording], cuts: Iterable[Cut] = get_args(Cut)
) -> pytest.MarkDecorator:
    """Play each recording in each cut."""
    plays = [
        pytest.param(recording, cut, id=f"{recording}-{cut}")
        for recording in played
        for cut in cuts
    ]
    return pytest.mark.parametrize(("recording", "cut"), plays)


pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def replayer() -> AsyncIterator[Replayer]:
    """What all recordings are played on: to start a proxy takes longer than to play one."""
    async with open_replayer() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_crashes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is played, nobody's log tells of an error."""
    yield
    told = [record.getMessage() for record in caplog.get_records("call")]
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, told


def completion_call(*, stream: bool) -> bytes:
    """As programs of early 2023 called."""
    body = {
        "model": ASKED_MODEL,
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "max_tokens_to_sample": 9,
        "stream": stream,
    }
    return call("POST", COMPLETE, None, body)


def messages_call(recording: Recording, version: str) -> bytes:
    """A call of today's endpoint, at any version."""
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": recording.streams,
    }
    return call("POST", MESSAGES + recording.query, version, body)


# What holds for every answer that is translated.


def check_asked(got: Got, target: str) -> None:
    """The upstream was asked in its own version."""
    assert got.asked.line == f"POST {target} HTTP/1.1"
    assert got.asked.values("anthropic-version") == ["2023-06-01"]


def check_kept(got: Got, recording: Recording) -> None:
    """What the client needs of the upstream's fields is there, and the body is not packed."""
    kept = [
        (name, value)
        for name, value in recording.fields
        if name in KEPT or name.startswith("anthropic-ratelimit-")
    ]
    assert kept
    assert subsequence(kept, got.head.fields)
    assert not got.head.values("content-encoding")


def check_refused(got: Got, expected: Refusal, recording: Recording) -> None:
    """A failure is told as the API tells it, in the keys that old clients know."""
    assert got.status == expected.status
    assert got.phrase
    assert got.whole
    assert got.head.values("content-type") == ["application/json"]
    body = json.loads(got.body)
    assert list(body) == ["type", "error"]
    assert list(body["error"]) == ["type", "message"]
    assert body["type"] == "error"
    told = body["error"]["type"], body["error"]["message"]
    assert all(told)
    assert told == (expected.type or told[0], expected.message or told[1])
    check_kept(got, recording)


def old_events(got: Got, recording: Recording) -> list[Json]:
    """The events of a stream in the old framing, all but ``[DONE]``."""
    assert got.status == 200
    assert got.whole
    assert got.head.values("content-type") == ["text/event-stream; charset=utf-8"]
    check_kept(got, recording)
    *events, nothing = got.body.split(b"\r\n\r\n")
    assert nothing == b""
    assert events.pop() == b"data: [DONE]"
    for event in events:
        assert event.startswith(b"data: {")
        assert not any(end in event for end in (b"\r", b"\n", *LINE_ENDS))
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def check_completions(got: Got, expected: Told, recording: Recording) -> None:
    """Snapshots of a text that grows into the expected completion."""
    events = old_events(got, recording)
    assert all(list(event) == COMPLETION_KEYS for event in events)
    *growing, last = (event["completion"] for event in events)
    assert all(before != after and after.startswith(before) for before, after in pairwise(growing))
    assert all(growing)
    assert last.startswith(growing[-1] if growing else "")
    for event in events[:-1]:
        assert event == {
            "completion": event["completion"],
            "stop": None,
            "stop_reason": None,
            "truncated": False,
            "log_id": expected.log_id,
            "model": expected.model,
            "exception": None,
        }
    check_completion(events[-1], expected)


def check_completion(body: Json, expected: Told) -> None:
    """One completion, with its seven keys in their order."""
    assert list(body) == COMPLETION_KEYS
    check_exception(body["exception"], expected.exception)
    assert body == {
        "completion": expected.text,
        "stop": expected.stop,
        "stop_reason": expected.stop_reason,
        "truncated": False,
        "log_id": expected.log_id,
        "model": expected.model,
        "exception": body["exception"],
    }


def check_exception(told: str | None, expected: str | None) -> None:
    """The upstream's error in its own words; what a cut is called is the proxy's affair."""
    if expected == reading.CUT:
        assert told is not None
        assert told.removeprefix(expected) not in ("", told)
    else:
        assert told == expected


# /v1/complete, where the upstream still serves it.


@each_cut(answers(COMPLETE, stream=True))
async def test_a_streamed_completion_grows(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, completion_call(stream=True))
    check_asked(got, COMPLETE)
    if refusal := reading.refusal(recording.plain):
        check_refused(got, refusal, recording)
    else:
        check_completions(got, reading.streamed_completion(recording.plain), recording)


@each_cut(answers(COMPLETE, stream=False), ["whole", "random"])
async def test_a_completion_has_the_seven_keys(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, completion_call(stream=False))
    check_asked(got, COMPLETE)
    check_whole(got, recording)
    check_completion(json.loads(got.body), reading.completion(json.loads(recording.plain)))


# /v1/complete over the bridge.


@each_cut(answers(MESSAGES, stream=True))
async def test_a_streamed_message_grows_as_a_completion(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, completion_call(stream=True), bridge=True)
    check_asked(got, MESSAGES)
    if refusal := reading.refusal(recording.plain):
        check_refused(got, refusal, recording)
    else:
        expected = reading.streamed_message_as_completion(recording.plain, ASKED_MODEL)
        check_completions(got, expected, recording)


@each_cut(answers(MESSAGES, stream=False), ["whole", "random"])
async def test_a_message_becomes_a_completion(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, completion_call(stream=False), bridge=True)
    check_asked(got, MESSAGES)
    check_whole(got, recording)
    expected = reading.message_as_completion(json.loads(recording.plain), ASKED_MODEL)
    check_completion(json.loads(got.body), expected)


# /v1/messages at 2023-01-01.


@each_cut(answers(MESSAGES, stream=True))
async def test_a_streamed_message_grows_as_the_whole_message(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, messages_call(recording, "2023-01-01"))
    check_asked(got, recording.path)
    if refusal := reading.refusal(recording.plain):
        check_refused(got, refusal, recording)
        return
    *growing, last = old_events(got, recording)
    assert last["stop_reason"] is not None
    assert all(message["stop_reason"] is None for message in growing)
    try:
        *expected, end = reading.snapshots(recording.plain)
    except NoAnswer:  # so that it ends is all that can be asked for
        return
    assert growing == expected
    check_exception(last["exception"], end["exception"])
    assert last == end | {"exception": last["exception"]}


@each_cut(answers(MESSAGES, stream=False), ["whole", "random"])
async def test_a_message_has_the_two_fields_of_then(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    got = await replayer.play(recording, cut, messages_call(recording, "2023-01-01"))
    check_asked(got, recording.path)
    check_whole(got, recording)
    assert json.loads(got.body) == reading.in_2023_01_01(json.loads(recording.plain))


def check_whole(got: Got, recording: Recording) -> None:
    """A whole body in plain JSON."""
    assert got.status == 200
    assert got.whole
    assert got.head.values("content-type") == ["application/json"]
    assert not any(end in got.body for end in LINE_ENDS)
    check_kept(got, recording)


# Errors.


@pytest.mark.parametrize("stream", [False, True], ids=["body", "stream"])
@each_cut(ERRORS, ["whole", "random"])
async def test_an_error_keeps_its_status_on_every_road(
    replayer: Replayer, recording: Recording, cut: Cut, stream: bool
) -> None:
    expected = reading.refusal_in(recording.status, recording.plain)
    for bridge in (False, True):
        got = await replayer.play(recording, cut, completion_call(stream=stream), bridge=bridge)
        check_asked(got, MESSAGES if bridge else COMPLETE)
        check_refused(got, expected, recording)
    got = await replayer.play(recording, cut, messages_call(recording, "2023-01-01"))
    check_refused(got, expected, recording)


# Nothing taken, nothing touched.


@each_cut(RECORDINGS, ["whole", "events", "random"])
async def test_what_needs_no_translation_passes_through(
    replayer: Replayer, recording: Recording, cut: Cut
) -> None:
    body: dict[str, Any] | None = {"stream": True} if recording.method == "POST" else None
    versions = ["2023-06-01"]
    if recording.endpoint not in (COMPLETE, MESSAGES):
        versions.append("2023-01-01")
    for version in versions:
        got = await replayer.play(
            recording, cut, call(recording.method, recording.path, version, body)
        )
        assert got.asked.line == f"{recording.method} {recording.path} HTTP/1.1"
        assert got.asked.values("anthropic-version") == ["2023-06-01"]
        assert got.status == recording.status
        assert got.whole
        assert got.body == recording.wire
        assert subsequence(recording.fields, got.head.fields)


def test_the_folder_that_was_asked_for_has_recordings() -> None:
    """Else a misspelt name would look as if all of its recordings had passed."""
    assert not ELSEWHERE or any(recordings(Path(ELSEWHERE))), f"none below {ELSEWHERE}"


def test_no_recording_is_left_out() -> None:
    """Every answer of the two endpoints is played on a road of its own."""
    roads = [answers(path, stream=s) for path in (COMPLETE, MESSAGES) for s in (False, True)]
    played = [recording.name for road in (*roads, ERRORS) for recording in road]
    assert sorted(played) == sorted(
        recording.name for recording in RECORDINGS if recording.endpoint in (COMPLETE, MESSAGES)
    )
