"""The text of a completion, made of the text of a Message: it continues the prompt.

Whether the Message arrives whole or in pieces, the result is the same.
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from operator import eq

from .prompt import Dialogue
from .stops import StopScanner


class Continuation:
    """Fits the text of one Message to its prompt, and ends it at a stop sequence.

    The old API continued the prompt as it stood. So after `Assistant:` a text begins with one
    blank, and after a prefill it does not repeat the white space at the prefill's end.
    The upstream is asked to stop at the stop sequences ``theirs``, but does not know ``ours``.
    """

    def __init__(self, dialogue: Dialogue, ours: Iterable[str], theirs: Iterable[str]) -> None:
        self._ours = tuple(ours)
        self._scanner = StopScanner((*self._ours, *theirs))
        self.stop_count = self._scanner.count
        """How many stop sequences are looked for."""
        self._space = dialogue.prefill_space
        """White space of the prefill that the text may still repeat."""
        self._needs_blank = not dialogue.prefill
        self._blank = ""
        """The blank that the text begins with, while nothing behind it can be sent."""
        self._begun = False
        """Whether any text was returned."""

    @property
    def stop(self) -> str | None:
        """The stop sequence that the text was ended at, once it was."""
        return self._scanner.hit

    def feed(self, text: str) -> str:
        """Append ``text`` of the Message; returns the text that can be sent now.

        A blank is not sent alone before all else, as no answer of the old API began so: there are
        clients that tell by the first text whether those after it repeat it.
        """
        text = self._with_blank(self._scanner.feed(self._continuing(text)))
        if text == " " and not self._begun and self.stop is None:
            self._blank = text
            return ""
        self._begun = self._begun or bool(text)
        return text

    @property
    def passes_unchanged(self) -> Callable[[str], bool]:
        """Says of a text whether feed() would return just that, and remember nothing of it.

        Not to be asked before feed() has returned any: the beginning of an answer is special.
        """
        return self._scanner.passes_unchanged

    def flush(self, stop: str | None = None) -> str:
        """End the text; returns the rest. ``stop`` is the sequence at which the upstream stopped.

        It does not send that sequence, but one of ours may have been complete within it, and then
        the text ends there.
        """
        held = self._scanner.flush()
        if not stop or self._scanner.hit is not None:
            return self._with_blank(held)
        scanner = StopScanner(self._ours)
        before = scanner.feed(held + self._continuing(stop[:-1]))
        if scanner.hit is None:
            return self._with_blank(held)
        self._scanner = scanner
        return self._with_blank(before)

    def _with_blank(self, text: str) -> str:
        """``text`` that can be sent, behind the blank that was not."""
        text, self._blank = self._blank + text, ""
        return text

    def _continuing(self, text: str) -> str:
        """``text`` as it continues the prompt, or the text before it; the beginning is special."""
        if not text:
            return ""
        if self._needs_blank:
            self._needs_blank = False
            return text if text[0].isspace() else " " + text
        return self._without_repeated_space(text) if self._space else text

    def _without_repeated_space(self, text: str) -> str:
        """``text`` without the white space at its beginning that ended the prefill, too."""
        repeated = sum(takewhile(bool, map(eq, self._space, text)))  # characters that are equal
        self._space = self._space[repeated:] if repeated == len(text) else ""
        return text[repeated:]
