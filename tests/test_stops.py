"""Stop sequences in text that arrives in pieces: the first ends it, and little is held back."""

from __future__ import annotations

import time

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.bridge.stops import MOST_STOPS, StopScanner

TEXT = st.text("ab\n", max_size=6)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def first_hit(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the first stop in it, and that stop; the plain way."""
    hits = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not hits:
        return text, None
    end, length, stop = min(hits)
    return text[: end + length], stop


@example(pieces=["a\n\n", "b"], stops=["\n\nb"])
@given(pieces=st.lists(TEXT), stops=STOPS)
def test_pieces_end_where_the_whole_text_would(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    given_out = "".join(map(scanner.feed, pieces)) + scanner.flush()
    assert (given_out, scanner.hit) == first_hit("".join(pieces), stops)


@given(pieces=st.lists(TEXT), stops=STOPS)
def test_what_is_held_back_may_begin_a_stop(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    given_out, fed = "", ""
    for piece in pieces:
        given_out += scanner.feed(piece)
        fed += piece
        if scanner.hit is not None:
            return
        held = fed.removeprefix(given_out)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(pieces=st.lists(TEXT), text=TEXT, stops=STOPS)
def test_what_passes_is_given_out_and_not_kept_in_mind(
    pieces: list[str], text: str, stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    for piece in pieces:
        scanner.feed(piece)
    if scanner.passes_unchanged(text):
        assert (scanner.feed(text), scanner.flush()) == (text, "")


def test_without_stops_nothing_is_held_back() -> None:
    assert StopScanner(()).feed("any text\n\n") == "any text\n\n"


def test_after_a_stop_nothing_comes() -> None:
    scanner = StopScanner(["\n\nHuman:"])
    assert scanner.feed("Hi\n\nHum") == "Hi"
    assert scanner.feed("an: and more") == ""
    assert scanner.hit == "\n\nHuman:"
    assert scanner.feed("more") == scanner.flush() == ""


def test_a_stop_longer_than_any_answer_is_left_to_the_upstream() -> None:
    assert StopScanner(["a" * 1_000_000]).feed("aaa") == "aaa"


def test_what_is_looked_for_is_bounded() -> None:
    scanner = StopScanner(["\n\nHuman:", *(f"{number:04}" for number in range(2_000))])
    assert scanner.feed("1999 ") == "1999 "
    assert scanner.feed("0000") == ""


def test_many_stops_beside_a_long_one_take_little_time() -> None:
    """Each length of the long one was tried with all of them, 600 ms for each piece."""
    scanner = StopScanner([*(chr(0x4E00 + number) for number in range(2000)), "ab" * 1000])
    piece = "a word of a" * 300
    began = time.process_time()
    for _ in range(20):
        scanner.feed(piece)
    assert time.process_time() - began < 2


def test_so_many_are_looked_for_and_no_more() -> None:
    stops = [f"<{number}>" for number in range(MOST_STOPS + 1)]
    assert StopScanner(stops).feed(f"a{stops[-1]}b") == f"a{stops[-1]}b"
    assert StopScanner(stops).feed(f"a{stops[-2]}b") == "a"
