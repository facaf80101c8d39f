"""The bridge: serves `/v1/complete`, which was retired with its last model, by `/v1/messages`.

https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..bridge import models
from ..bridge.complete_call import CompleteCall
from ..bridge.continuation import Continuation
from ..bridge.messages_call import messages_call
from ..bridge.prompt import parse
from ..core.change import Body, Bridge, Call, End, Event
from ..core.errors import UpstreamNonsense, refused_in_stream
from ..formats.endings import NO_REASON, STOPPED_SHORT, check_message, error_event
from ..formats.leniently import as_list, as_object, as_text
from ..formats.parameters import HUMAN, SAMPLING

STOPS = {
    "end_turn": ("stop_sequence", HUMAN),
    "max_tokens": ("max_tokens", None),
    "model_context_window_exceeded": ("max_tokens", None),
}
"""stop_reason of a Message -> stop_reason and stop of a completion. In the old API an answer that
ended by itself had stopped at the next Human turn. What it did not know (a refusal, tools, future
reasons) becomes a stop without a stop sequence."""

MOST_OPEN = 1000
"""How many blocks other than of text may be open at once: their indexes are remembered."""

MOST_SEARCHED = 20_000_000
"""How many characters a piece of text may have, times the stop sequences that are searched for in
it: one takes up to 7 ns, during which all clients wait. No model sends so much at a time."""

MOST_SEARCHED_WHOLE = 10 * MOST_SEARCHED
"""The same for a large answer that is not streamed: it is translated in a worker thread."""


class CompleteThroughMessages(Bridge):
    """`/v1/complete` is served by `/v1/messages`, with living models in place of retired ones."""

    endpoints = ("/v1/complete",)
    living = "/v1/messages"
    version = "2023-06-01"
    drops = (*SAMPLING, "prefill")

    _continuation: Continuation
    """The text of the completion; set by upgrade_request."""

    def __init__(
        self,
        model_map: Iterable[models.ModelTarget] = (),
        learned: Mapping[str, models.Profile] = MappingProxyType({}),
    ) -> None:
        self._models = tuple(model_map)
        self._learned = learned
        self._asked_model = ""
        self._id = ""
        """The Message's."""
        self._begun = False
        """Whether any of the text was sent."""
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._others: set[int | None] = set()
        """The indexes of the blocks that are open and no text blocks: blocks may be told by turns,
        and an index may be missing."""

    def upgrade_request(self, call: Call) -> Call:
        """Put the same question to a model of today."""
        asked = CompleteCall.read(call.body)
        dialogue = parse(asked.prompt)
        target = models.target(self._models, asked.model)
        profile = models.profile(target.to, self._learned)
        self._asked_model = asked.model
        ours = (HUMAN, *asked.blank_stops)
        self._continuation = Continuation(dialogue, ours, asked.stop_sequences)
        return messages_call(call, asked, dialogue, target, profile)

    @property
    def passes_unchanged(self) -> Callable[[str], bool]:
        """Says of a text whether no stop sequence begins or ends in it, nor has begun before it."""
        return self._continuation.passes_unchanged

    def downgrade_response(self, body: Body) -> Body:
        """Make a completion of the text of the Message."""
        check_message(body)
        self._read_ids(body)
        self._take_stop(body)
        if self._stop_reason is None:
            raise UpstreamNonsense(NO_REASON)
        text = _text_of(body)
        self._check_cost(text, MOST_SEARCHED_WHOLE)
        text = self._continuation.feed(text) + self._rest()
        return self._completion(text, self._stop())

    def downgrade_event(self, event: Event) -> Sequence[Event]:  # noqa: PLR0911  (one per kind)
        """Make completions of text, and pass on pings and errors; all else is left out.

        A Message mostly has a ping before its text, but no stream of 2023-06-01 ever began with
        one. Some clients skip all that arrives together with a ping: that would be the first words.
        Only while the model thinks are those still to come, and servers in between give up an
        answer that is silent for long.
        """
        match event.name:
            case "content_block_delta":
                return self._block_delta(event.body)
            case "content_block_start":
                return self._block_start(event.body)
            case "content_block_stop" if self._others:
                self._others.discard(_index(event.body))
                return ()
            case "message_start":
                return self._message_start(as_object(event.body.get("message")))
            case "message_delta":
                self._take_stop(event.body.get("delta"))
                return ()
            case "message_stop":
                return self._end()
            case "error":
                return self.downgrade_end(End(refused_in_stream(event.body)))
            case "ping" if self._begun or self._others:
                return (event,)
            case _:
                return ()

    def downgrade_end(self, end: End) -> Sequence[Event]:
        """A stream that breaks off after its stop reason is complete.

        Unless content came after that: some upstreams send the reason first.
        """
        if self._stop_reason is not None and not self.in_content:
            return self._end()
        error = end.error or UpstreamNonsense(STOPPED_SHORT)
        return (*self._events(self._continuation.flush()), error_event(error))

    def _message_start(self, message: Body) -> Sequence[Event]:
        """Tell the ids, which the end of a stream that fails takes from here.

        It is not sent: no stream of 2023-06-01 ever began with an event without text, and there are
        clients that strip the blank before an answer off the first event only. Streams that a
        gateway spliced may begin twice; the first beginning counts.
        """
        if self._id:
            return ()
        self._read_ids(message)
        ids = self._event("")
        ids.internal = True
        events = (ids, *self._append(_text_of(message)))
        self.in_content, self._stop_reason = False, None
        self._take_stop(message)
        return events

    def _block_start(self, body: Body) -> Sequence[Event]:
        """A text block may begin with text; any other is remembered while it is open."""
        block = as_object(body.get("content_block"))
        if block.get("type") in (None, "text"):
            self._others.discard(_index(body))
        else:
            self._others.add(_index(body))
            if len(self._others) > MOST_OPEN:
                raise UpstreamNonsense(f"upstream began more than {MOST_OPEN} blocks at once")
        return self._append(_text(block))

    def _block_delta(self, body: Body) -> Sequence[Event]:
        """A text delta counts only within a text block, as the text of a whole Message does."""
        if self._others and _index(body) in self._others:
            return self._append("")
        return self._append(_text(body.get("delta")))

    def _append(self, text: str) -> Sequence[Event]:
        """The events for more text of the Message, to the end if a stop sequence is complete."""
        self.in_content = True
        self._check_cost(text, MOST_SEARCHED)
        events = self._events(self._continuation.feed(text))
        if self._continuation.stop is None:
            return events
        return (*events, self._event("", self._stop()))

    def _check_cost(self, text: str, most: int) -> None:
        """Raise UpstreamNonsense if the search for stop sequences in ``text`` takes too long."""
        if len(text) * self._continuation.stop_count > most:
            raise UpstreamNonsense("upstream sent too much text at once for so many stop sequences")

    def _end(self) -> Sequence[Event]:
        """The last events of a complete Message; raises UpstreamNonsense if it is not."""
        if self._stop_reason is None:
            raise UpstreamNonsense(NO_REASON)
        return (*self._events(self._rest()), self._event("", self._stop()))

    def _rest(self) -> str:
        """The text that was held back as a possible beginning of a stop, now that no more comes."""
        stopped = self._stop_reason == "stop_sequence"
        return self._continuation.flush(self._stop_sequence if stopped else None)

    def _events(self, text: str) -> Sequence[Event]:
        if not text:
            return ()
        self._begun = True
        return (self._event(text),)

    def _read_ids(self, message: Body) -> None:
        self._id = _completion_id(as_text(message.get("id")))
        self.answered_by = as_text(message.get("model")) or None

    def _take_stop(self, delta: Any) -> None:
        """Remember a stop reason; a later one replaces it."""
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            stop = as_text(delta.get("stop_sequence"))
            self._check_cost(stop, MOST_SEARCHED)  # as it is searched for others within it
            self._stop_reason = delta["stop_reason"]
            self.in_content = False
            self._stop_sequence = stop or None

    def _stop(self) -> tuple[str, str | None]:
        """stop_reason and stop of the completion."""
        if self._continuation.stop is not None:
            return "stop_sequence", self._continuation.stop
        if self._stop_reason == "stop_sequence":
            return "stop_sequence", self._stop_sequence
        return STOPS.get(self._stop_reason or "", ("stop_sequence", None))

    def _event(self, text: str, stop: tuple[str | None, str | None] = (None, None)) -> Event:
        """A completion as an event, the last one if it has a stop reason."""
        body = self._completion(text, stop)
        return Event("completion", body, last=stop[0] is not None)

    def _completion(self, text: str, stop: tuple[str | None, str | None]) -> Body:
        """A completion of 2023-06-01, with `stop` and `log_id`, which are not documented for it."""
        reason, sequence = stop
        return {
            "type": "completion",
            "id": self._id,
            "completion": text,
            "stop_reason": reason,
            "model": self._asked_model,
            "stop": sequence,
            "log_id": self._id,
        }


def _completion_id(message_id: str) -> str:
    """The id of a message as that of a completion: programs in R look for its ``compl_``."""
    number = message_id.removeprefix("msg_")
    return message_id if number == message_id else f"compl_{number}"


def _text(block: Any) -> str:
    """The text of a content block or delta; "" of any that is not text."""
    if isinstance(block, dict) and block.get("type") in ("text", "text_delta"):
        return as_text(block.get("text"))
    return ""


def _text_of(message: Body) -> str:
    """The text of all its blocks of text."""
    return "".join(map(_text, as_list(message.get("content"))))


def _index(body: Body) -> int | None:
    """The block that an event is about; None if it does not say."""
    index = body.get("index")
    return index if isinstance(index, int) else None
