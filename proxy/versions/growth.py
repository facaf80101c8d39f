"""What a text has more than it had before: the increments within snapshots."""

from __future__ import annotations

from ..errors import UpstreamNonsense


def growth(before: str, text: str) -> str:
    """What follows ``before`` in ``text``; raises UpstreamNonsense if it was taken back.

    A service that takes back what it said cannot be translated for a client that keeps what it
    got: nobody can unsay what was sent.
    """
    if text.startswith(before):
        return text[len(before) :]
    said, now = _units(before), _units(text)  # the pair of a surrogate may have arrived
    if now.startswith(said):
        return now[len(said) :].decode("utf-16-le", "surrogatepass")
    raise UpstreamNonsense("upstream took back text that it had sent")


def _units(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
