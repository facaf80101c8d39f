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
    """

    def __init__(self, dialogue: Dialogue, stops: Iterable[str]) -> None:
        self._scanner = StopScanner(stops)
        self._space = dialogue.prefill_space
        self._opens = not dialogue.prefill

    @property
    def stop(self) -> str | None:
        """The stop sequence that ended the text, once it has."""
        return self._scanner.hit

    def feed(self, text: str) -> str:
        """What can be given out of the text so far, after ``text`` was added to it."""
        if not text:
            return ""
        if self._opens:
            self._opens = False
            text = text if text[0].isspace() else " " + text
        elif self._space:
            text = self._after_prefill(text)
        return self._scanner.feed(text)

    @property
    def lets_pass(self) -> Callable[[str], bool]:
        """Tells of a text whether it would be given out as it is, and nothing be kept in mind.

        It is right as soon as text was given out: how the answer begins is behind it then.
        """
        return self._scanner.lets_pass

    def flush(self) -> str:
        """The rest, when no more text will come."""
        return self._scanner.flush()

    def _after_prefill(self, text: str) -> str:
        repeated = sum(takewhile(bool, map(eq, self._space, text)))
        self._space = self._space[repeated:] if repeated == len(text) else ""
        return text[repeated:]
