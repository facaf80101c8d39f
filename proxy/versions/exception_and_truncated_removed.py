"""Version change of 2023-06-01: fields of a completion, and how a stream reports a failure."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.change import Body, Call, End, Event, VersionChange
from ..core.errors import ProxyError, UpstreamNonsense, refused_in_stream
from ..formats.endings import (
    FAILURE_FIELDS,
    STOPPED_SHORT,
    check_completion,
    error_event,
    error_of,
)
from ..formats.parameters import HUMAN


class ExceptionAndTruncatedRemoved(VersionChange):
    """`exception` and `truncated` are removed; a stream that fails ends with an `error` event."""

    endpoints = ("/v1/complete",)
    depends_on_text = False

    def __init__(self) -> None:
        self._log_id = self._model = ""
        """As the last event had them: an answer that fails ends with the same."""
        self._only_stop: str | None = None
        """The stop sequence of an answer, if only one is possible."""

    def upgrade_request(self, call: Call) -> Call:
        """Remember whether the call has no stop sequence but the one that every call has."""
        stops = call.body.get("stop_sequences")
        others = [stop for stop in stops if stop != HUMAN] if isinstance(stops, list) else stops
        self._only_stop = None if others else HUMAN
        return call

    def downgrade_response(self, body: Body) -> Body:
        """Restore the two fields, at their places among the seven of 2023-01-01."""
        check_completion(body)
        return self._as_in_2023_01_01(body)

    def downgrade_event(self, event: Event) -> Sequence[Event]:
        """As a response; an `error` event becomes a last completion with an exception."""
        if event.name == "completion":
            event.body = body = self._as_in_2023_01_01(event.body)
            self._log_id, self._model = body["log_id"], body["model"]
            event.last = body["stop_reason"] is not None
            return (event,)
        if event.name == "error":
            return (self._failure(event.failure or refused_in_stream(event.body)),)
        return (event,)

    def downgrade_end(self, end: End) -> Sequence[Event]:
        """A stream without a last event has failed, and must not look whole to the client."""
        return (self._failure(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def upgrade_response(self, body: Body) -> Body:
        """Remove the two fields; an exception is an error."""
        if body.get("exception") is not None:
            raise error_of(body["exception"])
        check_completion(body)
        return _as_in_2023_06_01(body)

    def upgrade_event(self, event: Event) -> Sequence[Event]:
        """As a response; an exception ends the stream with an `error` event."""
        if event.name == "error":
            return (error_event(refused_in_stream(event.body)),)
        if event.name != "completion":
            return (event,)
        exception = event.body.get("exception")
        body = _as_in_2023_06_01(event.body)
        if exception is None:
            return (Event("completion", body, last=event.last),)
        error = error_event(error_of(exception))
        if not body.get("completion"):
            return (error,)
        return (Event("completion", body | {"stop_reason": None, "stop": None}), error)

    def upgrade_end(self, end: End) -> Sequence[Event]:
        """A stream without a last event has failed."""
        return (error_event(end.error or UpstreamNonsense(STOPPED_SHORT)),)

    def _failure(self, error: ProxyError) -> Event:
        """A last completion that reports ``error``: the one form that all clients of 2023 survive.

        Without a stop reason some of them wait for ever; with `max_tokens` a cut text does not look
        whole.
        """
        body = {
            "stop_reason": "max_tokens",
            "log_id": self._log_id,
            "model": self._model,
            "exception": f"{error.type}: {error.message}",
        }
        return Event("completion", self._as_in_2023_01_01(body), last=True, failure=error)

    def _as_in_2023_01_01(self, body: Body) -> Body:
        """A completion with the seven fields of 2023-01-01.

        Later ones are documented without ``stop``, but some old clients take an answer without it
        for unfinished: it is filled in where only one stop sequence is possible.
        """
        fields = _fields(body)
        if "stop" not in body and fields["stop_reason"] == "stop_sequence":
            fields["stop"] = self._only_stop
        return {
            "completion": body.get("completion", ""),
            "stop": fields["stop"],
            "stop_reason": fields["stop_reason"],
            "truncated": False,
            "log_id": fields["log_id"],
            "model": fields["model"],
            "exception": _text(body, "exception"),
        }


def _as_in_2023_06_01(body: Body) -> Body:
    """A completion without the two fields, and with the type and id that it has since then."""
    fields = _fields(body)
    kept = {key: fields.get(key, value) for key, value in body.items() if key not in FAILURE_FIELDS}
    return {"type": "completion", "id": fields["log_id"], **kept}


def _fields(body: Body) -> Body:
    """The fields of a completion beside its text; a value of a wrong type counts as missing.

    The last completions that the API gave had one value for log_id and id, and only id is
    documented.
    """
    return {
        "stop": _text(body, "stop"),
        "stop_reason": _text(body, "stop_reason") or None,
        "log_id": _text(body, "log_id") or _text(body, "id") or "",
        "model": _text(body, "model") or "",
    }


def _text(body: Body, key: str) -> str | None:
    """The string under ``key``, else None."""
    value = body.get(key)
    return value if isinstance(value, str) else None
