"""Runs, a fast path, change nothing: an event becomes what it would become without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core import jsontext
from proxy.core.change import Event, GrowingText
from proxy.core.errors import ProxyError, UpstreamNonsense
from proxy.exchange import client
from proxy.translation import runs
from proxy.translation.translation import Options, Translation
from proxy.versions.complete_through_messages import CompleteThroughMessages

PIECES = st.one_of(
    st.sampled_from(
        ["", " a", "text", "completion", '"', "\\", "\n", "\n\nHu", "man:", "\n\nHuman:", "END"]
    ),
    st.sampled_from(
        ["é", "\u2028", "\x7f", "🙂", "\ud83d", "\ude42", "\r\n\r\n", "data: ", '"text":"a"']
    ),
    st.text(max_size=6),
)
OTHERS = st.sampled_from(
    ["event: ping\ndata: {}", ": a comment", "event: unheard_of\ndata: {}", "id: 1", "data: {"]
)
ASKED = {
    "model": "claude-2.1",
    "prompt": "\n\nHuman: Hi\n\nAssistant:",
    "max_tokens_to_sample": 9,
    "stop_sequences": ["END"],
    "stream": True,
}

EVENT = re.compile(rb"(?s).+?(?:\n\n|\r\n\r\n|\r\r|$)")

Events = list[tuple[str, str]]


def printed(body: dict[str, Any], *, ascii_only: bool) -> str:
    """JSON as some upstream prints it; what UTF-8 cannot say is escaped in any case."""
    text = json.dumps(body, ensure_ascii=ascii_only, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()


@st.composite
def streams(draw: st.DrawFn, road: str) -> Events:
    """The events of an answer, as name and data, with others strewn in."""
    ascii_only = draw(st.booleans())
    events: Events = []
    if road == "bridge":
        message = {"id": "m", "type": "message", "model": "n", "content": []}
        events.append(("message_start", printed({"message": message}, ascii_only=ascii_only)))
    for piece in draw(st.lists(PIECES, max_size=12)):
        body: dict[str, Any]
        if road == "bridge":
            body = {"index": 0, "delta": {"type": "text_delta", "text": piece}}
            events.append(("content_block_delta", printed(body, ascii_only=ascii_only)))
        else:
            ids = draw(st.sampled_from(["aa", "aa", "ab", "ba"]))
            events.append(("completion", completion(piece, ids, ascii_only=ascii_only)))
    if road == "native":  # a failure would name one of the ids, and any will do
        events.append(
            ("completion", printed({"completion": "", "stop_reason": "s"}, ascii_only=True))
        )
    return events


def completion(piece: str, ids: str = "aa", *, ascii_only: bool = True) -> str:
    """A delta of today's. What stands before its text, and after, is told by ``ids`` at its end."""
    before, after = (f"{'l' * 70}{end}" for end in ids)
    body = {"id": before, "completion": piece, "model": "text", "log_id": after}
    return printed(body, ascii_only=ascii_only)


def wire(events: Events, others: list[str], end: str, *, numbered: bool) -> bytes:
    """The events on the wire; ``numbered`` each has an id of its own, so that no two are alike."""
    blocks = []
    for number, (name, data) in enumerate(events):
        number_line = f"id: {number}{end}" if numbered else ""
        blocks.append(f"{number_line}event: {name}{end}data: {data}{end}{end}")
        if number < len(others):
            blocks.append(others[number].replace("\n", end) + end + end)
    return "".join(blocks).encode()


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    """The stream in chunks of a size, or of one event each where that is 0."""
    if size == 0:
        return (found[0] for found in EVENT.finditer(stream))
    return (stream[at : at + size] for at in range(0, len(stream), size))


def translated(
    road: str, stream: bytes, size: int, *, piece: int = 0, newest_only: bool = False
) -> bytes:
    """What a client of 2023-01-01 gets, the end that a cut stream is given included.

    The stream arrives in chunks of ``size``, as cut has it; with ``piece`` each is taken in pieces
    of that size.
    """
    bridge = CompleteThroughMessages() if road == "bridge" else None
    options = Options(newest_only=newest_only)
    translation = Translation("2023-01-01", "2023-06-01", bridge, options)
    translation.request("/v1/complete", json.dumps(ASKED).encode())
    made = translation.stream()
    got: list[bytes] = []
    error: ProxyError | None = None
    try:
        for chunk in cut(stream, size):
            if not piece:
                got.extend(made.feed(chunk))
                continue
            *more, last = cut(chunk, piece)
            for each in more:
                got.extend(made.feed_piece(each, more=True))
            got.extend(made.feed_piece(last, more=False))
    except ProxyError as raised:
        error = raised
    got.extend(made.finish(error))
    return b"".join(got)


@pytest.mark.parametrize("road", ["native", "bridge"])
@given(data=st.data())
def test_events_that_are_alike_become_what_others_become(road: str, data: st.DataObject) -> None:
    events = data.draw(streams(road))
    others = data.draw(st.lists(OTHERS, max_size=4))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    alike, unlike = (wire(events, others, end, numbered=numbered) for numbered in (False, True))
    step_by_step = translated(road, unlike, len(unlike) or 1)
    assert translated(road, alike, len(alike) or 1) == step_by_step
    assert translated(road, alike, 0) == step_by_step
    assert translated(road, alike, data.draw(st.integers(1, 200))) == step_by_step


@pytest.mark.parametrize("newest_only", [False, True], ids=["every", "newest"])
@pytest.mark.parametrize("road", ["native", "bridge"])
@given(data=st.data())
def test_what_arrived_at_once_can_be_taken_in_pieces(
    road: str, data: st.DataObject, *, newest_only: bool
) -> None:
    events = data.draw(streams(road))
    stream = wire(events, data.draw(st.lists(OTHERS, max_size=4)), "\n", numbered=False)
    size, piece = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 300))
    at_once = translated(road, stream, size, newest_only=newest_only)
    assert translated(road, stream, size, piece=piece, newest_only=newest_only) == at_once


@pytest.mark.parametrize("size", [100, 10_000, 20_000, 40_000, 100_000])
@pytest.mark.parametrize("numbered", [False, True], ids=["alike", "unlike"])
def test_snapshots_of_any_size_stay_in_their_order(size: int, *, numbered: bool) -> None:
    pieces = [" a", "x" * size, *(f" {number}" for number in range(40))]
    stream = wire(
        [("completion", completion(piece)) for piece in pieces], [], "\n", numbered=numbered
    )
    snapshots = translated("native", stream, len(stream)).split(b"\r\n\r\n")
    assert len(snapshots) == len(pieces) + 3  # the end, [DONE], and nothing behind it
    for count, snapshot in enumerate(snapshots[: len(pieces)], 1):
        said = json.loads(snapshot.removeprefix(b"data: "))["completion"]
        assert said == "".join(pieces[:count])


@pytest.mark.parametrize("newest_only", [False, True], ids=["every", "newest"])
@pytest.mark.parametrize("size", [0, 1 << 20], ids=["one-by-one", "at-once"])
def test_texts_longer_than_what_stands_around_them_are_read_once(
    size: int, *, newest_only: bool
) -> None:
    """The rest of a shorter one, read again, would be skipped as a line without a meaning."""
    pieces = [f" {number}" + "x" * 1500 for number in range(60)]
    stream = wire([("completion", completion(piece)) for piece in pieces], [], "\n", numbered=False)
    translation = Translation("2023-01-01", "2023-06-01", options=Options(newest_only=newest_only))
    translation.request("/v1/complete", json.dumps(ASKED).encode())
    made = translation.stream()
    got = b"".join(block for chunk in cut(stream, size) for block in made.feed(chunk))
    *_, last, _ = got.split(b"\r\n\r\n")
    assert json.loads(last.removeprefix(b"data: "))["completion"] == "".join(pieces)
    assert made.events_taken == len(pieces)
    assert made.events_made == got.count(b"\r\n\r\n") == (1 if newest_only and size else 60)


@pytest.mark.parametrize("size", [100, 10_000, 40_000])
@pytest.mark.parametrize("numbered", [False, True], ids=["alike", "unlike"])
def test_snapshots_of_one_chunk_are_sent_together_as_far_as_a_block_goes(
    size: int, *, numbered: bool
) -> None:
    """Those of a chunk of 64 KiB were 25 MB at once."""
    pieces = ["x" * size, *(f" {number}" for number in range(200))]
    events = [("completion", completion(piece)) for piece in pieces]
    translation = Translation("2023-01-01", "2023-06-01")
    translation.request("/v1/complete", json.dumps(ASKED).encode())
    stream = translation.stream()
    made = stream.feed(wire(events, [], "\n", numbered=numbered))
    blocks = [sum(map(len, block)) for block in client._blocks(made)]
    at_once = client.BLOCK // (size + 1000)
    assert max(blocks) <= client.BLOCK
    assert len(blocks) < 2 * len(pieces) / at_once


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_an_event_by_another_name_is_no_part_of_a_run(size: int) -> None:
    names = ["completion", "completion", "compaction", "completion"]  # all as long
    stream = wire([(name, completion(" a")) for name in names], [], "\n", numbered=False)
    last = translated("native", stream, size).split(b"\r\n\r\n")[-3]
    assert b'"completion":" a a a",' in last


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_delta_of_a_run_has_the_limit_of_any_event(end: str) -> None:
    begin = wire([("completion", completion(" a"))], [], end, numbered=False)
    limit = len(begin) + 20
    for length in range(50):
        event = wire([("completion", completion("x" * length))], [], end, numbered=False)
        too_large = len(event) - 3 * len(end) > limit  # the ends of its lines do not count
        for size in (1, len(begin), len(event)):
            translation = Translation(
                "2023-01-01", "2023-06-01", options=Options(event_limit=limit)
            )
            translation.request("/v1/complete", json.dumps(ASKED).encode())
            stream = translation.stream()
            assert b"".join(stream.feed(begin))
            with pytest.raises(UpstreamNonsense) if too_large else nullcontext():
                for chunk in cut(event + begin, size):
                    list(stream.feed(chunk))


@pytest.mark.parametrize("order", ["ping full full", "ping delta delta bare delta"])
def test_a_message_that_begins_is_no_part_of_a_run(order: str) -> None:
    text = {"type": "text", "text": " a"}
    full, bare = ({"message": {"id": "m", "content": content}} for content in ([text], []))
    data = {
        "ping": ("ping", "{}"),
        "full": ("message_start", printed(full, ascii_only=True)),
        "bare": ("message_start", printed(bare, ascii_only=True)),
        "delta": ("content_block_delta", printed({"delta": text}, ascii_only=True)),
    }
    events = [data[name] for name in order.split()]
    alike, unlike = (wire(events, [], "\n", numbered=numbered) for numbered in (False, True))
    assert translated("bridge", alike, len(alike)) == translated("bridge", unlike, len(unlike))


@pytest.mark.parametrize("road", ["native", "bridge"])
@pytest.mark.parametrize("blank", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_the_beginning_of_the_next_event_is_no_part_of_a_run(
    road: str, end: str, blank: str
) -> None:
    event = {
        "native": 'event: completion\ndata: {"completion":" a"}',
        "bridge": 'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":" a"}}',
    }[road].replace("\n", end)
    event += " " * (len(event + end + blank) % 2) + end + blank
    stream = (event * 10).encode()
    assert b" a" * 10 in translated(road, stream, len(event) * 3 // 2)  # one and a half each


def test_what_looks_like_a_delta_of_a_run_within_an_event_is_none() -> None:
    translation = Translation("2023-01-01", "2023-06-01")
    translation.request("/v1/complete", json.dumps(ASKED).encode())
    stream = translation.stream()
    delta = b'event: completion\ndata: {"completion":" a","log_id":"l"}\n\n'
    within = [b": behind the colon of a comment there is no name ", delta]
    for chunk in (delta, delta, *within, delta):
        list(stream.feed(chunk))
    assert b'"completion":" a a a"' in b"".join(stream.finish())


@pytest.mark.parametrize("road", ["native", "bridge"])
@pytest.mark.parametrize(("e", "colon"), [("e", " :"), ("e", ":  "), ("\\u0065", ":")])
def test_the_last_of_a_name_that_stands_twice_is_the_text(road: str, e: str, colon: str) -> None:
    name, event = {
        "native": ("completion", 'event: completion\ndata: {%s,"log_id":"l"}'),
        "bridge": ("text", 'event: content_block_delta\ndata: {"delta":{"type":"text_delta",%s}}'),
    }[road]
    last = f'"{name.replace("e", e)}"{colon}" a"'
    texts = (f'"{name}":" {piece}",{last}' for piece in "aab")
    stream = "".join(event % text + "\n\n" for text in texts).encode()
    assert b" a a a" in translated(road, stream, len(stream))


@pytest.mark.parametrize("road", ["native", "bridge"])
def test_only_the_first_event_has_a_byte_order_mark(road: str) -> None:
    event = {
        "native": 'data: {"completion":" a"}\nevent: completion',
        "bridge": 'data: {"delta":{"type":"text_delta","text":" a"}}\nevent: content_block_delta',
    }[road]
    stream = f"\ufeff{event}\n\n".encode() * 3
    assert b" a a" not in translated(road, stream, len(stream))


@pytest.mark.parametrize("road", ["native", "bridge"])
def test_the_rest_of_a_line_is_no_event(road: str) -> None:
    event = {
        "native": b'event: completion\ndata: {"completion":" a"}\n\n',
        "bridge": b"event: content_block_delta\n"
        b'data: {"delta":{"type":"text_delta","text":" a"}}\n\n',
    }[road]
    stream = b"x" * len(event) + event
    assert translated(road, stream, len(event)) == translated(road, stream, len(stream))


@pytest.mark.parametrize("road", ["native", "bridge"])
@given(pieces=st.lists(PIECES, min_size=1), size=st.integers(1, 2000))
@example(pieces=[" a"] * 50, size=1 << 16)
def test_the_newest_snapshot_alone_says_all(road: str, pieces: list[str], size: int) -> None:
    events = [
        ("completion", printed({"completion": piece, "log_id": "l"}, ascii_only=True))
        if road == "native"
        else (
            "content_block_delta",
            printed({"delta": {"type": "text_delta", "text": piece}}, ascii_only=True),
        )
        for piece in pieces
    ]
    stream = wire(events, [], "\r\n", numbered=False)
    every = translated(road, stream, size).split(b"\r\n\r\n")
    newest = translated(road, stream, size, newest_only=True).split(b"\r\n\r\n")
    assert newest[-3:] == every[-3:]  # the end, [DONE], and nothing behind it
    assert [event for event in every if event in newest] == newest


def test_what_cannot_be_taken_has_not_all_that_stands_behind_it_looked_for_again() -> None:
    def delta(text: str) -> bytes:
        return b'data: {"completion":"%b"}\n\n' % text.encode()

    text = GrowingText()
    text.append("a")
    made = Event("completion", {"stop": None})
    made.repeat_text(text, "completion")
    run = runs.begin_run(delta("a"), made, None, limit=1 << 20)
    assert run is not None
    found = run.texts_at((delta("a") + delta("")) * 10_000, 0)
    assert 2 <= len(found) * run.size <= runs.LOOKAHEAD


INSIDES = st.one_of(
    st.sampled_from(
        [b"\\n", b'\\"', b"\\\\", b"\\", b'"', b"\n", b"\\/", b"\\u00e9", b"\xc3", b"\xa9"]
    ),
    st.sampled_from(["\x7f", "é", "\x85", "\u2028", "🙂"]).map(str.encode),
    st.binary(max_size=3),
    st.text(max_size=3).map(lambda text: jsontext.dumps(text)[1:-1]),
)


@given(st.lists(st.lists(INSIDES, max_size=4).map(b"".join), min_size=1, max_size=4))
@example([b"a\n"])
def test_what_is_taken_as_it_stands_would_be_printed_so(insides: list[bytes]) -> None:
    if jsontext.as_printed(insides):
        for inside in insides:
            assert jsontext.dumps(jsontext.loads(b'"%b"' % inside)) == b'"%b"' % inside


def test_what_answers_are_made_of_is_taken_as_it_stands() -> None:
    assert jsontext.as_printed(
        [b" plain", b".\\n\\n", b' \\"no\\"', " café 你好 🙂".encode(), b" \\\\o/"]
    )
