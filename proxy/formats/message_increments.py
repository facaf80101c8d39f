"""The events that lead from one snapshot of a Message to the next: the reverse of MessageSoFar.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import Any

from ..core import jsontext
from ..core.change import Body, Event
from ..core.errors import UpstreamNonsense
from .endings import FAILURE_FIELDS
from .growth import growth
from .leniently import as_list
from .message_so_far import TOOLS

GROWING = {"text": "text_delta", "thinking": "thinking_delta"}
"""A type of block that grows, and the name of its field that does -> the type of its deltas."""

REPLACED = "upstream removed or replaced a block that it had already sent"

_IN_DELTAS = {
    "text": ("text", "citations"),
    "thinking": ("thinking", "signature"),
    **dict.fromkeys(TOOLS, ("input",)),
}
"""A type of block -> the fields that deltas can tell of. All others are told as it begins."""

_IN_MESSAGE_DELTA = ("stop_reason", "stop_sequence", "stop_details", "container")

_PLACED = frozenset(
    (
        *_IN_MESSAGE_DELTA,
        *FAILURE_FIELDS,
        *("id", "type", "role", "model", "content", "usage", "delta"),
    )
)
"""Fields of a Message whose place in the events is fixed, or that have none."""


class MessageIncrements:
    """Turns the snapshots of one stream into its events."""

    def __init__(self) -> None:
        self._start: Body | None = None
        """The Message as ``message_start`` had it."""
        self._blocks: list[Body] = []
        """The blocks as of the last snapshot."""

    def events(self, message: Body) -> list[Event]:
        """What is new in ``message``, as events; raises UpstreamNonsense if anything is gone."""
        made: list[Event] = []
        if self._start is None:
            self._start = _without_content(message)
            made.append(_event("message_start", message=self._start))
        blocks = [block for block in as_list(message.get("content")) if isinstance(block, dict)]
        if len(blocks) < len(self._blocks):
            raise UpstreamNonsense(REPLACED)
        for index, block in enumerate(blocks):
            if index == len(self._blocks):
                made += self._start_block(index, block)
            if block.get("type") != self._blocks[index].get("type"):
                raise UpstreamNonsense(REPLACED)
            _check_rest(self._blocks[index], block)
            if index < len(self._blocks) - 1:
                _check_input(self._blocks[index], block)
            made += _deltas(index, self._blocks[index], block)
            self._blocks[index] = dict(block)
        return made

    def end(self, message: Body) -> list[Event]:
        """The events that end the stream, whose last snapshot is ``message``."""
        delta = {field: message[field] for field in _IN_MESSAGE_DELTA if field in message}
        others = self._other_news(message)
        made = self._stop_block()
        made.append(_event("message_delta", delta=delta, usage=message.get("usage", {}), **others))
        made.append(_event("message_stop"))
        made[-1].last = True
        return made

    def rest(self) -> list[Event]:
        """The delta with the input of the last block, if that is of a tool.

        Inputs are not sent earlier: a snapshot of one may still change in a way no delta can say.
        """
        if not self._blocks or self._blocks[-1].get("type") not in TOOLS:
            return []
        text = jsontext.dumps(self._blocks[-1].get("input") or {}).decode()
        if text == "{}":
            return []
        return [_input_delta(len(self._blocks) - 1, text)]

    def _other_news(self, message: Body) -> Body:
        """Other fields that changed since the Message began, such as `context_management`."""
        start = self._start or {}
        return {
            field: value
            for field, value in message.items()
            if field not in _PLACED and value is not None and value != start.get(field)
        }

    def _start_block(self, index: int, block: Body) -> list[Event]:
        """The beginning of a block, after the end of the one before it."""
        made = self._stop_block()
        start = _emptied(block)
        self._blocks.append(start)
        made.append(_event("content_block_start", index=index, content_block=start))
        if block.get("type") in TOOLS:  # gateways know by it that an input without any is whole
            made.append(_input_delta(index, ""))
        return made

    def _stop_block(self) -> list[Event]:
        """The end of the last block, with its rest."""
        if not self._blocks:
            return []
        return [*self.rest(), _event("content_block_stop", index=len(self._blocks) - 1)]


def _without_content(message: Body) -> Body:
    """A Message as ``message_start`` has it."""
    kept = {field: value for field, value in message.items() if field not in FAILURE_FIELDS}
    return kept | {"content": [], "stop_reason": None, "stop_sequence": None}


def _emptied(block: Body) -> Body:
    """A block as ``content_block_start`` has it: without what arrives in deltas."""
    type_ = block.get("type")
    if type_ == "text":
        return block | {"text": ""} | ({"citations": []} if block.get("citations") else {})
    if type_ == "thinking":
        return block | {"thinking": "", "signature": ""}
    return block | ({"input": {}} if type_ in TOOLS else {})


def _check_input(before: Body, block: Body) -> None:
    """Refuse another input for a tool that the client may have called already with the one told."""
    if block.get("type") in TOOLS and block.get("input") != before.get("input"):
        raise UpstreamNonsense("upstream altered a tool's input that it had already sent")


def _check_rest(before: Body, block: Body) -> None:
    """Refuse news that no delta can tell: an answer without it would look whole."""
    known = as_list(before.get("citations"))
    if _rest(before) != _rest(block) or as_list(block.get("citations"))[: len(known)] != known:
        raise UpstreamNonsense(REPLACED)


def _rest(block: Body) -> Body:
    """What no delta tells of a block; those of a compaction tell all of it."""
    if block.get("type") == "compaction":
        return {}
    told = _IN_DELTAS.get(str(block.get("type")), ())
    return {name: value for name, value in block.items() if name not in told and value is not None}


def _deltas(index: int, before: Body, block: Body) -> list[Event]:
    """The deltas that lead from a block ``before`` to ``block``."""
    deltas = _growth(before, block)
    known = len(as_list(before.get("citations")))
    for citation in as_list(block.get("citations"))[known:]:
        deltas.append({"type": "citations_delta", "citation": citation})
    if block.get("signature") and block["signature"] != before.get("signature"):
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    if block.get("type") == "compaction" and block != before:
        deltas.append(block | {"type": "compaction_delta"})
    return [_delta(index, delta) for delta in deltas]


def _growth(before: Body, block: Body) -> list[Body]:
    """The delta with the new text of a block, if it is of a type that grows and has any."""
    field = str(block.get("type"))
    if field not in GROWING:
        return []
    grown = growth(str(before.get(field) or ""), str(block.get(field) or ""))
    return [{"type": GROWING[field], field: grown}] if grown else []


def _delta(index: int, delta: Body) -> Event:
    return _event("content_block_delta", index=index, delta=delta)


def _input_delta(index: int, text: str) -> Event:
    return _delta(index, {"type": "input_json_delta", "partial_json": text})


def _event(name: str, /, **members: Any) -> Event:
    return Event(name, {"type": name, **members})
