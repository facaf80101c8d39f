"""What looks like a key is not repeated, wherever a program may have put it by mistake.

Keys belong in a field, which nobody shows. In a path or a value that is quoted they are known by
their looks alone: what is told apart here is what keys begin with, and what follows a word for
one. The rest stays readable.

A letter may be written as ``%73`` and mean the same (RFC 3986 §2.3), or as ``%2573``, where a path
was encoded again that was encoded already. So looks are judged by what a text means. Digits that
are encoded within such a code are not seen through: who encodes ``%`` has no need to encode them.
"""

from __future__ import annotations

import re
from functools import lru_cache

HIDDEN = "[key]"
"""Stands where something was that looked like a key."""

_KEY = re.compile(
    r"""
    sk-ant- [\w.~%+-]*                                        # the API's own
    | (?:(?<![a-z0-9]) | (?<=%[0-9a-f]{2})) sk- [\w.~%+-]{16,}  # those of others
    | eyJ [\w-]{10,} \. [\w.-]*                               # a JSON web token (RFC 7519)
    | (?P<name> bearer (?:[ +]|%20)+ ) [^\s"'&,;]+            # RFC 6750 §2.1
    | (?P<word> (?:(?<![a-z0-9-]) | (?<=%[0-9a-f]{2}))
        (?: (?:x-)? api[-_]?key | key | token | secret | password )
        (?: [=:/] | %3[ad] | %2f ) ) [\w.~%+-]{16,}
    | [\w-]{80,}                                              # no name is as long
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_MARKS = ("sk-", "eyj", "bearer", "key", "token", "secret", "password")
"""What is part of all that _KEY finds, but for what is long: most texts have none of it."""

_LONG = 80

_ENCODED = re.compile(r"%(?:25)*([0-9a-f]{2})", re.IGNORECASE | re.ASCII)
"""One character, encoded once or more often."""

_UNRESERVED = frozenset("-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""What means the same, encoded or not."""


def without_keys(text: str) -> str:
    """``text``, with HIDDEN in place of whatever looks like a key.

    Where something does, characters around it that need no encoding are shown without.
    """
    meant = _ENCODED.sub(_decoded, text) if "%" in text else text
    lower = meant.lower()
    if len(meant) < _LONG and not any(map(lower.__contains__, _MARKS)):
        return text
    shown, found = _KEY.subn(_hidden, meant)
    return shown if found else text


def beginning(text: str, longest: int) -> str:
    """At most ``longest`` characters of what ``without_keys`` makes of ``text``.

    More than that is looked at, for a key that is cut does not look like one. Where ``text``
    goes on beyond that, the end of what is looked at is not shown: it may be such a key.
    """
    looked_at = 2 * longest + _LONG
    return _beginning(text[:looked_at], longest, cut=len(text) > looked_at)


@lru_cache(maxsize=256)
def _beginning(text: str, longest: int, *, cut: bool) -> str:
    shown = without_keys(text)  # paths and models come again and again
    return shown[: min(longest, max(0, len(shown) - _LONG))] if cut else shown[:longest]


def _decoded(encoded: re.Match[str]) -> str:
    """The character, or, where it may mean something else then, what encodes it once."""
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else f"%{encoded[1]}"


def _hidden(found: re.Match[str]) -> str:
    return f"{found['name'] or found['word'] or ''}{HIDDEN}"
