"""How an answer ends: complete, with a stop reason, or with a failure.

At 2023-01-01 every event and body says by `exception` and `truncated` whether it failed. Later a
failed stream ends with an `error` event. https://docs.anthropic.com/en/api/versioning
"""

from __future__ import annotations

from ..core.change import Body, Event
from ..core.errors import STATUS_OF_TYPE, ProxyError, UpstreamNonsense, refused_in_stream
from .leniently import as_text

FAILURE_FIELDS = ("exception", "truncated")
"""Fields that every answer has at 2023-01-01, and none later."""

STOPPED_SHORT = "upstream stopped before the end of its answer"
NO_REASON = "upstream ended its answer without a stop_reason"


def check_completion(body: Body) -> None:
    """Raise UpstreamNonsense unless ``body`` is a completion with its end, the stop reason."""
    if not isinstance(body.get("completion"), str):
        raise UpstreamNonsense("upstream's answer is not a completion")
    if not as_text(body.get("stop_reason")):
        raise UpstreamNonsense(NO_REASON)


def check_message(body: Body) -> None:
    """Raise UpstreamNonsense unless ``body`` is a Message with its end, the stop reason."""
    if not isinstance(body.get("content"), list):
        raise UpstreamNonsense("upstream's answer is not a Message")
    if body.get("stop_reason") is None:
        raise UpstreamNonsense(NO_REASON)


def error_event(error: ProxyError) -> Event:
    """The last event of a failed stream, as every version but the first has it."""
    return Event("error", error.envelope(), last=True, failure=error)


def error_of(exception: object) -> ProxyError:
    """The error that an `exception` of 2023-01-01 reports, with its type if that is named."""
    type_, _, message = str(exception).partition(": ")
    known = type_ in STATUS_OF_TYPE and bool(message)
    error = {"type": type_, "message": message} if known else {"message": str(exception)}
    return refused_in_stream({"error": error})
