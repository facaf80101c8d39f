"""The requests of one connection that are not answered yet: one behind the other, as they came.

The application is at work on the first. A client of HTTP/1.1 may send others before that is
answered, and their answers keep the order. https://www.rfc-editor.org/rfc/rfc9112#section-9.3.2
"""

from __future__ import annotations

from .response import Response
from .terms import PIPELINED


class Pipeline:
    """The responses that are not complete, in the order of their requests."""

    __slots__ = ("_responses",)

    def __init__(self) -> None:
        self._responses: list[Response] = []

    @property
    def first(self) -> Response | None:
        """The one that the application is at work on."""
        return self._responses[0] if self._responses else None

    @property
    def waiting(self) -> int:
        """How many wait for the one before them."""
        return max(0, len(self._responses) - 1)

    @property
    def full(self) -> bool:
        """Whether so many wait that nothing is to be read before one more is answered."""
        return len(self._responses) - 1 > PIPELINED

    @property
    def weight(self) -> int:
        """What takes memory though no exchange accounts for it: those that wait, in bytes."""
        return sum(response.weight + len(response.body) for response in self._responses[1:])

    def add(self, response: Response) -> None:
        """Put one behind the others."""
        self._responses.append(response)

    def complete_first(self) -> Response:
        """Take out the first; the next is to be begun."""
        return self._responses.pop(0)

    def drop_last(self) -> Response:
        """Take out the last, whose turn never comes; returns the one before it."""
        self._responses.pop()
        return self._responses[-1]

    def clear(self) -> None:
        """Take out all."""
        self._responses.clear()
