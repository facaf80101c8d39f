"""Whether a server might take a path for one that a route has, though it is written otherwise.

Servers decode a path once or twice, or all but its slashes; they merge slashes, cut parameters off,
take a backslash for a slash and a beginning for a host, and overlook capitals, a suffix or a slash
at the end. None of them is modelled here, but what becomes of doubled slashes. A path is no route's
only if that is plain: by a segment up to which nobody can divide it in two ways, or by their number
if that is so up to its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

_DIVIDES = re.compile(r"[/\\;?#%\0]")
"""What ends a segment or a path to some servers, or may be decoded once more."""

_HOST = re.compile("^//+[^/]*")
_SLASHES = re.compile(r"(?:[/\\]|%2f|%5c)+", re.IGNORECASE)
_OPENING = re.compile(r"\{\w+:path\}|;|%(?:3b|3f|23|25)", re.IGNORECASE)
"""Behind what anything may stand in the path of a route, or nothing to some servers."""

_SUFFIX = r"(?:[.\s].*)?"


class Beginning(NamedTuple):
    """The segments that a path begins with to all servers, decoded; ``whole``: it has no more."""

    segments: Sequence[str]
    whole: bool


def beginnings(path: str, enough: int) -> Iterator[Beginning]:
    """As much of ``path`` as all servers divide alike, for each way to take doubled slashes.

    They may be one, or what stands behind the first may be a host (RFC 3986 §4.2). A path is
    divided ``enough`` times at most, for whoever asks for it could make that many.
    """
    readings = {path, _HOST.sub("", path) or "/"}
    if "//" in path:
        readings |= {re.sub("//+", "/", reading) for reading in readings}
    return (_beginning(reading, enough) for reading in readings)


def _beginning(path: str, enough: int) -> Beginning:
    known: list[str] = []
    for segment in path.split("/", enough)[1:]:
        if not _is_clear(segment):
            return Beginning(known, whole=False)
        known.append(unquote(segment))
    return Beginning(known, whole=True)


def _is_clear(segment: str) -> bool:
    try:
        return not _DIVIDES.search(unquote(segment, errors="strict"))
    except UnicodeDecodeError:  # some leave such bytes out, or find a slash in them
        return False


class Likeness:
    """What the ``path`` of a route, with its parameters, may look like."""

    def __init__(self, path: str) -> None:
        # A path that all servers divide alike has these slashes as they are.
        path = _SLASHES.sub("/", path)
        before, opening, _ = _OPENING.sub("\0", path).partition("\0")
        *inner, last = before.split("/")[1:]
        segments = [*inner, f"{last}{{rest}}" if opening else last] if last else inner
        self._segments = [re.compile(_lenient(segment)) for segment in segments]
        self._is_open = bool(opening)
        self._least = len(segments) + (self._is_open and not last)
        self.enough = len(segments) + 2
        """How often a path is divided to tell: it may have a slash at the end, or even more."""

    def may_be(self, path: Beginning) -> bool:
        """Whether a server might take a path that begins so for one of the route's."""
        known, whole = path
        ends_in_slash = whole and known[-1] == ""
        return self._may_be(known, whole) or (ends_in_slash and self._may_be(known[:-1], whole))

    def _may_be(self, known: Sequence[str], whole: bool) -> bool:
        if len(known) > len(self._segments) and not self._is_open:
            return False
        if whole and len(known) < self._least:
            return False
        pairs = zip(self._segments, known, strict=False)
        return all(
            not each.isascii() or pattern.fullmatch(each.casefold()) for pattern, each in pairs
        )


def _lenient(segment: str) -> str:
    """A segment of a route's path as a regular expression: decoded, without capitals, any suffix.

    A parameter may be nothing. It ends where what stands behind it comes first: no later place is
    tried, for whoever asks for a path could make that many.
    """
    first, *others = (
        re.escape(unquote(literal).casefold()) for literal in re.split(r"\{\w+\}", segment)
    )
    if not others:
        return f"(?s){first}{_SUFFIX}"
    *between, last = others
    middle = "".join(f"(?>.*?{literal})" for literal in between)
    end = f".*?{last}{_SUFFIX}" if last else ".*"
    return f"(?s){first}{middle}{end}"
