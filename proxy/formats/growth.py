"""The increment between two snapshots of a text."""

from __future__ import annotations

from ..core.errors import UpstreamNonsense


def growth(before: str, text: str) -> str:
    """What ``text`` has after ``before``; raises UpstreamNonsense if it begins otherwise.

    A service that alters text which it has sent cannot be translated into increments: the client
    has that text, and cannot be told to forget it.
    """
    if text.startswith(before):
        return text[len(before) :]
    # A snapshot may end in half of a surrogate pair, which the next one has as one character.
    earlier, now = _utf_16(before), _utf_16(text)
    if now.startswith(earlier):
        return now[len(earlier) :].decode("utf-16-le", "surrogatepass")
    raise UpstreamNonsense("upstream altered text that it had already sent")


def _utf_16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
