"""Reads and prints JSON, within the limits of server-sent events and of old line readers.

Reading is lenient: what orjson refuses (lone surrogates, invalid UTF-8) is read by the standard
library instead, as an upstream's odd byte must not cost a client its answer; and so are numbers
that orjson would round, in what is printed again. Printing is strict: no raw U+0085, U+2028 or
U+2029, which some clients of 2023 take for the end of a line.
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
"""How many levels of nesting may be printed again: orjson reads 1024, but prints only 254."""

MOST_AT_ONCE = 20_000
"""How many values loads_at_once reads. All clients wait meanwhile: a value of two bytes takes up to
500 ns to read, and may become two events of a microsecond and some KiB each."""

LONGEST = 308
"""How many digits an integer may have; a longer one is read as a float, which makes it infinite. To
read an integer takes the square of its length."""

_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_19_DIGITS = b"0" * 19
"""Stands in every text that has an integer of more than 64 bits, once its digits are zeros."""


class NotJSON(ValueError):
    """The text is not JSON; ``str()`` says where."""


def loads(text: bytes, *, all_finite: bool = False) -> Any:
    """Parse ``text``; raises NotJSON, with ``all_finite`` also for numbers beyond a double."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _loads_leniently(text, all_finite=all_finite)


def loads_exactly(text: bytes, *, all_finite: bool = False) -> Any:
    """Parse ``text`` that will be printed again, without rounding; raises as ``loads`` does.

    orjson rounds integers of more than 64 bits, such as an amount in the input of a tool.
    """
    read = _loads_leniently if _19_DIGITS in text.translate(_DIGITS_TO_ZEROS) else loads
    return read(text, all_finite=all_finite)


def holds_at_most(most: int, text: bytes) -> bool:
    """Whether JSON ``text`` holds at most so many values, found out without parsing it.

    What is counted are commas and opening brackets: one stands before every value but the first.
    Empty brackets are counted as two values, as they take as much memory.
    """
    if len(text) <= most or _count_separators(text) <= most:
        return True
    text = _without_escapes(text)
    if text.count(b'"') > 4 * most:  # a value has two quotes of its own and two of its name
        return False
    return _count_separators(_outside_strings(text)) <= most


def values(text: bytes) -> int:
    """How many values JSON ``text`` holds, as holds_at_most counts them."""
    return _count_separators(_outside_strings(_without_escapes(text)))


def _count_separators(text: bytes) -> int:
    """How many commas and opening brackets ``text`` has."""
    return len(text) - len(text.translate(None, b",[{"))


def _without_escapes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"").replace(b'\\"', b"")


def _outside_strings(text: bytes) -> bytes:
    return b"".join(text.split(b'"')[::2])


def loads_shallow(text: bytes) -> Any:
    """As ``loads_exactly`` with ``all_finite``; raises NotJSON also beyond DEEPEST levels."""
    value = loads_exactly(text, all_finite=True)
    if (
        len(text) > 2 * DEEPEST
        and text.count(b"[") + text.count(b"{") > DEEPEST
        and _is_deep(value)
    ):
        raise NotJSON("nested too deeply")
    return value


def loads_at_once(text: bytes) -> Any:
    """As ``loads_shallow``; raises NotJSON also beyond MOST_AT_ONCE values."""
    if not holds_at_most(MOST_AT_ONCE, text):
        raise NotJSON(f"more than {MOST_AT_ONCE} values")
    return loads_shallow(text)


def dumps(value: Any) -> bytes:
    """Print ``value`` as compact JSON, which every client takes for one line.

    Raises NotJSON if it is nested too deeply.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:  # a lone surrogate, an integer of more than 64 bits, or deep nesting
        text = _printed_leniently(value)
    return one_line(text)


def finite(value: Any) -> bool:
    """Whether all numbers in ``value`` are finite.

    One like 1e999 is read as infinite, and would be printed as null or Infinity.
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
    """JSON ``text`` with U+0085, U+2028 and U+2029 escaped; valid JSON has them in strings only."""
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in text:
        text = text.replace(b"\xc2\x85", b"\\u0085")
    return text


def as_printed(insides: Sequence[bytes]) -> bool:
    """Whether ``dumps`` would print strings with all these ``insides`` just as they stand."""
    lines = b"\n".join(insides)  # a line feed is in no string, nor within a character of UTF-8
    if lines.count(b"\n") >= len(insides) or not _AS_PRINTED.fullmatch(lines):
        return False
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return one_line(lines) == lines


_UNESCAPED = rb"[ !#-\[\]-\xff\n]*"
_AS_PRINTED = re.compile(_UNESCAPED + rb'(?:\\["\\bfnrt]' + _UNESCAPED + rb")*")


def _is_deep(value: Any) -> bool:
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
        decoded = text.decode("utf-8", "replace")
        value = json.loads(decoded, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    if all_finite and not finite(value):
        raise NotJSON("a number is too large")
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST else float(digits)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
