"""Version change of 2023-06-01: what a streamed Message is.

No Message was ever streamed at 2023-01-01: the endpoint is younger. This is the format of then,
carried over; who sends the old version to it out of habit sets ``translate: false`` in the route.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..change import LARGEST, Body, End, Event, VersionChange
from ..errors import InvalidRequest, ProxyError, UpstreamNonsense, refused_in_stream
from .exception_and_truncated_removed import (
    NO_REASON,
    ONLY_THEN,
    STOPPED_SHORT,
    error_event,
    told_by,
)
from .message_increments import MessageIncrements
from .message_so_far import TEXT_DELTAS, TOLD, MessageSoFar

NOT_FOUND = 404

NO_INPUT = "upstream asked for a tool without the whole of its input"

NOTHING_SAID: Body = {
    "id": "",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "",
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 0, "output_tokens": 0},
}
"""What a stream that fails before its Message began has for one: its end is an event like any."""


class MessagesBecameIncremental(VersionChange):
    """Streamed Messages are increments. Before, each event was the whole Message so far."""

    endpoints = ("/v1/messages",)

    def __init__(self) -> None:
        self._so_far = MessageSoFar()
        self._size = 0
        self._increments = MessageIncrements()

    def downgrade_response(self, body: Body) -> Body:
        """A Message with the two fields that every body had."""
        check_message(body)
        return _as_in_2023_01_01(body)

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """Put the event into the Message, and send that if it is another one now."""
        if event.name == "error":
            return self.downgrade_end(End(refused_in_stream(event.body)))
        if event.name == "message_stop":
            reason = (self._so_far.message or {}).get("stop_reason")
            no_reason = UpstreamNonsense(NO_REASON)
            return (self._failure(no_reason) if reason is None else self._stopped(),)
        if event.name not in TOLD:
            return ()
        self._size += len(event.data)  # a tool's input is kept until it is whole
        if self._size > LARGEST:
            raise UpstreamNonsense(f"upstream's answer is larger than {LARGEST} bytes")
        grown = self._so_far.apply(event.name, event.body)
        if grown and not _is_text(event):
            self._so_far.count(event.data)
        return (self._growing(),) if grown and event.name != "message_delta" else ()

    def downgrade_end(self, end: End) -> Sequence[Event]:
        """An upstream that gave its reason to stop has said all, even if it then failed.

        That is, unless it went on behind it: some tell the reason first.
        """
        if self._so_far.said_all:
            return (self._stopped(),)
        return (self._failure(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def upgrade_response(self, body: Body) -> Body:
        """A Message without the two fields; an exception is an error."""
        if body.get("exception") is not None:
            raise told_by(body["exception"])
        check_message(body)
        return {key: value for key, value in body.items() if key not in ONLY_THEN}

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """What the Message has more than before, as the events that say so; the last is whole."""
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
            return (*made, *self._increments.rest(), error_event(told_by(exception)))
        return made + self._increments.end(message) if last else made

    def upgrade_error(self, error: ProxyError) -> ProxyError:
        """A service of then that knows no Messages is asked for the wrong thing, not a lost one."""
        if error.status == NOT_FOUND and "model" not in error.message:
            return InvalidRequest(
                "the service behind this proxy speaks 2023-01-01 and has completions only:"
                " POST /v1/messages cannot be translated for it"
            )
        return error

    def upgrade_end(self, end: End) -> Sequence[Event]:
        """A service that stops without an end has failed."""
        error = end.error or UpstreamNonsense(STOPPED_SHORT)
        return (*self._increments.rest(), error_event(error))

    def _failure(self, error: ProxyError) -> Event:
        """As for completions: what is there, cut by force, and why."""
        message = (self._so_far.message or NOTHING_SAID) | {"stop_reason": "max_tokens"}
        snapshot = _snapshot(message, f"{error.type}: {error.message}", last=True)
        snapshot.failure = error
        return snapshot

    def _stopped(self) -> Event:
        if self._so_far.lacks_input:
            return self._failure(UpstreamNonsense(NO_INPUT))
        return _snapshot(self._so_far.message or {}, last=True)

    def _growing(self) -> Event:
        """The reason to stop is told last, even if the upstream told it first."""
        return _snapshot((self._so_far.message or {}) | {"stop_reason": None})


def check_message(body: Body) -> None:
    """Let a whole answer be a Message, or raise UpstreamNonsense: a cut one is none."""
    if not isinstance(body.get("content"), list):
        raise UpstreamNonsense("upstream's answer is not a Message")
    if body.get("stop_reason") is None:
        raise UpstreamNonsense(NO_REASON)


def _is_text(event: Event) -> bool:
    delta = event.body.get("delta") if event.name == "content_block_delta" else None
    return isinstance(delta, dict) and delta.get("type") in TEXT_DELTAS


def _snapshot(message: Body, exception: str | None = None, *, last: bool = False) -> Event:
    """The Message as it is now, printed only if it is sent.

    Its content is not copied, of which there may be much: it grows only with the next snapshot,
    and what that supersedes is not sent any more.
    """
    return Event("message", _as_in_2023_01_01(message, exception), last=last, snapshot=True)


def _as_in_2023_01_01(message: Body, exception: str | None = None) -> Body:
    return message | {"truncated": False, "exception": exception}
