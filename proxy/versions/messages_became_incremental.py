"""Version change of 2023-06-01: how much of a Message each event of its stream carries.

The API never streamed a Message at 2023-01-01, as the endpoint is younger. What such a client gets
is the format that completions had, applied to Messages. For clients that name the old version here
only by habit, a route has ``translate: false``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core import sse
from ..core.change import LARGEST_ANSWER, Body, End, Event, VersionChange
from ..core.errors import InvalidRequest, ProxyError, UpstreamNonsense, refused_in_stream
from ..formats.endings import (
    FAILURE_FIELDS,
    NO_REASON,
    STOPPED_SHORT,
    check_message,
    error_event,
    error_of,
)
from ..formats.message_increments import MessageIncrements
from ..formats.message_so_far import MESSAGE_EVENTS, TEXT_DELTAS, MessageSoFar

NOT_FOUND = 404

NO_INPUT = "upstream ended a tool call before its input was complete"

NO_MESSAGE: Body = {
    "id": "",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "",
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 0, "output_tokens": 0},
}
"""Stands for the Message in the last event of a stream that fails before its Message begins."""


STREAMED_SINCE = "2023-06-01"
"""The version from which on the API streams Messages."""


def line_end(client: str, endpoint: str) -> bytes:
    """What ends each line of a stream that a ``client`` of this version gets from ``endpoint``.

    The API ends those of Messages by LF and all others by CRLF, and there are clients that look for
    the one or the other, depending on the endpoint.
    """
    messages = endpoint == "/v1/messages" and client >= STREAMED_SINCE
    return sse.LF if messages else sse.CRLF


class MessagesBecameIncremental(VersionChange):
    """Events of a Message carry only what is new. At 2023-01-01 each has the Message so far."""

    endpoints = ("/v1/messages",)

    def __init__(self) -> None:
        self._so_far = MessageSoFar()
        self._size = 0
        """How many bytes of events became part of the Message so far."""
        self._increments = MessageIncrements()

    def downgrade_response(self, body: Body) -> Body:
        """Add the two fields that every body has at 2023-01-01."""
        check_message(body)
        return _as_in_2023_01_01(body)

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Apply the event to the Message so far, and send that if its content has changed."""
        if event.name == "error":
            return self.downgrade_end(End(refused_in_stream(event.body)))
        if event.name == "message_stop":
            if (self._so_far.message or {}).get("stop_reason") is None:
                return (self._failure(UpstreamNonsense(NO_REASON)),)
            return (self._last(),)
        if event.name not in MESSAGE_EVENTS:
            return ()
        self._size += len(event.data)  # a tool's input is kept until it is whole
        if self._size > LARGEST_ANSWER:
            raise UpstreamNonsense(f"upstream's answer is larger than {LARGEST_ANSWER} bytes")
        changed = self._so_far.apply(event.name, event.body)
        if changed and not _is_text(event):
            self._so_far.count(event.data)
        return (self._partial(),) if changed and event.name != "message_delta" else ()

    def downgrade_end(self, end: End) -> Sequence[Event]:
        """A stream that breaks off after its stop reason is complete.

        Unless content came after that: some upstreams send the reason first.
        """
        if self._so_far.complete:
            return (self._last(),)
        return (self._failure(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def upgrade_response(self, body: Body) -> Body:
        """Remove the two fields; an exception is an error."""
        if body.get("exception") is not None:
            raise error_of(body["exception"])
        check_message(body)
        return {key: value for key, value in body.items() if key not in FAILURE_FIELDS}

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """The events that lead from the last snapshot to this one; the last one must be whole."""
        if event.name == "error":
            return (error_event(refused_in_stream(event.body)),)
        if event.name != "message":
            return (event,)
        message = event.body
        exception = message.get("exception")
        last = message.get("stop_reason") is not None
        try:
            made = self._increments.events(message)
            if last and exception is None:
                check_message(message)
        except UpstreamNonsense as error:
            return (error_event(error),)
        if exception is not None:
            return (*made, *self._increments.rest(), error_event(error_of(exception)))
        return made + self._increments.end(message) if last else made

    def upgrade_error(self, error: ProxyError) -> ProxyError:
        """Explain the 404 of a service of 2023-01-01 that has no endpoint for Messages."""
        if error.status == NOT_FOUND and "model" not in error.message:
            return InvalidRequest(
                "the service behind this proxy speaks 2023-01-01 and has completions only:"
                " POST /v1/messages cannot be translated for it"
            )
        return error

    def upgrade_end(self, end: End) -> Sequence[Event]:
        """A stream without a last event has failed."""
        error = end.error or UpstreamNonsense(STOPPED_SHORT)
        return (*self._increments.rest(), error_event(error))

    def _failure(self, error: ProxyError) -> Event:
        """The Message so far as the last event: cut, with the error as its exception."""
        message = (self._so_far.message or NO_MESSAGE) | {"stop_reason": "max_tokens"}
        snapshot = _snapshot(message, f"{error.type}: {error.message}", last=True)
        snapshot.failure = error
        return snapshot

    def _last(self) -> Event:
        """The whole Message, or the failure where a tool's input is missing from it."""
        if self._so_far.lacks_input:
            return self._failure(UpstreamNonsense(NO_INPUT))
        return _snapshot(self._so_far.message or {}, last=True)

    def _partial(self) -> Event:
        """The Message so far; only the last event has a stop reason, even if that came first."""
        return _snapshot((self._so_far.message or {}) | {"stop_reason": None})


def _is_text(event: Event) -> bool:
    """Whether the event adds nothing but text, and so no value that counts."""
    delta = event.body.get("delta") if event.name == "content_block_delta" else None
    return isinstance(delta, dict) and delta.get("type") in TEXT_DELTAS


def _snapshot(message: Body, exception: str | None = None, *, last: bool = False) -> Event:
    """The event for ``message`` as it is now, which is printed only if it is sent.

    The content may be large, and is not copied. It changes only when the next snapshot is made: by
    then this one was sent, or is superseded and never will be.
    """
    return Event("message", _as_in_2023_01_01(message, exception), last=last, snapshot=True)


def _as_in_2023_01_01(message: Body, exception: str | None = None) -> Body:
    """A Message with the two fields that no later version has."""
    return message | {"truncated": False, "exception": exception}
