"""Stop sequences in a text that arrives in pieces.

Text is held back only while it may be the beginning of a stop sequence, and given out the moment
that it cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

LOOKED_FOR = 1000
"""How many characters all that is looked for may have. Stop sequences beyond that are left to the
upstream: each delta would pay for them, where much is held back by the square of it."""

MOST = 100
"""How many are looked for. Each is a search of its own, and an answer that comes whole may be long:
two thousand of two characters took 320 ms in 60 KB."""


class StopScanner:
    """Gives out text up to the first of ``stops``; ``hit`` is that stop, once it was seen.

    The first is the one that is complete first, as it was for a model that stopped there. Those
    that fit into LOOKED_FOR are looked for, in their order, up to MOST.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(islice(_fitting(stops), MOST))
        self.stops = len(self._stops)
        """How many are looked for."""
        self._begins = frozenset(stop[0] for stop in self._stops)
        self._ends = frozenset("".join(stop[:-1] for stop in self._stops))
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """What of the text so far can be given out, after ``text`` was added to it."""
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.hit = min(found)
            self._held = ""
            return text[:at]
        kept = self._may_begin(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def passes_unchanged(self, text: str) -> bool:
        """Whether feed() would return just ``text``, and remember nothing of it."""
        if self._held or self.hit is not None:
            return False
        for character in self._begins:  # in most texts there is none
            if character in text:
                return not any(stop in text for stop in self._stops) and not self._may_begin(text)
        return True

    def flush(self) -> str:
        """The text ends here: what was held back was not the beginning of a stop."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, text: str) -> int:
        """The length of the longest end of ``text`` with which a stop begins."""
        if not text or text[-1] not in self._ends:
            return 0
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _fitting(stops: Iterable[str]) -> Iterator[str]:
    room = LOOKED_FOR
    for stop in dict.fromkeys(stops):
        if 0 < len(stop) <= room:
            room -= len(stop)
            yield stop
