"""Stop sequences in a text that arrives in pieces.

The end of the text is held back while it may be the beginning of a stop sequence, and released as
soon as it cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

MOST_CHARACTERS = 1000
"""How many characters the stop sequences of a scanner have in all; further ones are left to the
upstream. Each delta pays for them, by the square of it where much is held back."""

MOST_STOPS = 100
"""How many stop sequences a scanner looks for. Each is a search of its own through the whole text:
two thousand of two characters took 320 ms in 60 KB."""


class StopScanner:
    """Releases text up to the first of ``stops``; ``hit`` is that stop once it was found.

    The first is the one that is complete first, as that is where a model would have stopped. Of
    ``stops`` those are looked for, in their order, that fit into MOST_CHARACTERS, up to MOST_STOPS.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(islice(_fitting(stops), MOST_STOPS))
        self.count = len(self._stops)
        """How many stop sequences are looked for."""
        self._first_characters = frozenset(stop[0] for stop in self._stops)
        self._inner_characters = frozenset("".join(stop[:-1] for stop in self._stops))
        """With which text that is to be held back can end."""
        self._held = ""
        """The end of the text, which may be the beginning of a stop."""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Append ``text``; returns what can be released now."""
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.hit = min(found)
            self._held = ""
            return text[:at]
        released = len(text) - self._length_to_hold(text)
        self._held = text[released:]
        return text[:released]

    def passes_unchanged(self, text: str) -> bool:
        """Whether feed() would return just ``text``, and remember nothing of it."""
        if self._held or self.hit is not None:
            return False
        for character in self._first_characters:  # in most texts there is none
            if character in text:
                found = any(stop in text for stop in self._stops)
                return not found and not self._length_to_hold(text)
        return True

    def flush(self) -> str:
        """End the text; returns what was held back, which was not the beginning of a stop."""
        held, self._held = self._held, ""
        return held

    def _length_to_hold(self, text: str) -> int:
        """The length of the longest suffix of ``text`` that is a prefix of a stop."""
        if not text or text[-1] not in self._inner_characters:
            return 0
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _fitting(stops: Iterable[str]) -> Iterator[str]:
    """Those ``stops``, each once, that fit into MOST_CHARACTERS beside those before them."""
    room = MOST_CHARACTERS
    for stop in dict.fromkeys(stops):
        if 0 < len(stop) <= room:
            room -= len(stop)
            yield stop
