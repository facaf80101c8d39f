"""Whether some server might take a path for one of a route's, though it is written differently.

Servers decode a path once or twice, or all but its slashes; they merge slashes, cut parameters off,
take a backslash for a slash and ``//name`` for a host, and ignore case, a suffix or a slash at the
end. Only doubled slashes are modelled here. Otherwise a path is certainly not a route's only if one
of its segments differs, and nobody can divide the path up to there in another way; or if nobody can
do so up to its end, and the number of segments differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

_DIVIDES = re.compile(r"[/\\;?#%\0]")
"""What ends a segment or a path for some servers, or may be decoded once more."""

_HOST = re.compile("^//+[^/]*")
_SLASHES = re.compile(r"(?:[/\\]|%2f|%5c)+", re.IGNORECASE)
_OPENING = re.compile(r"\{\w+:path\}|;|%(?:3b|3f|23|25)", re.IGNORECASE)
"""What in the path of a route may be followed by anything, or for some servers by nothing."""

_SUFFIX = r"(?:[.\s].*)?"


class Beginning(NamedTuple):
    """What all servers agree a path begins with, in decoded segments; ``whole`` if that is all."""

    segments: Sequence[str]
    whole: bool


def beginnings(path: str, enough: int) -> Iterator[Beginning]:
    """The Beginning of ``path``, for each way to read doubled slashes.

    They may count as one, or the first may introduce a host (RFC 3986 §4.2). A path is divided
    ``enough`` times at most, for a client may send any number of segments.
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
    except UnicodeDecodeError:  # some servers drop such bytes, or find a slash in them
        return False


class Likeness:
    """All that some server might take for the ``path`` of a route, with its parameters."""

    def __init__(self, path: str) -> None:
        # Requests are compared only as far as all servers agree where their slashes are.
        path = _SLASHES.sub("/", path)
        before, opening, _ = _OPENING.sub("\0", path).partition("\0")
        *inner, last = before.split("/")[1:]
        segments = [*inner, f"{last}{{rest}}" if opening else last] if last else inner
        self._segments = [re.compile(_lenient(segment)) for segment in segments]
        self._is_open = bool(opening)
        self._least = len(segments) + (self._is_open and not last)
        self.enough = len(segments) + 2
        """Into how many segments a path must be divided to tell: the route's, a slash, and more."""

    def may_be(self, path: Beginning) -> bool:
        """Whether some server might take a path with this beginning for one of the route's."""
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
    """A segment of a route's path as a regular expression: decoded, in lower case, with any suffix.

    A parameter may be empty. It ends at the first occurrence of the text after it, without
    backtracking to later ones: a client could make that take very long.
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
