"""Readers of scalars, and of lists of them: each turns a Value into what it means.

Each has a rule, in words for messages and in JSON Schema for editors. A value that breaks it is
reported, and Wrong is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from .yamltext import Rule, Value

T = TypeVar("T")


def matching(pattern: str, words: str) -> Callable[[Value], str]:
    """Reads text that ``pattern`` matches in full."""
    compiled = re.compile(pattern)
    rule = Rule(words, pattern=whole_text(pattern))

    def read(value: Value) -> str:
        text = value.text(rule)
        if not compiled.fullmatch(text):
            raise value.wrong(f"is {value.shown}", rule)
        return text

    return read


def one_of(names: Collection[T]) -> Callable[[Value], T]:
    """Reads one of ``names``."""
    known = {str(name): name for name in names}
    rule = Rule(f"must be one of {', '.join(known)}", enum=list(known))

    def read(value: Value) -> T:
        text = value.text(rule)
        if text not in known:
            raise value.wrong(f"is {value.shown}", rule)
        return known[text]

    return read


def several(
    read: Callable[[Value], T], rule: str, *, least: int = 1
) -> Callable[[Value], tuple[T, ...]]:
    """Reads a list of at least ``least`` items, without repetitions."""

    def read_all(value: Value) -> tuple[T, ...]:
        items = value.each(lambda item: (item, read(item)), rule, least=least)
        seen: set[T] = set()
        for place, item in items:
            if item in seen:
                place.report(f"is {place.shown} again", "each is written once")
            seen.add(item)
        return tuple(item for _, item in items)

    return read_all


def whole(low: int, high: int) -> Callable[[Value], int]:
    """Reads a whole number, in decimal."""
    digits = r"0|[1-9][0-9]{0,15}"  # YAML reads leading zeros as octal, and people do not
    rule = Rule(
        f"must be a whole number from {low} to {high}",
        anyOf=[
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "string", "pattern": whole_text(digits)},
        ],
    )

    def read(value: Value) -> int:
        text = value.text(rule)
        if not re.fullmatch(digits, text) or not low <= int(text) <= high:
            raise value.wrong(f"is {value.shown}", rule)
        return int(text)

    return read


def seconds(*, zero: bool = False) -> Callable[[Value], float]:
    """Reads a duration in seconds, at most a day: more was meant as milliseconds."""
    day = 86_400
    decimal = r"[0-9]+(\.[0-9]+)?"
    rule = Rule(
        f"must be a number of seconds, {'0 or more' if zero else 'over 0'}, at most {day}",
        anyOf=[
            {"type": "number", "minimum" if zero else "exclusiveMinimum": 0, "maximum": day},
            {"type": "string", "pattern": whole_text(decimal)},
        ],
    )

    def read(value: Value) -> float:
        text = value.text(rule)
        number = float(text) if re.fullmatch(decimal, text) else -1.0
        if not 0 <= number <= day or (number == 0 and not zero):
            raise value.wrong(f"is {value.shown}", rule)
        return number

    return read


_SPANS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN = rf"([1-9][0-9]{{0,7}})({'|'.join(_SPANS)})"


def span(value: Value) -> timedelta:
    """Reads a duration with a unit, at most a year."""
    rule = Rule(
        "must be a span such as 90s, 15m, 1h, 7d or a number of seconds, over 0, at most 366d",
        anyOf=[{"type": "integer", "minimum": 1}, {"type": "string", "pattern": whole_text(_SPAN)}],
    )
    text = value.text(rule)
    match = re.fullmatch(_SPAN, text)
    length = int(match[1]) * _SPANS[match[2]] if match else 0
    if not 0 < length <= 366 * _SPANS["d"]:
        raise value.wrong(f"is {value.shown}", rule)
    return timedelta(seconds=length)


_MOMENT = r"2[0-9]{3}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?"


def moment(value: Value) -> datetime:
    """Reads a time of RFC 3339, or a day, which stands for its start in UTC; returns UTC."""
    rule = Rule(
        "must be a day such as 2027-03-01 or a time such as 2027-03-01T10:00:00Z",
        type="string",
        pattern=whole_text(_MOMENT),
    )
    text = value.text(rule)
    try:
        read = datetime.fromisoformat(text) if re.fullmatch(_MOMENT, text) else None
    except ValueError:
        read = None
    if read is None:
        raise value.wrong(f"is {value.shown}", rule)
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = rf"([1-9][0-9]{{0,15}}) ?({'|'.join(_UNITS)})"


def size(value: Value) -> int:
    """Reads a size, into bytes."""
    rule = Rule(
        "must be a size such as 32 MiB, 64 KiB, 8 MB, 1 GiB or a number of bytes, over 0",
        anyOf=[{"type": "integer", "minimum": 1}, {"type": "string", "pattern": whole_text(_SIZE)}],
    )
    text = value.text(rule)
    match = re.fullmatch(_SIZE, text)
    if not match:
        raise value.wrong(f"is {value.shown}", rule)
    return int(match[1]) * _UNITS[match[2]]


_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")


def flag(value: Value) -> bool:
    """Reads true or false, in any spelling of YAML 1.1."""
    any_case = ("".join(f"[{c.upper()}{c}]" for c in word) for word in (*_YES, *_NO))
    rule = Rule(
        "must be true or false",
        anyOf=[{"type": "boolean"}, {"type": "string", "pattern": whole_text("|".join(any_case))}],
    )
    text = value.text(rule).lower()
    if text not in (*_YES, *_NO):
        raise value.wrong(f"is {value.shown}", rule)
    return text in _YES


def whole_text(pattern: str) -> str:
    """A pattern that must match in full, in JSON Schema."""
    return f"^(?:{pattern})$"
