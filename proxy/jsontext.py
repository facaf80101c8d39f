"""JSON as text, both ways, with what server-sent events and old line readers ask of it.

Reading is lenient where RFC 8259 is: what orjson refuses (lone surrogates, invalid UTF-8) is read
by the standard library instead, because an upstream's odd byte must not cost a client its answer;
and so is what orjson would round, where it is to be printed again. Writing is strict: no raw
U+0085, U+2028 or U+2029, which readers of 2023 take for the end of a line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson

DEEPEST = 200
"""How deeply nested may be what is printed again: orjson reads 1024 levels, and prints 254."""

MOST_AT_ONCE = 20_000
"""How many values are read at a time while everybody waits: one takes up to 500 ns to read and two
bytes on the wire, and may become two events of a microsecond and some KiB each."""

LONGEST = 308
"""The digits of the longest integer that is read as one. What no double holds counts as infinite:
to read an integer takes the square of its length."""

_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19
"""What an integer of more than 64 bits has at least, as the digits of all are made zeros."""


class NotJSON(ValueError):
    """The text is not JSON; ``str()`` says where."""


def loads(text: bytes, *, all_finite: bool = False) -> Any:
    """Parse ``text``; raises NotJSON, with ``all_finite`` for numbers that no double holds, too."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _loads_leniently(text, all_finite=all_finite)


def loads_exactly(text: bytes, *, all_finite: bool = False) -> Any:
    """As ``loads``, for what is to be printed again: orjson rounds integers of more than 64 bits,
    such as an amount in the input of a tool.
    """
    read = _loads_leniently if _LONG in text.translate(_AS_ZEROS) else loads
    return read(text, all_finite=all_finite)


def holds_at_most(most: int, text: bytes) -> bool:
    """Whether JSON ``text`` holds at most so many values, told without reading them.

    A value has a comma behind it, or stands alone in what an opening bracket begins. Brackets with
    nothing in them are taken for two: they cost as much.
    """
    if len(text) <= most or _openings(text) <= most:
        return True
    text = _without_escapes(text)
    if text.count(b'"') > 4 * most:  # names are strings, too
        return False
    return _openings(_beside_strings(text)) <= most


def values(text: bytes) -> int:
    """How many values JSON ``text`` holds, as holds_at_most counts them."""
    return _openings(_beside_strings(_without_escapes(text)))


def _openings(text: bytes) -> int:
    """How many commas and opening brackets stand in ``text``."""
    return len(text) - len(text.translate(None, b",[{"))


def _without_escapes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"").replace(b'\\"', b"")


def _beside_strings(text: bytes) -> bytes:
    return b"".join(text.split(b'"')[::2])


def loads_shallow(text: bytes) -> Any:
    """As ``loads_exactly``, all finite; raises NotJSON beyond DEEPEST levels, too."""
    value = loads_exactly(text, all_finite=True)
    if len(text) > 2 * DEEPEST and text.count(b"[") + text.count(b"{") > DEEPEST and _deep(value):
        raise NotJSON("nested too deeply")
    return value


def loads_at_once(text: bytes) -> Any:
    """As ``loads_shallow``; raises NotJSON beyond MOST_AT_ONCE values, too."""
    if not holds_at_most(MOST_AT_ONCE, text):
        raise NotJSON(f"more than {MOST_AT_ONCE} values")
    return loads_shallow(text)


def dumps(value: Any) -> bytes:
    """``value`` as compact JSON that every reader takes for one line.

    Raises NotJSON for what is nested too deeply to be printed.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:  # a lone surrogate, an integer of more than 64 bits, or deep nesting
        text = _printed_leniently(value)
    return one_line(text)


def finite(value: Any) -> bool:
    """Whether all numbers in ``value`` are: one like 1e999 is read as infinite, and printed as null
    or Infinity.
    """
    rest = [value]
    while rest:
        match rest.pop():
            case float() as number if not math.isfinite(number):
                return False
            case dict() as members:
                rest += members.values()
            case list() as items:
                rest += items
    return True


def one_line(text: bytes) -> bytes:
    """JSON ``text`` with the line ends that Unicode adds escaped; they stand in strings only."""
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in text:
        text = text.replace(b"\xc2\x85", b"\\u0085")
    return text


def as_printed(insides: Sequence[bytes]) -> bool:
    """Whether ``dumps`` would print strings with all these ``insides`` just as they stand."""
    lines = b"\n".join(insides)  # which no string may have inside, and no character goes over it
    if lines.count(b"\n") >= len(insides) or not _AS_PRINTED.fullmatch(lines):
        return False
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return one_line(lines) == lines


_OTHERS = rb"[ !#-\[\]-\xff\n]*"
_AS_PRINTED = re.compile(_OTHERS + rb'(?:\\["\\bfnrt]' + _OTHERS + rb")*")


def _deep(value: Any) -> bool:
    """Whether ``value`` has more than DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        inner = chain.from_iterable(each.values() if type(each) is dict else each for each in level)
        level = [each for each in inner if type(each) in (dict, list)]
        if not level:
            return False
    return True


def _printed_leniently(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise NotJSON("nested too deeply") from error
    return text.encode(errors="backslashreplace")


def _loads_leniently(text: bytes, *, all_finite: bool) -> Any:
    try:
        told = text.decode("utf-8", "replace")
        value = json.loads(told, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    if all_finite and not finite(value):
        raise NotJSON("a number is too large")
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST else float(digits)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
