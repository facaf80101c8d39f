"""Version change of 2023-06-01: the names of events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from .. import sse
from ..change import Call, Event, VersionChange


class EventsBecameNamed(VersionChange):
    """Events of a stream have names: `completion`, `ping`, `error`. Before, they were data only."""

    endpoints = ("/v1/complete", "/v1/messages")
    depends_on_text = False

    def __init__(self) -> None:
        self._name = "completion"

    def upgrade_request(self, call: Call) -> Call:
        """Remember which name the events of this endpoint have."""
        self._name = "completion" if call.endpoint == "/v1/complete" else "message"
        return call

    downgrade_request = upgrade_request

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Take the name off. What only its name tells apart has no form without it.

        Pings are of that kind: a client of 2023 takes them for answers, or dies of them.
        """
        if event.name != self._name:
            return ()
        event.name = None
        return (event,)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Give the event its name. Pings had one, but no JSON for data."""
        if event.name == "ping":
            return (Event("ping", {"type": "ping"}),)
        if event.name is None:
            event.name = "error" if event.body.get("error") else self._name
        return (event,)


PINGS_HAVE_A_BODY = "2023-06-01"
"""The version from which a ping is an event like any other."""


def historical_ping(now: datetime) -> bytes:
    """The one named event of before: what its server sent into a silence, byte for byte.

    Official SDKs of then skip it; some hand-written clients do not.
    """
    return sse.encode("ping", f"{now:%Y-%m-%d %H:%M:%S.%f}".encode())
