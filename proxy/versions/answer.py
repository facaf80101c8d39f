"""The text of an answer, from what a model of today says to what the old API would have said.

Whole or in pieces, it is the same text: that is the law here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from operator import eq

from .prompt import Dialogue
from .stops import StopScanner


class AnswerText:
    """Makes the text of one answer fit its prompt and its stop sequences.

    The old API went on from the very end of the prompt. So after `Assistant:` a text begins with
    one blank, and after a prefill it does not repeat the white space that the prefill ended in.
    ``ours`` are the stop sequences that the upstream does not know, ``theirs`` those that it does.
    """

    def __init__(self, dialogue: Dialogue, ours: Iterable[str], theirs: Iterable[str]) -> None:
        self._ours = tuple(ours)
        self._scanner = StopScanner((*self._ours, *theirs))
        self.stops = self._scanner.stops
        """How many stop sequences are looked for."""
        self._space = dialogue.prefill_space
        self._opens = not dialogue.prefill

    @property
    def stop(self) -> str | None:
        """The stop sequence that ended the text, once it has."""
        return self._scanner.hit

    def feed(self, text: str) -> str:
        """What can be given out of the text so far, after ``text`` was added to it."""
        return self._scanner.feed(self._continuing(text))

    @property
    def passes_unchanged(self) -> Callable[[str], bool]:
        """Whether feed() would return just a certain text, and remember nothing of it.

        Not to be asked before feed() has returned any: the beginning of an answer is special.
        """
        return self._scanner.passes_unchanged

    def flush(self, stop: str | None = None) -> str:
        """The rest, when no more text will come; ``stop`` is at what the upstream ended it.

        The upstream keeps that to itself, and one of ours may have been complete within it.
        """
        held = self._scanner.flush()
        if not stop or self._scanner.hit is not None:
            return held
        scanner = StopScanner(self._ours)
        before = scanner.feed(held + self._continuing(stop[:-1]))
        if scanner.hit is None:
            return held
        self._scanner = scanner
        return before

    def _continuing(self, text: str) -> str:
        """``text`` as it goes on from the prompt, or from what was said before."""
        if not text:
            return ""
        if self._opens:
            self._opens = False
            return text if text[0].isspace() else " " + text
        return self._after_prefill(text) if self._space else text

    def _after_prefill(self, text: str) -> str:
        repeated = sum(takewhile(bool, map(eq, self._space, text)))
        self._space = self._space[repeated:] if repeated == len(text) else ""
        return text[repeated:]
