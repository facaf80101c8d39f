"""The decoder of server-sent events: the WHATWG rules, wherever the input is split."""

from __future__ import annotations

import tracemalloc
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sse_starlette import ServerSentEvent

from proxy.core.sse import Decoder, EventTooLarge, Frame, encode

NASTY = (
    '\ufeffevent: completion\r\ndata: {"a":1}\r\n\r\n'
    ": a comment\n\n"
    "event: ping\ndata: {}\n\n"
    "data: two\ndata: lines\n\n"
    "data\n\n"
    "data:no blank\rdata:  two blanks\r\r"
    "event: nothing follows\n\n"
    "id: 7\nretry: 10\nunknown: field\ndata: \u2028 \u0085 \f \v é 日本 🙂\n\n"
    "data: never ended"
).encode()

FRAMES = [
    Frame("completion", b'{"a":1}'),
    Frame("ping", b"{}"),
    Frame(None, b"two\nlines"),
    Frame(None, b""),
    Frame(None, b"no blank\n two blanks"),
    Frame(None, "\u2028 \u0085 \f \v é 日本 🙂".encode()),
]


def decode(*chunks: bytes) -> list[Frame]:
    """All frames of a stream that arrives in ``chunks``."""
    decoder = Decoder()
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


def test_a_nasty_stream_is_read_by_the_rules() -> None:
    assert decode(NASTY) == FRAMES


def test_every_cut_in_two_gives_the_same() -> None:
    for at in range(len(NASTY)):
        assert decode(NASTY[:at], NASTY[at:]) == FRAMES


def test_byte_by_byte_gives_the_same() -> None:
    assert decode(*(bytes([byte]) for byte in NASTY)) == FRAMES


LINES = st.lists(
    st.sampled_from(["data: x", "data:", "event: e", ":", "é\u2028", "id: 1", "\ufeff", ""]),
    max_size=12,
)
ENDS = st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=12, max_size=12)


@given(lines=LINES, ends=ENDS, cuts=st.lists(st.integers(0, 80), max_size=6))
def test_any_cut_of_any_stream_gives_the_same(
    lines: list[str], ends: list[str], cuts: list[int]
) -> None:
    stream = "".join(line + end for line, end in zip(lines, ends, strict=False)).encode()
    at = [0, *sorted(cuts), len(stream)]
    chunks = [stream[begin:end] for begin, end in pairwise(at)]
    assert decode(*chunks) == decode(stream)


PLAIN = st.text(st.characters(exclude_characters="\r\n\x00", codec="utf-8"), min_size=1)


@given(
    events=st.lists(st.tuples(st.sampled_from(["ping", "completion"]), PLAIN)),
    end=st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_what_another_encoder_wrote_is_read_back(events: list[tuple[str, str]], end: str) -> None:
    stream = b"".join(ServerSentEvent(data, event=name, sep=end).encode() for name, data in events)
    assert decode(stream) == [Frame(name, data.encode()) for name, data in events]


LINED = st.text(st.characters(exclude_characters="\r\x00", codec="utf-8"), min_size=1)


@given(st.lists(st.tuples(st.sampled_from([None, "ping", "completion"]), LINED)))
def test_what_we_wrote_is_read_back(events: list[tuple[str | None, str]]) -> None:
    stream = b"".join(encode(name, data.encode()) for name, data in events)
    assert decode(stream) == [Frame(name, data.encode()) for name, data in events]


def test_an_event_is_framed_with_crlf_and_one_blank_after_each_colon() -> None:
    assert encode(None, b"{}") == b"data: {}\r\n\r\n"
    assert encode("ping", b"{}") == b"event: ping\r\ndata: {}\r\n\r\n"


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 100],
        [b"data: ", *[b"x"] * 100],
        [b"data: xxxxxxxxxx\n"] * 8,
        [b": xxxxxxxxxxxxxx\n"] * 8,
    ],
    ids=["one line", "in drips", "many lines", "comments"],
)
def test_an_event_past_the_limit_is_refused(chunks: list[bytes]) -> None:
    decoder = Decoder(limit=99)
    with pytest.raises(EventTooLarge):
        list(chain.from_iterable(map(decoder.feed, chunks)))


def test_the_limit_is_for_each_event_alone() -> None:
    decoder = Decoder(limit=20)
    chunks = [b"data: 12", b"34\n\n"] * 50
    assert len([frame for chunk in chunks for frame in decoder.feed(chunk)]) == 50


def test_the_limit_is_not_for_all_comments_of_a_stream() -> None:
    decoder = Decoder(limit=40)
    for _ in range(5):
        for chunk in (b": still here\n", b"event: a\ndata: {}\n\n"):
            frames, end = decoder.event_at(chunk, 0)
            assert [frame.name for frame in frames] == ["a"][: chunk.count(b"event")]
            assert end == len(chunk)


def test_a_line_in_drips_takes_no_more_memory_than_it_is_long() -> None:
    decoder = Decoder()
    tracemalloc.start()
    try:
        for number in range(10_000):
            assert not list(decoder.feed(b"%02d" % (number % 100)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * 20_000


@pytest.mark.parametrize(("begun", "drip"), [(b"data: a", b"b"), (b"data: a\n", b"data: b\n")])
def test_what_is_incomplete_is_not_copied_for_each_drip(begun: bytes, drip: bytes) -> None:
    """Of an event of eight megabytes, each would take milliseconds."""
    decoder = Decoder()
    assert not list(decoder.feed(begun))
    kept = decoder._partial_line or decoder._data
    assert not list(decoder.feed(drip))
    assert (decoder._partial_line or decoder._data) is kept


def test_an_event_of_short_lines_takes_no_more_memory_than_it_is_long() -> None:
    """One that is kept by itself takes six times as much as on the wire."""
    decoder = Decoder()
    lines = b"data:ab\n" * 1000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(decoder.feed(lines)) == []
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 100 * len(lines)
    assert list(decoder.feed(b"\n")) == [Frame(None, b"\n".join([b"ab"] * 100_000))]
