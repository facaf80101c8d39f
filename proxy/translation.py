"""Translates one exchange between two versions, by applying the version changes between them.

First ``request`` is called; then either ``response`` with a body, ``error`` with a refusal, or, for
a stream, ``feed`` with each chunk and ``finish`` at its end. The response goes back, in reverse,
through those changes that the request went through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from .core import jsontext
from .core.change import LARGEST, Body, BoundStep, Bridge, Call, End, Event, Step
from .core.errors import InvalidRequest, ProxyError, UpstreamNonsense, refused_in_stream
from .core.redaction import beginning
from .core.runs import BLOCK, Run, begin_run
from .core.sse import Decoder, EventTooLarge, Frame
from .versions import path
from .versions.events_became_named import PINGS_HAVE_A_BODY, historical_ping

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
    event_limit: int = 8 << 20
    """The largest event that the upstream may send, in bytes."""


class Translation:
    """Translates one exchange between a ``client`` version and an ``upstream`` version."""

    def __init__(
        self, client: str, upstream: str, bridge: Bridge | None = None, options: Options = Options()
    ) -> None:
        self.client = client
        self.upstream = upstream
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
        self.events_taken = 0
        """How many events of the upstream were read."""
        self.events_made = 0
        """How many events were made of them for the client."""
        self.started = False
        """Whether the upstream's stream has begun, and not with an error."""
        self.ended = False
        """Whether the client's stream is complete."""
        self.failure: ProxyError | None = None
        """The error that the client's stream ended with, if any."""
        self._bridge = bridge
        self._options = options
        kind = type(bridge) if bridge else None
        self._path = path(client, upstream, kind)  # type: ignore[arg-type]  # classes can be hashed
        self._way_back: list[BoundStep] = []
        """The steps of the response, in its order."""
        self._runs_possible = False
        self._run: Run | None = None
        """The run that the next delta may belong to."""
        self._held_back: Callable[[], bytes] | None = None
        """Encodes a snapshot that is held back: the next piece may supersede it."""
        self._event_changes: list[Callable[[Event], Sequence[Event]]] = []
        self._decoder = Decoder(options.event_limit)

    @property
    def model(self) -> str | None:
        """The model that answers, where the bridge may have replaced the one asked for."""
        return self._bridge.answered_by if self._bridge else None

    @property
    def differs(self) -> bool:
        """Whether client and upstream speak different versions, or any change was applied."""
        return self.client != self.upstream or bool(self.changes)

    def concerns(self, endpoint: str) -> bool:
        """Whether requests or responses of ``endpoint`` differ between the two versions."""
        return any(
            step.alters_requests or step.alters_answers
            for step in self._path
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
        for step in self._path:
            if call.endpoint in step.kind.endpoints:
                changes.append(step.kind.__name__)
                bound = self._bind(step)
                if step.alters_requests:
                    call = bound.request(call)
                if step.alters_answers:
                    self._way_back.insert(0, bound)
        self.changes = tuple(changes)
        if self.streams:
            self._event_changes = [step.event for step in self._way_back]  # looked up just once
            dependent = [step.change for step in self._way_back if step.change.depends_on_text]
            self._runs_possible = all(change is self._bridge for change in dependent)
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

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """The client's events for a chunk of the upstream's stream, in blocks of whole events.

        Lazy: they are made as they are asked for. Raises, once all events before were returned,
        UpstreamRefused for a stream that begins with an error, and UpstreamNonsense for what cannot
        be translated; in either case finish() returns the events that the client still needs.
        """
        if self._run is not None and self._decoder.between and not self.ended:
            snapshot = self._run.take(chunk)
            if snapshot is not None:  # as for nearly all chunks; feed_piece costs twice as much
                self.events_taken += 1
                self.events_made += 1
                return (snapshot,)
        return self.feed_piece(chunk, more=False)

    def feed_piece(self, chunk: bytes, *, more: bool) -> Iterator[bytes]:
        """As feed, for a piece of what arrived together; with ``more`` another piece follows.

        That may supersede the last snapshot of this one, which is then held back.
        """
        return self._blocks(self._encoded(chunk, more=more))

    def _blocks(self, pieces: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
        """Count events and join them up to BLOCK; an error waits until they were returned."""
        block: list[bytes] = []
        size = 0
        failed: ProxyError | None = None
        try:
            for events, piece in pieces:
                self.events_made += events
                if block and size + len(piece) > BLOCK:
                    yield b"".join(block)
                    block.clear()
                    size = 0
                if not block and len(piece) > BLOCK // 2:
                    yield piece
                    continue
                block.append(piece)
                size += len(piece)
        except EventTooLarge as error:
            failed = UpstreamNonsense(f"upstream sent {error}")
        except jsontext.NotJSON:
            failed = UpstreamNonsense("upstream sent an event that is not JSON")
        except ProxyError as error:
            failed = error
        if block:
            yield b"".join(block)
        if failed is not None:
            raise failed

    def _encoded(self, chunk: bytes, *, more: bool) -> Iterator[tuple[int, bytes]]:
        """The events for the client, encoded: one, or several of a run, with their number."""
        newest_only = self._options.newest_only
        held_back, self._held_back = self._held_back, None
        at = 0
        while at < len(chunk) and not self.ended:
            run = self._run if self._decoder.between else None
            if run is not None and (accepted := run.accepted(texts := run.texts_at(chunk, at))):
                count = len(accepted)
                at += count * run.size + sum(map(len, texts[:count]))
                self.events_taken += count
                if newest_only:
                    run.append(accepted)
                    held_back = run.latest_snapshot
                else:
                    yield from run.snapshots(accepted)
                continue
            frames, end = self._decoder.event_at(chunk, at)
            for event in self._events(frames, chunk[at:end]):
                if newest_only and event.snapshot:
                    held_back = event.encode
                    continue
                if held_back is not None:
                    yield 1, held_back()
                    held_back = None
                yield 1, event.encode()
            at = end
        if more and not self.ended:
            self._held_back = held_back
        elif held_back is not None:
            yield 1, held_back()

    def _events(self, frames: Iterable[Frame], raw: bytes) -> Iterator[Event]:
        """The events that ``frames`` become.

        They were decoded from ``raw``; if that is exactly one event, it may begin a run.
        """
        whole = self._runs_possible and self._decoder.between
        seen = 0
        made: Sequence[Event] = ()
        for name, data in frames:
            if self.ended:
                return
            seen += 1
            self.events_taken += 1
            made = self._translated(Event(name, None, data))
            if self._run is not None and not self._is_text(made):
                self._run = None  # the next delta may become something else
            text = made[-1].text if made and not self.ended else None
            if text is not None and len(text.escaped) > LARGEST:
                raise UpstreamNonsense(f"upstream's answer is larger than {LARGEST} bytes")
            yield from made
        if whole and seen == 1 and self._decoder.between and self._is_text(made):
            passes_unchanged = self._bridge.passes_unchanged if self._bridge else None
            self._run = begin_run(raw, made[0], passes_unchanged, self._options.event_limit)

    def _is_text(self, made: Sequence[Event]) -> bool:
        """Whether an event became a snapshot of a text, as the next one like it will, too."""
        if len(made) != 1 or made[0].text is None:
            return False
        return self._bridge is None or self._bridge.in_content

    def keepalive(self, now: datetime) -> bytes:
        """The ping with which servers of the client's version fill a silence; ``now`` is in UTC."""
        if self.client < PINGS_HAVE_A_BODY:
            return historical_ping(now)
        return Event("ping", {"type": "ping"}).encode()

    def finish(self, error: ProxyError | None = None) -> Iterator[bytes]:
        """The events that the client still needs where the stream ends, by itself or by ``error``.

        Each change sees the last events of the one before it. One that has no last event by then
        adds its own.
        """
        if self.ended:
            return
        events: Sequence[Event] = ()
        for step in self._way_back:
            events = _up_to_last(step.event, events)
            if not any(event.last for event in events):
                events = (*events, *step.end(End(error)))
        self.ended = True
        for event in events:
            self.failure = self.failure or event.failure
        self.events_made += len(events)
        yield b"".join(event.encode() for event in events)

    def _bind(self, step: Step) -> BoundStep:
        change = self._bridge if isinstance(self._bridge, step.kind) else step.kind()
        return BoundStep(change, client_is_older=step.client_is_older)

    def _translated(self, event: Event) -> Sequence[Event]:
        """The client's events for one event of the upstream."""
        if not self.started:
            if event.name == "error":
                raise refused_in_stream(event.body)
            if event.name == "ping":  # an error may still come, and be answered with its status
                return ()
        events: Sequence[Event] = (event,)
        for change in self._event_changes:
            if len(events) == 1:  # as nearly always
                events = change(events[0])
            elif not events:
                break
            else:
                events = _up_to_last(change, events)
        if not self.started and events:
            _check_first(events[0])
        self.started = True
        for made in events:
            if made.last:
                self.ended = True
                self.failure = made.failure
        return events


def _up_to_last(
    change: Callable[[Event], Sequence[Event]], events: Iterable[Event]
) -> Sequence[Event]:
    """What ``change`` makes of ``events``, up to a last event: a change may end an answer early."""
    made: list[Event] = []
    for event in events:
        made += (changed := change(event))
        if any(one.last for one in changed):
            break
    return made


def _check_first(made: Event) -> None:
    """Raise the error that the first event of a stream reports, if any, in whatever form.

    Nothing has been sent yet, so it can be answered with its status.
    """
    if made.failure is not None:
        raise made.failure
    if made.name == "error":
        raise refused_in_stream(made.body)


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
