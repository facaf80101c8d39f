"""Version change of 2023-06-01: how a stream says that it is over."""

from __future__ import annotations

from collections.abc import Sequence

from ..change import Event, VersionChange


class DoneEventRemoved(VersionChange):
    """Streams end with their last event. Before, a `data: [DONE]` followed it."""

    endpoints = ("/v1/complete", "/v1/messages")
    depends_on_text = False

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Send `[DONE]` right behind the last event: some clients read the two as a pair."""
        if event.last:
            return (event, Event(None, data=b"[DONE]"))
        return (event,)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """Swallow it."""
        return () if event.data == b"[DONE]" else (event,)
