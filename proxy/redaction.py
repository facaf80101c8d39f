"""What looks like a key is not repeated, wherever a program may have put it by mistake.

Keys belong in a field, which nobody shows. In a path or a value that is quoted they are known by
their looks alone: what is told apart here is what keys begin with, and what stands behind a word
for one. The rest stays readable.
"""

from __future__ import annotations

import re

HIDDEN = "[key]"
"""Stands where something was that looked like a key."""

_KEY = re.compile(
    r"""
    sk(?:-|%2d) ant(?:-|%2d) [\w.~%+-]*                       # the API's own
    | (?:(?<![a-z0-9]) | (?<=%[0-9a-f]{2})) sk(?:-|%2d) [\w.~%+-]{16,}      # those of others
    | eyJ [\w-]{10,} \. [\w.-]*                               # a JSON web token (RFC 7519)
    | (?P<name> bearer (?:[ +]|%20)+ ) [^\s"'&,;]+            # RFC 6750 §2.1
    | (?P<word> (?:(?<![a-z0-9-]) | (?<=%[0-9a-f]{2}))
        (?: (?:x-)? api[-_]?key | key | token | secret | password )
        (?: [=:/] | %3[ad] | %2f ) ) [\w.~%+-]{16,}
    | [\w-]{80,}                                              # no name is as long
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_MARKS = ("sk-", "sk%2d", "eyj", "bearer", "key", "token", "secret", "password")
"""What is part of all that _KEY finds, but for what is long: most texts have none of it."""

_LONG = 80


def without_keys(text: str) -> str:
    """``text``, with HIDDEN in place of whatever looks like a key."""
    lower = text.lower()
    if len(text) < _LONG and not any(map(lower.__contains__, _MARKS)):
        return text
    return _KEY.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    return f"{found['name'] or found['word'] or ''}{HIDDEN}"
