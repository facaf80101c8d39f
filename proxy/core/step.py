"""A step between two versions: a version change, and the direction in which it is taken.

Here, and nowhere else, a direction becomes a choice between the methods of a change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .change import Body, Call, End, Event, VersionChange
from .errors import ProxyError


class Step:
    """One step from a client's version to its upstream's: a version change, and its direction.

    ``client_is_older`` means that the request is upgraded and the answer downgraded; for a client
    newer than its upstream it is the other way round.
    """

    __slots__ = ("alters_answers", "alters_requests", "client_is_older", "kind")

    def __init__(self, kind: type[VersionChange], *, client_is_older: bool) -> None:
        self.kind = kind
        self.client_is_older = client_is_older
        if client_is_older:
            request = "upgrade_request"
            answer = ["downgrade_response", "downgrade_event", "downgrade_end"]
        else:
            request = "downgrade_request"
            answer = ["upgrade_response", "upgrade_event", "upgrade_end", "upgrade_error"]
        self.alters_requests = _overrides(kind, request)
        """Whether requests may differ after the step."""
        self.alters_answers = _overrides(kind, *answer)
        """Whether responses may, streamed or not."""


class BoundStep:
    """A step of one exchange: bound to the instance of the change that serves it.

    Each member is the method of the change for this direction; see VersionChange.
    """

    __slots__ = ("change", "client_is_older")

    def __init__(self, change: VersionChange, *, client_is_older: bool) -> None:
        self.change = change
        self.client_is_older = client_is_older

    @property
    def request(self) -> Callable[[Call], Call]:
        change = self.change
        return change.upgrade_request if self.client_is_older else change.downgrade_request

    @property
    def response(self) -> Callable[[Body], Body]:
        change = self.change
        return change.downgrade_response if self.client_is_older else change.upgrade_response

    @property
    def event(self) -> Callable[[Event], Sequence[Event]]:
        change = self.change
        return change.downgrade_event if self.client_is_older else change.upgrade_event

    @property
    def end(self) -> Callable[[End], Sequence[Event]]:
        change = self.change
        return change.downgrade_end if self.client_is_older else change.upgrade_end

    def error(self, error: ProxyError) -> ProxyError:
        return error if self.client_is_older else self.change.upgrade_error(error)


def _overrides(kind: type[VersionChange], *methods: str) -> bool:
    """Whether a change has any of these methods itself: those that it inherits alter nothing."""
    return any(getattr(kind, name) is not getattr(VersionChange, name) for name in methods)
