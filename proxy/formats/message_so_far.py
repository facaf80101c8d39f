"""Assembles a Message from the events of its stream, as the official SDKs do.

A delta of an unknown type is ignored, as the API may add some. One for a block that never began is
an error, as in the SDKs: were it ignored, text would be lost from a Message that looks whole.
https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from ..core import jsontext
from ..core.change import Body
from ..core.errors import UpstreamNonsense
from .leniently import as_list, as_object, as_text

TOOLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Types of blocks whose input arrives as pieces of JSON."""

MOST_FIELDS = 1000
"""How many fields a Message may have: each snapshot copies them."""

MOST_VALUES = 300_000
"""How many values it may hold beside its texts, the same as an answer that is not streamed: each
snapshot prints them all, and an empty list, two bytes on the wire, takes sixty in memory."""

TEXT_DELTAS = ("text_delta", "thinking_delta")
"""Types of deltas that add no value, but only text to one that is there."""

NOT_JSON = "!"
"""Replaces a tool's input that ended before it was complete: so it is not parsed again, each time
its block is said to stop."""

MESSAGE_EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
)
"""The events that make up a Message. Others do not alter it, and need not even be JSON."""


class MessageSoFar:
    """The Message as of the last event; ``message`` is None until it begins."""

    def __init__(self) -> None:
        self.message: Body | None = None
        self.complete = False
        """Whether the stop reason has arrived, and no content after it."""
        self._blocks: dict[int, Body] = {}
        """Those of the Message, by the index that the events give them."""
        self._inputs: dict[int, list[str]] = {}
        """The pieces of tool inputs that are not complete yet, by the index of their blocks."""
        self._values = 0
        """How many values were counted; see count."""

    def apply(self, name: str | None, body: Body) -> bool:
        """Apply one event; returns whether the Message has changed. Raises UpstreamNonsense."""
        if self.message is None:
            return name == "message_start" and self._start(as_object(body.get("message")))
        match name:
            case "content_block_start":
                return self._start_block(_index(body), dict(as_object(body.get("content_block"))))
            case "content_block_delta":
                return self._grow_block(_index(body), as_object(body.get("delta")))
            case "content_block_stop":
                return self._stop_block(_index(body))
            case "message_delta":
                return self._grow_message(self.message, body)
            case _:
                return False

    def count(self, applied: bytes) -> None:
        """Count the values of JSON that became part of the Message; raises UpstreamNonsense.

        What later JSON replaced stays counted.
        """
        self._values += jsontext.values(applied)
        if self._values > MOST_VALUES:
            raise UpstreamNonsense(f"upstream's Message holds more than {MOST_VALUES} values")

    @property
    def lacks_input(self) -> bool:
        """Whether it stopped for a tool to be used, but the input of one never became complete."""
        return bool(self._inputs) and (self.message or {}).get("stop_reason") == "tool_use"

    def _start(self, message: Body) -> bool:
        blocks = [dict(as_object(block)) for block in as_list(message.get("content"))]
        self._blocks = dict(enumerate(blocks))
        self.message = {**message, "content": blocks}
        _check_fields(self.message)
        self.complete = message.get("stop_reason") is not None
        return True

    def _start_block(self, index: int, block: Body) -> bool:
        """Blocks are appended in the order in which they begin, whatever their index."""
        self.complete = False
        self._blocks[index] = block
        if self.message is not None:
            self.message["content"].append(block)
            if block.get("type") == "fallback":  # another model goes on from here
                self.message["model"] = as_object(block.get("to")).get("model")
        return True

    def _grow_block(self, index: int, delta: Body) -> bool:
        """Apply a delta; the input of a tool changes only once it is complete."""
        self.complete = False
        if index not in self._blocks:
            raise UpstreamNonsense("upstream sent a delta for a block that never began")
        block = self._blocks[index]
        match block.get("type"), delta.get("type"):
            case "text", "text_delta":
                return _append(block, delta, "text")
            case "thinking", "thinking_delta":
                return _append(block, delta, "thinking")
            case "thinking", "signature_delta":
                block["signature"] = delta.get("signature")
            case "text", "citations_delta":
                if not isinstance(block.get("citations"), list):
                    block["citations"] = []
                block["citations"].append(delta.get("citation"))
            case "compaction", "compaction_delta":
                block |= {field: value for field, value in delta.items() if field != "type"}
            case type_, "input_json_delta" if type_ in TOOLS:
                self._inputs.setdefault(index, []).append(as_text(delta.get("partial_json")))
                return False
            case _:
                return False
        return True

    def _stop_block(self, index: int) -> bool:
        """Parse the input of a tool; until then the block has the one that it began with."""
        text = "".join(self._inputs.pop(index, ()))
        if not text:
            return False
        block = self._blocks[index]
        empty = block.get("input") == {}
        try:
            encoded = _joined_characters(text).encode("utf-8", "replace")
            block["input"] = jsontext.loads_at_once(encoded)
        except jsontext.NotJSON:  # for example cut at max_tokens, as the stop reason will say
            self._inputs[index] = [NOT_JSON]
            return False
        self.count(encoded)
        return not (empty and block["input"] == {})

    def _grow_message(self, message: Body, body: Body) -> bool:
        """Later values replace earlier ones: usage, too, comes as totals. Null leaves a value."""
        delta = as_object(body.get("delta"))
        if "stop_reason" in delta:
            self.complete = delta["stop_reason"] is not None
        message |= {
            field: value
            for field, value in delta.items()
            if (value is not None or field.startswith("stop_")) and field != "content"
        }
        totals = as_object(body.get("usage")).items()
        usage = {name: count for name, count in totals if count is not None}
        if usage:
            if not isinstance(message.get("usage"), dict):
                message["usage"] = {}
            message["usage"] |= usage
        others = {name: value for name, value in body.items() if name not in _HANDLED_APART}
        message |= {name: value for name, value in others.items() if value is not None}
        _check_fields(message)
        return True


_HANDLED_APART = ("type", "delta", "usage", "content")


def _check_fields(message: Body) -> None:
    if len(message) > MOST_FIELDS:
        raise UpstreamNonsense(f"upstream's Message has more than {MOST_FIELDS} fields")


def _joined_characters(text: str) -> str:
    """``text`` with the halves of characters joined that two deltas had one of each."""
    if text.isascii():  # as nearly all inputs are
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _append(block: Body, delta: Body, field: str) -> bool:
    """Append the text of a delta to that of its block; returns whether there is any."""
    grown = as_text(delta.get(field))
    if not grown:
        return False
    text = as_text(block.get(field))
    block[field] = None  # CPython appends in place to a string with one reference
    text += grown
    block[field] = text
    return True


def _index(body: Body) -> int:
    index = body.get("index")
    return index if isinstance(index, int) else -1
