"""Translates the events of one stream, as they arrive, through the version changes of its request.

Deltas that are alike are translated together, as runs; every other event goes through each change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ..core import jsontext
from ..core.change import LARGEST_ANSWER, Bridge, End, Event
from ..core.errors import ProxyError, UpstreamNonsense, refused_in_stream
from ..core.sse import CRLF, Decoder, EventTooLarge, Frame
from ..core.step import BoundStep
from .runs import Run, begin_run


class StreamTranslation:
    """Translates one stream through ``steps``, in their order, one of which may be ``bridge``.

    With ``newest_only``, only the last of several snapshots that arrive together is returned. No
    event of the upstream may be larger than ``event_limit`` bytes. The client's lines end in
    ``line_end``.
    """

    __slots__ = (
        "_bridge",
        "_decoder",
        "_event_changes",
        "_event_limit",
        "_held_back",
        "_line_end",
        "_newest_only",
        "_run",
        "_runs_possible",
        "_steps",
        "ended",
        "events_made",
        "events_taken",
        "failure",
        "started",
    )

    def __init__(
        self,
        steps: Sequence[BoundStep],
        bridge: Bridge | None,
        *,
        newest_only: bool,
        event_limit: int,
        line_end: bytes = CRLF,
    ) -> None:
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
        self._steps = steps
        self._bridge = bridge
        self._newest_only = newest_only
        self._event_limit = event_limit
        self._line_end = line_end
        self._event_changes = [step.event for step in steps]  # looked up just once
        dependent = [step.change for step in steps if step.change.depends_on_text]
        self._runs_possible = all(change is bridge for change in dependent)
        self._run: Run | None = None
        """The run that the next delta may belong to."""
        self._held_back: Callable[[], bytes] | None = None
        """Encodes a snapshot that is held back: the next piece may supersede it."""
        self._decoder = Decoder(event_limit)

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """The client's events for a chunk of the upstream's stream, encoded.

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
        failed: ProxyError
        try:
            for event in self._encoded(chunk, more=more):
                self.events_made += 1
                yield event
        except EventTooLarge as error:
            failed = UpstreamNonsense(f"upstream sent {error}")
        except jsontext.NotJSON:
            failed = UpstreamNonsense("upstream sent an event that is not JSON")
        else:
            return
        raise failed

    def _encoded(self, chunk: bytes, *, more: bool) -> Iterator[bytes]:
        held_back, self._held_back = self._held_back, None
        at = 0
        while at < len(chunk) and not self.ended:
            run = self._run if self._decoder.between else None
            if run is not None and (accepted := run.accepted(texts := run.texts_at(chunk, at))):
                count = len(accepted)
                at += count * run.size + sum(map(len, texts[:count]))
                self.events_taken += count
                if self._newest_only:
                    run.append(accepted)
                    held_back = run.latest_snapshot
                else:
                    yield from run.snapshots(accepted)
                continue
            frames, end = self._decoder.event_at(chunk, at)
            for event in self._events(frames, chunk[at:end]):
                if self._newest_only and event.snapshot:
                    held_back = partial(event.encode, self._line_end)
                    continue
                if held_back is not None:
                    yield held_back()
                    held_back = None
                yield event.encode(self._line_end)
            at = end
        if more and not self.ended:
            self._held_back = held_back
        elif held_back is not None:
            yield held_back()

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
            if text is not None and len(text.escaped) > LARGEST_ANSWER:
                raise UpstreamNonsense(f"upstream's answer is larger than {LARGEST_ANSWER} bytes")
            yield from made
        if whole and seen == 1 and self._decoder.between and self._is_text(made):
            passes_unchanged = self._bridge.passes_unchanged if self._bridge else None
            self._run = begin_run(raw, made[0], passes_unchanged, self._event_limit)

    def _is_text(self, made: Sequence[Event]) -> bool:
        """Whether an event became a snapshot of a text, as the next one like it will, too."""
        if len(made) != 1 or made[0].text is None:
            return False
        return self._bridge is None or self._bridge.in_content

    def finish(self, error: ProxyError | None = None) -> Iterator[bytes]:
        """The events that the client still needs where the stream ends, by itself or by ``error``.

        Each change sees the last events of the one before it. One that has no last event by then
        adds its own.
        """
        if self.ended:
            return
        events: Sequence[Event] = ()
        for step in self._steps:
            events = _up_to_last(step.event, events)
            if not any(event.last for event in events):
                events = (*events, *step.end(End(error)))
        self.ended = True
        for event in events:
            self.failure = self.failure or event.failure
        self.events_made += len(events)
        for event in events:
            yield event.encode(self._line_end)

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
        events = _for_client(events)
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


def _for_client(events: Sequence[Event]) -> Sequence[Event]:
    """``events`` without a first one that is internal; no other can be."""
    return events[1:] if events and events[0].internal else events


def _check_first(made: Event) -> None:
    """Raise the error that the first event of a stream reports, if any, in whatever form.

    Nothing has been sent yet, so it can be answered with its status.
    """
    if made.failure is not None:
        raise made.failure
    if made.name == "error":
        raise refused_in_stream(made.body)
