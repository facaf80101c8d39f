"""Stop sequences in a text that arrives in pieces.

Text is held back only while it may be the beginning of a stop sequence, and given out the moment
that it cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1000
"""Longer stop sequences, in characters, are left to the upstream: looking for one costs more than
any text is likely to hold."""


class StopScanner:
    """Gives out text up to the first of ``stops``; ``hit`` is that stop, once it was seen.

    The first is the one that is complete first, as it was for a model that stopped there.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if 0 < len(stop) <= LONGEST))
        self._longest = max(map(len, self._stops), default=0)
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

    def lets_pass(self, text: str) -> bool:
        """Whether ``text``, added now, would be given out as it is, and nothing be kept in mind."""
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
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
