"""Version change of 2023-06-01: the `event:` line of a server-sent event."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..core import sse
from ..core.change import Call, Event, VersionChange


class EventsBecameNamed(VersionChange):
    """Every event of a stream has an `event:` line with its name. Before, only pings had one."""

    endpoints = ("/v1/complete", "/v1/messages")
    depends_on_text = False

    def __init__(self) -> None:
        self._name = "completion"

    def upgrade_request(self, call: Call) -> Call:
        """Remember the name of the events that hold an answer of this endpoint."""
        self._name = "completion" if call.endpoint == "/v1/complete" else "message"
        return call

    downgrade_request = upgrade_request

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Remove the name of events that hold an answer, and all other events.

        Without its name any other event looks like an answer. Pings would keep theirs, but many
        clients of 2023 take even a named one for an answer, or crash.
        """
        if event.name != self._name:
            return ()
        event.name = None
        return (event,)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Add the name. Pings have theirs, but the time as text where today's have JSON."""
        if event.name == "ping":
            return (ping(),)
        if event.name is None:
            event.name = "error" if event.body.get("error") else self._name
        return (event,)


PINGS_HAVE_A_BODY = "2023-06-01"
"""The version from which on the data of a ping is JSON."""


def ping() -> Event:
    """A ping of later versions, to the byte: some clients compare its data with that text."""
    return Event("ping", data=b'{"type": "ping"}')


def historical_ping(now: datetime) -> bytes:
    """A ping of 2023-01-01, byte for byte as the API sent it while it had nothing else to send.

    The official SDKs of that time skip it; some hand-written clients do not.
    """
    return sse.encode("ping", f"{now:%Y-%m-%d %H:%M:%S.%f}".encode())
