"""Version change of 2023-06-01: the fields of a completion, and how a failed stream ends."""

from __future__ import annotations

from collections.abc import Sequence

from ..change import Body, Call, End, Event, VersionChange
from ..errors import STATUS_OF_TYPE, ProxyError, UpstreamNonsense, refused_in_stream
from .prompt import HUMAN

ONLY_THEN = ("exception", "truncated")

STOPPED_SHORT = "upstream stopped before the end of its answer"
NO_REASON = "upstream ended its answer without a stop_reason"


class ExceptionAndTruncatedRemoved(VersionChange):
    """`exception` and `truncated` are gone; a stream that fails ends in an `error` event."""

    endpoints = ("/v1/complete",)
    depends_on_text = False

    def __init__(self) -> None:
        self._log_id = self._model = ""
        self._only_stop: str | None = None

    def upgrade_request(self, call: Call) -> Call:
        """Remember whether there is but one stop sequence: the one that every call had."""
        stops = call.body.get("stop_sequences")
        others = [stop for stop in stops if stop != HUMAN] if isinstance(stops, list) else stops
        self._only_stop = None if others else HUMAN
        return call

    def downgrade_response(self, body: Body) -> Body:
        """Put the two back, where they stood among the seven keys of then."""
        check_completion(body)
        return self._as_in_2023_01_01(body)

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """As a body; an `error` event becomes a last completion that carries the exception."""
        if event.name == "completion":
            event.body = body = self._as_in_2023_01_01(event.body)
            self._log_id, self._model = body["log_id"], body["model"]
            event.last = body["stop_reason"] is not None
            return (event,)
        if event.name == "error":
            return (self._failure(event.failure or refused_in_stream(event.body)),)
        return (event,)

    def downgrade_end(self, end: End) -> Sequence[Event]:
        """An upstream that stops without an end has failed, and the client must know."""
        return (self._failure(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def upgrade_response(self, body: Body) -> Body:
        """Take the two out; an exception is an error."""
        if body.get("exception") is not None:
            raise told_by(body["exception"])
        check_completion(body)
        return _as_in_2023_06_01(body)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """As a body; an exception ends the stream with an `error` event."""
        if event.name == "error":
            return (error_event(refused_in_stream(event.body)),)
        if event.name != "completion":
            return (event,)
        exception = event.body.get("exception")
        body = _as_in_2023_06_01(event.body)
        if exception is None:
            return (Event("completion", body, last=event.last),)
        error = error_event(told_by(exception))
        if not body.get("completion"):
            return (error,)
        return (Event("completion", body | {"stop_reason": None, "stop": None}), error)

    def upgrade_end(self, end: End) -> Sequence[Event]:
        """A service that stops without an end has failed."""
        return (error_event(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def _failure(self, error: ProxyError) -> Event:
        """The form that every client of 2023 survives: none can be told of an error otherwise.

        With `max_tokens` as the reason a cut text does not look whole, and without any reason old
        clients wait for ever.
        """
        failed = {
            "stop_reason": "max_tokens",
            "log_id": self._log_id,
            "model": self._model,
            "exception": f"{error.type}: {error.message}",
        }
        return Event("completion", self._as_in_2023_01_01(failed), last=True, failure=error)

    def _as_in_2023_01_01(self, body: Body) -> Body:
        """The seven keys. The documented answers of later say nothing of ``stop``, and some old
        clients take an answer for unfinished without: where it can be but one, it is told.
        """
        told = _told(body)
        if "stop" not in body and told["stop_reason"] == "stop_sequence":
            told["stop"] = self._only_stop
        return {
            "completion": body.get("completion", ""),
            "stop": told["stop"],
            "stop_reason": told["stop_reason"],
            "truncated": False,
            "log_id": told["log_id"],
            "model": told["model"],
            "exception": _text(body, "exception"),
        }


def error_event(error: ProxyError) -> Event:
    """The end of a failed stream, as every version but the first has it."""
    return Event("error", error.envelope(), last=True, failure=error)


def told_by(exception: object) -> ProxyError:
    """The error that an `exception` tells: its type and its message, as far as it has both."""
    type_, _, message = str(exception).partition(": ")
    known = type_ in STATUS_OF_TYPE and bool(message)
    error = {"type": type_, "message": message} if known else {"message": str(exception)}
    return refused_in_stream({"error": error})


def check_completion(body: Body) -> None:
    """Let a whole answer be a completion, or raise UpstreamNonsense: a cut one is none."""
    if not isinstance(body.get("completion"), str):
        raise UpstreamNonsense("upstream's answer is not a completion")
    if _told(body)["stop_reason"] is None:
        raise UpstreamNonsense(NO_REASON)


def _as_in_2023_06_01(body: Body) -> Body:
    told = _told(body)
    kept = {key: told.get(key, value) for key, value in body.items() if key not in ONLY_THEN}
    return {"type": "completion", "id": told["log_id"], **kept}


def _told(body: Body) -> Body:
    """What a completion tells beside its text; what is of another type than that tells nothing.

    The log_id was the id by the end, and the documentation has no more than that.
    """
    return {
        "stop": _text(body, "stop"),
        "stop_reason": _text(body, "stop_reason") or None,
        "log_id": _text(body, "log_id") or _text(body, "id") or "",
        "model": _text(body, "model") or "",
    }


def _text(body: Body, key: str) -> str | None:
    value = body.get(key)
    return value if isinstance(value, str) else None
