"""What many share, such as memory: how much of it is taken, and whether there is room for more."""

from __future__ import annotations


class Budget:
    """An amount of which all together may take ``limit``."""

    __slots__ = ("_limit", "taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0
        """How much is taken at the moment."""

    def take(self, more: int) -> bool:
        """Take ``more``, or give back what is below zero; returns whether there was room.

        What is taken without room is counted all the same, until it is given back.
        """
        self.taken += more
        return more <= 0 or self.taken <= self._limit


class Share:
    """What one of them takes."""

    __slots__ = ("_budget", "taken")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0
        """How much that is at the moment."""

    def take(self, amount: int) -> bool:
        """Take ``amount`` in place of what is taken; returns whether there was room, as Budget."""
        more, self.taken = amount - self.taken, amount
        return self._budget.take(more)
