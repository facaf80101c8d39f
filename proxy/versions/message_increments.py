"""The events that lead from one snapshot of a Message to the next: MessageSoFar, backwards.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import Any

from .. import jsontext
from ..change import Body, Event
from ..errors import UpstreamNonsense
from .exception_and_truncated_removed import ONLY_THEN
from .growth import growth
from .message_so_far import TOOLS

GROWING = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}
"""Type of a block -> the field that grows, and the type of the delta that says so."""

_TOLD_LAST = ("stop_reason", "stop_sequence", "stop_details", "container")

_TOLD_APART = frozenset(
    (*_TOLD_LAST, *ONLY_THEN, "id", "type", "role", "model", "content", "usage", "delta")
)
"""Fields of a Message that have their own place in events, or none; any other may be new."""


class MessageIncrements:
    """Turns the snapshots of one stream into its events."""

    def __init__(self) -> None:
        self._begun: Body | None = None
        """The Message as it began."""
        self._blocks: list[Body] = []

    def events(self, message: Body) -> list[Event]:
        """What is new in ``message``; raises UpstreamNonsense where it took something back."""
        made: list[Event] = []
        if self._begun is None:
            self._begun = _opening(message)
            made.append(_event("message_start", message=self._begun))
        content = message.get("content")
        blocks = [block for block in _list(content) if isinstance(block, dict)]
        if len(blocks) < len(self._blocks):
            raise UpstreamNonsense("upstream took back a block that it had sent")
        for index, block in enumerate(blocks):
            if index == len(self._blocks):
                made += self._opened(index, block)
            if block.get("type") != self._blocks[index].get("type"):
                raise UpstreamNonsense("upstream took back a block that it had sent")
            made += _grown(index, self._blocks[index], block)
            self._blocks[index] = dict(block)
        return made

    def end(self, message: Body) -> list[Event]:
        """The events that end the stream with the last snapshot ``message``."""
        told = {field: message[field] for field in _TOLD_LAST if field in message}
        made = self._closed()
        more = self._told_since(message)
        made.append(_event("message_delta", delta=told, usage=message.get("usage", {}), **more))
        made.append(_event("message_stop"))
        made[-1].last = True
        return made

    def _told_since(self, message: Body) -> Body:
        """What stands beside the content and came later, such as `context_management`."""
        began = self._begun or {}
        return {
            field: value
            for field, value in message.items()
            if field not in _TOLD_APART and value is not None and value != began.get(field)
        }

    def _opened(self, index: int, block: Body) -> list[Event]:
        made = self._closed()
        began = _emptied(block)
        self._blocks.append(began)
        made.append(_event("content_block_start", index=index, content_block=began))
        return made

    def rest(self) -> list[Event]:
        """What the last block is still owed: a tool's input, which can no longer grow."""
        if not self._blocks or self._blocks[-1].get("type") not in TOOLS:
            return []
        text = jsontext.dumps(self._blocks[-1].get("input") or {}).decode()
        if text == "{}":
            return []
        delta = {"type": "input_json_delta", "partial_json": text}
        return [_delta(len(self._blocks) - 1, delta)]

    def _closed(self) -> list[Event]:
        if not self._blocks:
            return []
        return [*self.rest(), _event("content_block_stop", index=len(self._blocks) - 1)]


def _opening(message: Body) -> Body:
    kept = {field: value for field, value in message.items() if field not in ONLY_THEN}
    return kept | {"content": [], "stop_reason": None, "stop_sequence": None}


def _emptied(block: Body) -> Body:
    """A block as it begins: what arrives in deltas is not there yet."""
    type_ = block.get("type")
    if type_ == "text":
        return block | {"text": ""} | ({"citations": []} if block.get("citations") else {})
    if type_ == "thinking":
        return block | {"thinking": "", "signature": ""}
    return block | ({"input": {}} if type_ in TOOLS else {})


def _grown(index: int, before: Body, block: Body) -> list[Event]:
    """The deltas of one block."""
    deltas: list[Body] = []
    field, delta = GROWING.get(str(block.get("type")), ("", ""))
    if field:
        deltas += _growth(before, block, field, delta)
    for citation in _list(block.get("citations"))[len(_list(before.get("citations"))) :]:
        deltas.append({"type": "citations_delta", "citation": citation})
    if block.get("signature") and block["signature"] != before.get("signature"):
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    if block.get("type") == "compaction" and block != before:
        deltas.append(block | {"type": "compaction_delta"})
    return [_delta(index, delta) for delta in deltas]


def _growth(before: Body, block: Body, field: str, delta: str) -> list[Body]:
    grown = growth(str(before.get(field) or ""), str(block.get(field) or ""))
    return [{"type": delta, field: grown}] if grown else []


def _delta(index: int, delta: Body) -> Event:
    return _event("content_block_delta", index=index, delta=delta)


def _event(name: str, /, **members: Any) -> Event:
    return Event(name, {"type": name, **members})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
