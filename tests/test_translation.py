"""Translations as a whole: properties that hold for every text, however it is split."""

from __future__ import annotations

import json
import re
import tracemalloc
from contextlib import suppress
from itertools import pairwise
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bridge.models import ModelTarget
from proxy.bridge.stops import MOST_STOPS
from proxy.core import jsontext
from proxy.core.errors import InvalidRequest, UpstreamNonsense, UpstreamRefused
from proxy.core.sse import Decoder
from proxy.exchange.streaming import Stream
from proxy.formats import message_so_far
from proxy.formats.message_so_far import MOST_FIELDS
from proxy.translation import runs
from proxy.translation import stream as streams
from proxy.translation.stream import StreamTranslation
from proxy.translation.translation import MOST_VALUES, Options, Translation
from proxy.versions import messages_became_incremental
from proxy.versions.complete_through_messages import (
    MOST_OPEN,
    MOST_SEARCHED,
    MOST_SEARCHED_WHOLE,
    CompleteThroughMessages,
)
from support import COMPLETION_KEYS

BODY = {"model": "claude-v1", "prompt": "\n\nHuman: Hi\n\nAssistant:", "max_tokens_to_sample": 9}
MAP = [ModelTarget("claude-*", "claude-haiku-4-5")]
PIECES = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=12)


def translation(
    *, bridge: bool, stops: list[str] | None = None, newest_only: bool = False
) -> Translation:
    """A translation for a client of 2023-01-01 that has made its request."""
    made = Translation(
        "2023-01-01",
        "2023-06-01",
        CompleteThroughMessages(MAP) if bridge else None,
        Options(newest_only=newest_only),
    )
    body = {**BODY, "stream": True, "stop_sequences": stops}
    made.request("/v1/complete", json.dumps(body).encode())
    return made


def named(name: str, body: dict[str, Any]) -> bytes:
    """One event as upstreams write it."""
    return f"event: {name}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def completions(pieces: list[str]) -> bytes:
    """A stream of /v1/complete at 2023-06-01."""
    shared = {"type": "completion", "model": "claude-2", "log_id": "compl_1", "stop": None}
    events = [named("completion", {**shared, "completion": p, "stop_reason": None}) for p in pieces]
    last = {**shared, "completion": "", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"}
    return b"".join([*events, named("completion", last)])


def messages(pieces: list[str], reason: str = "end_turn") -> bytes:
    """A stream of /v1/messages at 2023-06-01."""
    message: dict[str, Any] = {
        "id": "msg_1",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
    }
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}}
        for p in pieces
    ]
    return b"".join(
        [
            named("message_start", {"type": "message_start", "message": message}),
            *(named("content_block_delta", delta) for delta in deltas),
            named("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}}),
            named("message_stop", {"type": "message_stop"}),
        ]
    )


def begun(bridge: bool) -> bytes:
    """A stream up to where the upstream would say how it ends."""
    stream = messages(["Hi"]) if bridge else completions(["Hi"])
    return stream[: stream.rindex(b"event: message_delta" if bridge else b"event: completion")]


def played(made: StreamTranslation, stream: bytes, cut: int = 1 << 20) -> bytes:
    """What the client gets for a stream that arrives in chunks of ``cut`` bytes."""
    chunks = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    fed = b"".join(piece for chunk in chunks for piece in made.feed(chunk))
    return fed + b"".join(made.finish())


def snapshots(stream: bytes) -> list[dict[str, Any]]:
    """The events of an old stream, checked for the framing that all of them share."""
    *events, rest = stream.split(b"\r\n\r\n")
    assert rest == b""
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    assert events.pop() == b"data: [DONE]"
    bodies = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert all(list(body) == COMPLETION_KEYS for body in bodies)
    assert [body["stop_reason"] is None for body in bodies] == [True] * (len(bodies) - 1) + [False]
    return bodies


@given(pieces=PIECES, cut=st.integers(1, 40), bridge=st.booleans())
def test_snapshots_grow_and_the_last_one_is_the_answer_that_is_not_streamed(
    pieces: list[str], cut: int, bridge: bool
) -> None:
    text = "".join(pieces)
    stream = messages(pieces) if bridge else completions(pieces)
    events = snapshots(played(translation(bridge=bridge).stream(), stream, cut))
    texts = [event["completion"] for event in events]
    assert all(
        len(before) < len(after) and after.startswith(before)
        for before, after in pairwise(texts[:-1])
    )
    whole = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "id": "msg_1"}
    if not bridge:
        whole = json.loads(list(Decoder().feed(completions(pieces)))[-1].data) | {
            "completion": text
        }
    body = translation(bridge=bridge).response(json.dumps(whole).encode())
    assert json.loads(body) == events[-1]
    assert list(json.loads(body)) == COMPLETION_KEYS


@given(pieces=PIECES, cut=st.integers(1, 40), bridge=st.booleans())
def test_superseded_snapshots_cost_nothing_but_events(
    pieces: list[str], cut: int, bridge: bool
) -> None:
    stream = messages(pieces) if bridge else completions(pieces)
    every = snapshots(played(translation(bridge=bridge).stream(), stream, cut))
    latest = snapshots(played(translation(bridge=bridge, newest_only=True).stream(), stream, cut))
    assert latest[-1] == every[-1]
    remaining = iter(every)
    assert all(event in remaining for event in latest)


def test_a_message_that_is_superseded_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    printer = Mock(wraps=jsontext.dumps)
    monkeypatch.setattr(jsontext, "dumps", printer)
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    stream = messages(["word "] * 100)
    start = stream.index(b"event: content_block_delta")
    list(made.feed(stream[:start] + named("content_block_start", block)))
    printer.reset_mock()
    got = b"".join(made.feed(stream[start:]))
    assert b"word " * 100 in got
    assert printer.call_count == got.count(b"data: {") > 0


def test_a_message_that_is_superseded_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    blocks = [{"type": "text"} for _ in range(9_000)]
    list(made.feed(named("message_start", {"message": {"content": blocks}})))
    delta = {"index": 0, "delta": {"type": "text_delta", "text": "a"}}
    monkeypatch.setattr(jsontext, "dumps", lambda _: b"{}")  # printing takes much memory
    tracemalloc.start()
    try:
        assert len(list(made.feed(named("content_block_delta", delta) * 9))) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(blocks)


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=12),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_a_stop_sequence_cuts_alike_in_pieces_and_whole(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    last = snapshots(played(translation(bridge=True, stops=stops).stream(), messages(pieces)))[-1]
    whole = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "id": "msg_1"}
    body = translation(bridge=True, stops=stops).response(json.dumps(whole).encode())
    assert json.loads(body) == last
    said = text if text[:1].isspace() or not text else " " + text
    hits = [(at + len(stop), at) for stop in stops if (at := said.find(stop)) >= 0]
    assert last["completion"] == (said[: min(hits)[1]] if hits else said)
    assert (last["stop"] in stops) == bool(hits)


@pytest.mark.parametrize("bridge", [False, True])
def test_line_ends_of_unicode_are_escaped(bridge: bool) -> None:
    pieces = ["a\u2028b", "c\u2029d", "e\x85f"]
    got = played(
        translation(bridge=bridge).stream(), messages(pieces) if bridge else completions(pieces)
    ).decode()
    assert not {"\u2028", "\u2029", "\x85"} & set(got)
    assert snapshots(got.encode())[-1]["completion"].strip() == "".join(pieces)


def test_a_surrogate_pair_that_was_cut_in_two_is_whole_again() -> None:
    made = translation(bridge=True).stream()
    stream = messages(["HIGH", "LOW"]).replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude42")
    assert snapshots(played(made, stream))[-1]["completion"] == " 🙂"


@pytest.mark.parametrize("text", ["Hi\n\nHuman: you", "Hi"])
def test_a_stream_ends_once_though_its_end_came_in_one_event_with_a_stop(text: str) -> None:
    asked = Translation("2023-01-01", "2023-01-01", CompleteThroughMessages(MAP))
    asked.request("/v1/complete", json.dumps({**BODY, "stream": True}).encode())
    made = asked.stream()
    message = {
        "id": "msg_1",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
    }
    got = b"".join(made.feed(b"data: %b\r\n\r\n" % json.dumps(message).encode()))
    assert [event["stop"] for event in snapshots(got)] == [None, "\n\nHuman:"]
    assert got.count(b"data: [DONE]") == 1


@pytest.mark.parametrize("bridge", [False, True])
def test_a_snapshot_printed_late_shows_its_own_moment(bridge: bool) -> None:
    pieces = ["One", " two", " three"]
    made = translation(bridge=bridge).stream()
    late = list(made.feed(messages(pieces) if bridge else completions(pieces)))
    texts = [event["completion"].strip() for event in snapshots(b"".join(late))]
    assert texts[:3] == ["One", "One two", "One two three"]


@pytest.mark.parametrize("bridge", [False, True])
def test_an_error_before_all_else_is_raised(bridge: bool) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    made = translation(bridge=bridge).stream()
    with pytest.raises(UpstreamRefused, match="Overloaded") as caught:
        list(made.feed(named("ping", {"type": "ping"}) + named("error", error)))
    assert caught.value.status == 529
    assert not made.started


@pytest.mark.parametrize("bridge", [False, True])
def test_a_stream_without_an_end_ends_as_a_failure(bridge: bool) -> None:
    made = translation(bridge=bridge).stream()
    last = snapshots(played(made, begun(bridge)))[-1]
    assert last["completion"].strip() == "Hi"
    assert last["stop_reason"] == "max_tokens"
    assert last["exception"].startswith("api_error: ")
    assert isinstance(made.failure, UpstreamNonsense)
    assert (last["log_id"], last["model"]) == (
        ("compl_1", "claude-v1") if bridge else ("compl_1", "claude-2")
    )


def test_what_is_not_json_is_nonsense() -> None:
    with pytest.raises(UpstreamNonsense):
        list(translation(bridge=True).stream().feed(b"event: message_start\ndata: boom\n\n"))
    with pytest.raises(UpstreamNonsense):
        translation(bridge=True).response(b"<html>")


@given(st.binary(max_size=200), st.booleans())
def test_no_stream_whatever_breaks_a_translation(noise: bytes, bridge: bool) -> None:
    made = translation(bridge=bridge).stream()
    list(made.feed(begun(bridge)))
    try:
        got = list(made.feed(noise))
    except (UpstreamNonsense, UpstreamRefused):
        got = []
    assert b"".join(got) + b"".join(made.finish()) != b""


@given(
    st.dictionaries(
        st.sampled_from(
            ["type", "message", "delta", "content_block", "error", "completion", "index"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["type", "text", "stop_reason", "content"]), inner
                )
            ),
        ),
    ),
    st.sampled_from(
        ["message_start", "content_block_delta", "message_delta", "completion", "error"]
    ),
    st.booleans(),
)
def test_no_body_whatever_breaks_a_translation(
    body: dict[str, Any], name: str, bridge: bool
) -> None:
    made = translation(bridge=bridge).stream()
    list(made.feed(begun(bridge)))
    list(made.feed(named(name, body)))
    assert made.ended or list(made.finish())


DEEP = b"[" * 600 + b"]" * 600


def test_what_is_nested_too_deeply_is_refused_and_not_a_crash() -> None:
    made = Translation("2023-01-01", "2023-06-01", CompleteThroughMessages(MAP))
    body = json.dumps(BODY).encode()[:-1] + b',"tags":' + DEEP + b"}"
    assert made.request("/v1/complete", body)[0] == "/v1/messages"
    native = Translation("2023-01-01", "2023-06-01")
    with pytest.raises(InvalidRequest, match=r"nested too deeply|recursion"):
        native.request("/v1/complete", b'{"top_k":-1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"max_tokens_to_sample": "9"}, "max_tokens_to_sample: Input should be a valid integer"),
        ({"max_tokens_to_sample": True}, "max_tokens_to_sample: Input should be a valid integer"),
        ({"max_tokens_to_sample": 9.5}, "max_tokens_to_sample: Input should be a valid integer"),
        ({"metadata": ["user_id"]}, "metadata: Input should be a valid dictionary"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id: Input should be a valid string"),
    ],
)
def test_a_member_of_another_type_is_refused_over_the_bridge(
    members: dict[str, Any], told: str
) -> None:
    made = Translation("2023-01-01", "2023-06-01", CompleteThroughMessages(MAP))
    with pytest.raises(InvalidRequest, match=re.escape(told)):
        made.request("/v1/complete", json.dumps(BODY | members).encode())


TOO_DEEP = "[" * 1000 + "]" * 1000


@pytest.mark.parametrize(
    ("endpoint", "events"),
    [
        ("/v1/complete", [("completion", f'{{"completion":"a","log_id":{TOO_DEEP}}}')]),
        (
            "/v1/messages",
            [
                ("message_start", '{"message":{"content":[]}}'),
                ("content_block_start", f'{{"index":0,"content_block":{{"type":{TOO_DEEP}}}}}'),
            ],
        ),
        (
            "/v1/messages",
            [
                ("message_start", '{"message":{"content":[]}}'),
                ("content_block_start", '{"index":0,"content_block":{"type":"tool_use"}}'),
                (
                    "content_block_delta",
                    '{"index":0,"delta":{"type":"input_json_delta","partial_json":"%b"}}',
                ),
                ("content_block_stop", '{"index":0}'),
            ],
        ),
    ],
    ids=["completion", "block", "input"],
)
def test_an_event_that_is_nested_too_deeply_does_not_keep_its_stream_from_ending(
    endpoint: str, events: list[tuple[str, str]]
) -> None:
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request(endpoint, json.dumps({"stream": True}).encode())
    made = asked.stream()
    stream = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events)
    with suppress(UpstreamNonsense):
        list(made.feed(stream.replace("%b", TOO_DEEP).encode()))
    end = b"".join(made.finish())
    assert b'"stop_reason":"max_tokens"' in end
    assert end.endswith(b"data: [DONE]\r\n\r\n")


def test_a_body_that_is_nested_too_deeply_is_nonsense() -> None:
    made = Translation("2023-06-01", "2023-01-01")
    made.request("/v1/complete", json.dumps(BODY).encode())
    with pytest.raises(UpstreamNonsense):
        made.response(f'{{"completion":"","exception":{TOO_DEEP}}}'.encode())


@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize("answer", [{}, {"content": [], "stop_reason": None}, {"completion": 1}])
def test_an_answer_that_is_none_is_not_made_one(bridge: bool, answer: dict[str, Any]) -> None:
    with pytest.raises(UpstreamNonsense):
        translation(bridge=bridge).response(json.dumps(answer).encode())


@pytest.mark.parametrize("bridge", [False, True])
def test_an_error_that_came_with_status_200_is_an_error(bridge: bool) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(UpstreamRefused, match="Overloaded"):
        translation(bridge=bridge).response(json.dumps(error).encode())


def test_a_client_of_2023_06_01_is_told_once_that_its_bridged_stream_failed() -> None:
    asked = Translation("2023-06-01", "2023-06-01", CompleteThroughMessages(MAP))
    asked.request("/v1/complete", json.dumps({**BODY, "stream": True}).encode())
    made = asked.stream()
    error = b'event: error\ndata: {"error":{"type":"overloaded_error",\ndata: "message":"No"}}\n\n'
    got = played(made, begun(bridge=True) + error)
    assert got.count(b"event: error") == 1
    assert got.endswith(
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"No"}}\r\n\r\n'
    )
    assert made.ended
    assert made.failure is not None


def test_a_message_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_became_incremental, "LARGEST_ANSWER", 10_000)
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    start = {"index": 0, "content_block": {"type": "tool_use", "input": {}}}
    part = {"index": 0, "delta": {"type": "input_json_delta", "partial_json": "x" * 1000}}
    list(made.feed(named("message_start", {"message": {"content": []}})))
    list(made.feed(named("content_block_start", start)))
    with pytest.raises(UpstreamNonsense, match="larger than"):
        list(made.feed(named("content_block_delta", part) * 10))


@pytest.mark.parametrize("blank", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_nothing_follows_the_end_of_a_stream(blank: bytes) -> None:
    """Nor where line ends differ, by which several events are read at once."""
    made = translation(bridge=False).stream()
    *events, _ = completions(["Hi"]).split(b"\n\n")
    got = b"".join(made.feed(b"".join(event + b"\n" + blank for event in [*events, *events])))
    assert got.endswith(b"\r\n\r\ndata: [DONE]\r\n\r\n")
    assert made.events_taken == len(events)


def test_a_turn_of_the_human_ends_the_stream_though_the_upstream_goes_on() -> None:
    made = translation(bridge=True).stream()
    goes_on = {"index": 0, "delta": {"type": "text_delta", "text": " you\n\nHuman: No"}}
    got = made.feed(begun(bridge=True) + named("content_block_delta", goes_on))
    *_, last = snapshots(b"".join(got))
    assert (last["completion"], last["stop"]) == (" Hi you", "\n\nHuman:")
    assert made.ended


def test_a_stream_that_was_ended_is_not_ended_again() -> None:
    made = translation(bridge=False).stream()
    list(made.feed(completions(["Hi"]).partition(b"\n\n")[0] + b"\n\n"))
    assert b"".join(made.finish()).endswith(b"data: [DONE]\r\n\r\n")
    assert not list(made.finish(UpstreamNonsense("later")))


@pytest.mark.anyio
async def test_of_a_large_part_the_newest_snapshot_does_not_wait_for_the_next() -> None:
    client = Mock(started=True)
    taken: list[bytes] = []
    client.write_all = taken.extend
    part = completions(["0123456789" * 9] * 300).rpartition(b"event:")[0]
    made = translation(bridge=False, newest_only=True).stream()
    wait = Stream(client, made, AsyncMock()).take([part])
    assert wait is not None
    await wait
    assert len(taken) == 1
    assert b"0123456789" * 9 * 300 in taken[0]


@pytest.mark.parametrize("newest_only", [False, True])
@pytest.mark.parametrize("together", [1, 9], ids=["one by one", "together"])
@pytest.mark.parametrize("size", [10, 9000])
def test_a_completion_does_not_grow_for_ever(
    monkeypatch: pytest.MonkeyPatch, size: int, together: int, newest_only: bool
) -> None:
    monkeypatch.setattr(runs, "LARGEST_ANSWER", 10_000)
    monkeypatch.setattr(streams, "LARGEST_ANSWER", 10_000)
    made = translation(bridge=False, newest_only=newest_only).stream()
    same = {"type": "completion", "model": "claude-2", "log_id": "compl_1", "stop": None}
    delta = named("completion", {**same, "completion": "x" * size, "stop_reason": None})
    with pytest.raises(UpstreamNonsense, match="larger than"):
        played(made, delta * 2000, cut=len(delta) * together)


def test_a_completion_that_grew_too_large_is_ended_with_all_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "LARGEST_ANSWER", 10_000)
    made = translation(bridge=True).stream()
    text = "x" * 10_000 + "\n"
    with pytest.raises(UpstreamNonsense, match="larger than") as raised:
        played(made, messages([text]))
    last = snapshots(b"".join(made.finish(raised.value)))[-1]
    assert last["completion"] == " " + text
    assert "larger than" in last["exception"]


MANY = ",".join(["{}"] * jsontext.MOST_AT_ONCE)
"""Blocks of a Message, and values of JSON: few bytes each, and more than any answer has."""


@pytest.mark.parametrize(
    ("client", "upstream", "event"),
    [
        ("2023-01-01", "2023-06-01", 'event: message_start\ndata: {"message":{"content":[%s]}}'),
        ("2023-06-01", "2023-01-01", 'data: {"content":[%s]}'),
    ],
    ids=["old client", "old service"],
)
def test_an_event_of_very_many_values_is_not_read(client: str, upstream: str, event: str) -> None:
    """Each may become two events: those of 8 MiB were two dozen GB, and half a minute's work."""
    asked = Translation(client, upstream)
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    with pytest.raises(UpstreamNonsense):
        list(made.feed((event % MANY).encode() + b"\n\n"))


def test_what_stands_in_a_text_is_no_value_whatever_the_text_ends_in() -> None:
    assert jsontext.values(rb'["\\",[],"[[,,"]') == 4
    assert jsontext.values(rb'["\"[,",[],"[[,,"]') == 4


def with_tool(part: str) -> tuple[StreamTranslation, bytes]:
    """A Message with a tool that has ``part`` of its input, and what ends its block."""
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    tool = {"index": 0, "content_block": {"type": "tool_use", "input": {}}}
    delta = {"index": 0, "delta": {"type": "input_json_delta", "partial_json": part}}
    list(made.feed(named("message_start", {"message": {"content": []}})))
    list(made.feed(named("content_block_start", tool) + named("content_block_delta", delta)))
    return made, named("content_block_stop", {"index": 0})


def test_the_input_of_very_many_values_is_not_read() -> None:
    made, stop = with_tool(f"[{MANY}]")
    assert list(made.feed(stop)) == []


def test_half_a_character_in_an_input_costs_no_more_than_itself() -> None:
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    delta = {"index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a":"@b"}'}}
    stream = b"".join(
        (
            named("message_start", {"message": {"content": []}}),
            named("content_block_start", {"index": 0, "content_block": {"type": "tool_use"}}),
            named("content_block_delta", delta).replace(b"@", rb"\ud83d"),
            named("content_block_stop", {"index": 0}),
        )
    )
    assert b'"input":{"a":"?b"}' in b"".join(made.feed(stream))


def test_the_input_that_never_becomes_whole_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each event that says anew that its block is over."""
    made, stop = with_tool("{" * 1000)
    read = Mock(wraps=jsontext.loads)
    monkeypatch.setattr(jsontext, "loads", read)
    assert list(made.feed(stop * 100)) == []
    texts = [call.args[0] for call in read.call_args_list]
    assert sum(b"{{" in text for text in texts) == 1
    reason = {"delta": {"stop_reason": "tool_use"}}
    end = b"".join(made.feed(named("message_delta", reason) + named("message_stop", {})))
    assert b"ended a tool call before its input was complete" in end


@pytest.mark.parametrize("grows", ["text", "usage", "citations"])
def test_what_grows_is_not_copied_for_each_event(grows: str) -> None:
    """Where only the last snapshot is sent nothing else would bound the work."""
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()

    def event(size: int) -> bytes:
        if grows == "usage":
            return named("message_delta", {"usage": {f"{n}": n for n in range(size)}})
        delta: dict[str, Any] = {"type": "text_delta", "text": "x" * 100 * size}
        if grows == "citations":
            delta = {"type": "citations_delta", "citation": {}}
            return named("content_block_delta", {"index": 0, "delta": delta}) * 2 * size
        return named("content_block_delta", {"index": 0, "delta": delta})

    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    start = named("message_start", {"message": {"content": []}})
    start += named("content_block_start", block) + event(10_000) + event(1) * 100
    tracemalloc.start()
    try:
        list(made.feed_piece(start, more=True))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        list(made.feed_piece(event(1), more=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < 100_000


@pytest.mark.parametrize("in_a_run", [False, True], ids=["alone", "in a run"])
@pytest.mark.parametrize("bridge", [False, True], ids=["native", "bridge"])
def test_a_text_is_not_copied_for_each_delta(*, bridge: bool, in_a_run: bool) -> None:
    """Here, too, only the last snapshot is sent. A delta in another spelling is in no run."""
    made = translation(bridge=bridge, newest_only=True).stream()
    stream = (messages if bridge else completions)(["Hi", "x" * 1_000_000, *["y" * 9] * 9])
    events = [event + b"\n\n" for event in stream.split(b"\n\n")]
    deltas = [event for event in events if b"yyy" in event]
    alike = [delta.replace(b": ", b":", 1) for delta in deltas]
    begun = [*events[: events.index(deltas[0])], alike[0]]
    tracemalloc.start()
    try:
        list(made.feed_piece(b"".join(begun), more=True))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for delta in alike[1:] if in_a_run else deltas[:1]:
            list(made.feed_piece(delta, more=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < 200_000


def test_no_snapshot_is_larger_than_others_can_wait_for() -> None:
    """A delta of ninety bytes had one of 64 MiB printed, for which all others waited."""
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()

    def event(text: str) -> bytes:
        delta = {"index": 0, "delta": {"type": "text_delta", "text": text}}
        return named("content_block_delta", delta)

    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    list(made.feed(named("message_start", {"message": {}})))
    list(made.feed(named("content_block_start", block)))
    sizes = (len(snapshot) for _ in range(32) for snapshot in made.feed(event("x" * (1 << 20))))
    with pytest.raises(UpstreamNonsense, match="larger than"):
        max(sizes)


@pytest.mark.parametrize("told", ["at first", "later"])
def test_a_message_of_very_many_fields_is_ended(told: str) -> None:
    """Each delta copied them all: 300,000, and the next 8 KiB of deltas took 1.4 seconds."""
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    fields = {f"x{number}": number for number in range(MOST_FIELDS)}
    events = named("message_start", {"message": fields if told == "at first" else {}})
    if told == "later":
        events += named("message_delta", fields)
    with pytest.raises(UpstreamNonsense, match="fields"):
        list(made.feed(events))


@pytest.mark.parametrize("told", ["blocks", "signatures", "citations", "inputs"])
def test_a_message_of_very_many_values_is_ended(told: str) -> None:
    """16 MiB of empty lists were 384 in memory, for each stream."""
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    lists: list[Any] = [[]] * 9000
    block: dict[str, Any] = {"type": "text", "text": ""}
    deltas: list[dict[str, Any]] = []
    match told:
        case "blocks":
            block["odd"] = lists
        case "signatures":
            block["type"] = "thinking"
            deltas = [{"type": "signature_delta", "signature": lists}]
        case "citations":
            deltas = [{"type": "citations_delta", "citation": lists}]
        case _:
            block = {"type": "tool_use", "input": {}}
            part = {"type": "input_json_delta", "partial_json": json.dumps(lists)}
            deltas = [part]
    events = [named("message_start", {"message": {}})]
    for index in range(MOST_VALUES // len(lists)):
        events.append(named("content_block_start", {"index": index, "content_block": block}))
        events += [named("content_block_delta", {"index": index, "delta": d}) for d in deltas]
        events.append(named("content_block_stop", {"index": index}))
    with pytest.raises(UpstreamNonsense, match="Message holds more than 300000 values"):
        list(made.feed(b"".join(events)))


def test_what_a_message_does_not_keep_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_so_far, "MOST_VALUES", 100)
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    delta = named("content_block_delta", {"index": 0, "delta": {"type": "of_tomorrow", "x": [1]}})
    events = [
        named("message_start", {"message": {}}),
        named("content_block_start", {"index": 0, "content_block": {"type": "of_tomorrow"}}),
        *[delta] * 100,
        named("message_delta", {"delta": {"stop_reason": "end_turn"}}),
    ]
    assert b'"exception":null' in played(made, b"".join(events))


def test_texts_of_a_message_are_not_counted_as_values() -> None:
    asked = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=True))
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    text = '"[,{' * (MOST_VALUES // 30)
    page = {"type": "web_fetch_tool_result", "content": text * 11}
    call = {"type": "tool_use", "input": {}}
    told: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        ({"type": "text"}, [{"type": "text_delta", "text": text}] * 11),
        (page, [{"type": "of_tomorrow", "text": text}] * 11),  # which is not kept
        (call, [{"type": "input_json_delta", "partial_json": json.dumps(page)}]),
    ]
    events = [named("message_start", {"message": {}})]
    for index, (block, deltas) in enumerate(told):
        events.append(named("content_block_start", {"index": index, "content_block": block}))
        events += [named("content_block_delta", {"index": index, "delta": d}) for d in deltas]
        events.append(named("content_block_stop", {"index": index}))
    events.append(named("message_delta", {"delta": {"stop_reason": "end_turn"}}))
    *_, last, _, _ = played(made, b"".join(events)).split(b"\r\n\r\n")
    message = json.loads(last.removeprefix(b"data: "))
    assert message["exception"] is None
    assert message["content"][0]["text"] == page["content"]
    assert message["content"][1] == message["content"][2]["input"] == page


@pytest.mark.parametrize("bridge", [False, True], ids=["native", "bridge"])
def test_an_answer_of_very_many_values_is_not_read(bridge: bool) -> None:
    """60 MB of lists were 1.9 GB, and nobody was served for the five seconds that it took."""
    whole = {
        "content": [{"type": "text", "text": "Hi"}],
        "completion": "Hi",
        "stop_reason": "end_turn",
        "more": [[]] * MOST_VALUES,
    }
    with pytest.raises(UpstreamNonsense, match="values"):
        translation(bridge=bridge).response(json.dumps(whole).encode())


MANY_STOPS = [f"{'x' * 7}{number:02}" for number in range(MOST_STOPS)]


def test_a_stream_of_very_many_open_blocks_is_ended() -> None:
    made = translation(bridge=True).stream()
    tool = {"content_block": {"type": "tool_use"}}
    blocks = [named("content_block_start", {"index": n, **tool}) for n in range(MOST_OPEN + 1)]
    list(made.feed(begun(bridge=True) + b"".join(blocks[:-1])))
    with pytest.raises(UpstreamNonsense, match="blocks at once"):
        list(made.feed(blocks[-1]))


def test_blocks_that_stopped_are_not_open() -> None:
    made = translation(bridge=True).stream()
    block = {"index": 0, "content_block": {"type": "tool_use"}}
    for index in range(MOST_OPEN + 1):
        block["index"] = index
        list(made.feed(named("content_block_start", block)))
        list(made.feed(named("content_block_stop", {"index": index})))


def test_so_much_text_for_many_stops_ends_the_stream() -> None:
    """Each is a search of its own: for a hundred a delta of 8 MB took 2.8 seconds."""
    text = "x" * (MOST_SEARCHED // MOST_STOPS + 1)
    with pytest.raises(UpstreamNonsense, match="too much text"):
        played(translation(bridge=True, stops=MANY_STOPS).stream(), messages(["Hi", text]))
    assert text.encode() in played(translation(bridge=True).stream(), messages(["Hi", text]))


def test_a_stop_sequence_so_long_that_many_are_looked_for_in_it_ends_the_stream() -> None:
    """One of 8 MB, which the upstream alone has made up, took 0.3 seconds for fifty blank ones."""
    made = translation(bridge=True, stops=["\n" * length for length in range(1, 30)]).stream()
    stop = "x" * (MOST_SEARCHED // 30 + 1)
    stream = begun(bridge=True) + named(
        "message_delta", {"delta": {"stop_reason": "stop_sequence", "stop_sequence": stop}}
    )
    with pytest.raises(UpstreamNonsense, match="too much text"):
        played(made, stream)


def test_a_whole_answer_is_looked_through_for_many_stops() -> None:
    def answer(length: int) -> bytes:
        text = {"type": "text", "text": "x" * length}
        whole = {"content": [text], "stop_reason": "end_turn"}
        made = translation(bridge=True, stops=MANY_STOPS)
        return made.response(json.dumps(whole).encode())

    length = MOST_SEARCHED // MOST_STOPS + 1
    assert b"x" * length in answer(length)
    with pytest.raises(UpstreamNonsense, match="too much text"):
        answer(MOST_SEARCHED_WHOLE // MOST_STOPS + 1)


def test_a_message_survives_whatever_its_delta_says() -> None:
    asked = Translation("2023-01-01", "2023-06-01")
    asked.request("/v1/messages", b'{"stream":true}')
    made = asked.stream()
    odd = named(
        "message_delta", {"delta": {"content": "x", "stop_reason": "end_turn"}, "content": 1}
    )
    block = named(
        "content_block_start", {"index": 0, "content_block": {"type": "text", "text": "A"}}
    )
    start = named("message_start", {"message": {"id": "m", "content": []}})
    stop = named("message_stop", {"type": "message_stop"})
    got = played(made, start + odd + block + stop)
    assert b'"content":[{"type":"text","text":"A"}]' in got
    assert got.endswith(b"data: [DONE]\r\n\r\n")


def test_documents_that_move_are_told_of() -> None:
    made = Translation("2023-06-01", "2026-10-21")
    document = {"type": "document", "source": {"type": "text", "data": "a"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [document]}]
    made.request("/v1/messages", json.dumps({"messages": messages}).encode())
    assert made.notes == [
        "messages: documents in assistant messages moved to the user message before"
    ]


def test_documents_that_stay_are_not_told_of() -> None:
    made = Translation("2023-06-01", "2026-10-21")
    document = {"type": "document", "source": {"type": "text", "data": "a"}}
    made.request(
        "/v1/messages", json.dumps({"messages": [{"role": "user", "content": [document]}]}).encode()
    )
    assert made.notes == []
