"""Translates one exchange between two versions, by applying the version changes between them.

First ``request`` is called; then either ``response`` with a body, ``error`` with a refusal, or
``stream``, whose ``feed`` takes each chunk and ``finish`` its end. The response goes back, in
reverse, through those changes that the request went through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..core import jsontext
from ..core.change import Body, Bridge, Call
from ..core.errors import InvalidRequest, ProxyError, UpstreamNonsense, refused_in_stream
from ..core.redaction import beginning
from ..core.sse import CRLF, LARGEST_EVENT
from ..core.step import BoundStep, Step
from ..versions import steps
from ..versions.events_became_named import PINGS_HAVE_A_BODY, historical_ping, ping
from ..versions.messages_became_incremental import line_end
from .stream import StreamTranslation

MOST_VALUES = 300_000
"""How many values a body may hold. A message of text has three, and the API takes 100,000 messages.
A value may be two bytes on the wire, and takes up to 500 ns to parse and 90 bytes of memory."""

LONGEST_REASONS = 1000
"""How much of what it would leave out the refusal of a strict route names, in characters."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a route wants its exchanges translated."""

    strict: bool = False
    """Refuse a request of which something would be left out."""
    newest_only: bool = False
    """Of several snapshots that arrive together, send only the last."""
    event_limit: int = LARGEST_EVENT
    """The largest event that the upstream may send, in bytes."""


class Translation:
    """Translates one exchange between a ``client`` version and an ``upstream`` version."""

    __slots__ = (
        "_bridge",
        "_line_end",
        "_options",
        "_steps",
        "_way_back",
        "changes",
        "client",
        "differs",
        "dropped",
        "model_asked",
        "notes",
        "streams",
        "upstream",
    )

    def __init__(
        self, client: str, upstream: str, bridge: Bridge | None = None, options: Options = Options()
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.differs = client != upstream
        """Whether the two sides speak different versions, or are translated all the same."""
        self.dropped: Mapping[str, str] = {}
        """The parameters that were left out of the request, and why."""
        self.notes: Sequence[str] = ()
        """What else was changed in the request, and why."""
        self.changes: tuple[str, ...] = ()
        """The names of the version changes that the request took."""
        self.model_asked = ""
        """The model that the client named."""
        self.streams = False
        """Whether the client asks for a stream."""
        self._line_end = CRLF
        """What ends each line of the client's stream."""
        self._bridge = bridge
        self._options = options
        kind = type(bridge) if bridge else None
        self._steps = steps(client, upstream, kind)  # type: ignore[arg-type]  # classes can be hashed
        self._way_back: list[BoundStep] = []
        """The steps of the response, in its order."""

    @property
    def model(self) -> str | None:
        """The model that answers, where the bridge may have replaced the one asked for."""
        return self._bridge.answered_by if self._bridge else None

    def concerns(self, endpoint: str) -> bool:
        """Whether requests or responses of ``endpoint`` differ between the two versions."""
        return any(
            step.alters_requests or step.alters_answers
            for step in self._steps
            if endpoint in step.kind.endpoints
        )

    @property
    def answers(self) -> bool:
        """Whether the response is altered, too; known once ``request`` has returned."""
        return bool(self._way_back)

    def request(self, endpoint: str, body: bytes) -> tuple[str, bytes]:
        """The endpoint to call and the body to send; raises InvalidRequest.

        A body that no change has altered is sent as it came, byte for byte.
        """
        original = _object(body)
        self.streams = original.get("stream") is True
        self._line_end = line_end(self.client, endpoint)
        if isinstance(model := original.get("model"), str):
            self.model_asked = model
        call = self._apply_changes(Call(endpoint, dict(original)))
        self.dropped, self.notes = call.dropped, call.notes
        if self._options.strict and call.dropped:
            reasons = "; ".join(f"{name}: {why}" for name, why in call.dropped.items())
            shown = beginning(reasons, LONGEST_REASONS)
            raise InvalidRequest(f"this route is strict, and would leave out {shown}")
        if call.endpoint == endpoint and call.body == original:
            return endpoint, body
        return call.endpoint, _printed(call.body)

    def _apply_changes(self, call: Call) -> Call:
        """Upgrade or downgrade the call, and remember the steps of the response."""
        changes: list[str] = []
        for step in self._steps:
            if call.endpoint in step.kind.endpoints:
                changes.append(step.kind.__name__)
                bound = self._bind(step)
                if step.alters_requests:
                    call = bound.request(call)
                if step.alters_answers:
                    self._way_back.insert(0, bound)
        self.changes = tuple(changes)
        return call

    def response(self, body: bytes) -> bytes:
        """The client's body for that of a successful response, not streamed.

        Raises UpstreamNonsense, and UpstreamRefused if the body is an error in spite of its status.
        """
        if not jsontext.holds_at_most(MOST_VALUES, body):
            raise UpstreamNonsense(f"upstream's answer holds more than {MOST_VALUES} values")
        try:
            answer = jsontext.loads_shallow(body)
            if not isinstance(answer, dict):
                raise UpstreamNonsense("upstream's answer is not a JSON object")
            if answer.get("type") == "error":
                raise refused_in_stream(answer)
            for step in self._way_back:
                answer = step.response(answer)
            return jsontext.dumps(answer)
        except jsontext.NotJSON as error:
            raise UpstreamNonsense("upstream's answer is not JSON") from error

    def error(self, error: ProxyError) -> ProxyError:
        """The error that the client gets for one that the upstream answered with."""
        for step in self._way_back:
            error = step.error(error)
        return error

    def stream(self) -> StreamTranslation:
        """The translation of a successful response that is streamed; called once."""
        return StreamTranslation(
            self._way_back,
            self._bridge,
            newest_only=self._options.newest_only,
            event_limit=self._options.event_limit,
            line_end=self._line_end,
        )

    def keepalive(self, now: datetime) -> bytes:
        """The ping with which servers of the client's version fill a silence; ``now`` is in UTC."""
        if self.client < PINGS_HAVE_A_BODY:
            return historical_ping(now)
        return ping().encode(self._line_end)

    def _bind(self, step: Step) -> BoundStep:
        change = self._bridge if isinstance(self._bridge, step.kind) else step.kind()
        return BoundStep(change, client_is_older=step.client_is_older)


def _object(body: bytes) -> Body:
    """The JSON object in the body of a request; raises InvalidRequest."""
    if not jsontext.holds_at_most(MOST_VALUES, body):
        raise InvalidRequest(f"The request body holds more than {MOST_VALUES} values")
    try:
        body.decode()  # jsontext would replace invalid bytes: that would be another question
        value = jsontext.loads_exactly(body)
    except (UnicodeDecodeError, jsontext.NotJSON) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object")
    return value


def _printed(body: Body) -> bytes:
    """The body of the upstream's request; raises InvalidRequest for what JSON cannot say."""
    try:
        printed = jsontext.dumps(body)
    except jsontext.NotJSON as error:
        raise InvalidRequest(f"The request body is {error}") from error
    if (b"null" in printed or b"Infinity" in printed) and not jsontext.finite(body):
        raise InvalidRequest("The request body holds a number that is too large")
    return printed
