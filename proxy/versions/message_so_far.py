"""A Message put together from the events of its stream, as the official SDKs put it together.

A delta of an unknown kind is left out, as the API may add some. One for a block that never began
is a fault, as it is to the SDKs: left out, its text would be lost, and the Message look whole.
https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from typing import Any

from .. import jsontext
from ..change import Body
from ..errors import UpstreamNonsense

TOOLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Types of blocks whose input arrives as parts of JSON."""

MOST_FIELDS = 1000
"""How many fields a Message may have: each event that lets it grow copies them."""

MOST_VALUES = 300_000
"""How many values it may hold beside its texts, as a whole answer may: a snapshot prints them all,
and an empty list of two bytes on the wire takes sixty."""

TEXT_DELTAS = ("text_delta", "thinking_delta")
"""Deltas that leave no value behind but their text."""

NEVER_WHOLE = "!"
"""What no JSON begins with, for an input that ended before it was whole: it is read just once."""

TOLD = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
)
"""The events that a Message is told in. Others say nothing of it, and need not even be JSON."""


class MessageSoFar:
    """The Message as of the last event; ``message`` is None before it began."""

    def __init__(self) -> None:
        self.message: Body | None = None
        self.said_all = False
        """Whether its reason to stop was told behind all content so far."""
        self._blocks: dict[int, Body] = {}
        self._inputs: dict[int, list[str]] = {}
        """The JSON of tool inputs that are not whole yet, in parts."""
        self._values = 0

    def apply(self, name: str | None, body: Body) -> bool:
        """Take one event; says whether the Message is another one now. Raises UpstreamNonsense."""
        if self.message is None:
            return name == "message_start" and self._start(_object(body.get("message")))
        match name:
            case "content_block_start":
                return self._start_block(_index(body), _object(body.get("content_block")))
            case "content_block_delta":
                return self._grow_block(_index(body), _object(body.get("delta")))
            case "content_block_stop":
                return self._stop_block(_index(body))
            case "message_delta":
                return self._grow_message(self.message, body)
            case _:
                return False

    def count(self, told: bytes) -> None:
        """Count the values in JSON that was kept, rather too many; raises UpstreamNonsense."""
        self._values += jsontext.values(told)
        if self._values > MOST_VALUES:
            raise UpstreamNonsense(f"upstream's Message holds more than {MOST_VALUES} values")

    @property
    def lacks_input(self) -> bool:
        """Whether it asks for a tool to be used, and the input of one never became whole."""
        return bool(self._inputs) and (self.message or {}).get("stop_reason") == "tool_use"

    def _start(self, message: Body) -> bool:
        content = message.get("content")
        blocks = [_object(block) for block in content] if isinstance(content, list) else []
        self._blocks = dict(enumerate(blocks))
        self.message = {**message, "content": blocks}
        _check_fields(self.message)
        self.said_all = message.get("stop_reason") is not None
        return True

    def _start_block(self, index: int, block: Body) -> bool:
        """Blocks stand in the order in which they begin, whatever index they are given."""
        self.said_all = False
        self._blocks[index] = block
        if self.message is not None:
            self.message["content"].append(block)
            if block.get("type") == "fallback":  # another model goes on from here
                self.message["model"] = _object(block.get("to")).get("model")
        return True

    def _grow_block(self, index: int, delta: Body) -> bool:
        self.said_all = False
        if index not in self._blocks:
            raise UpstreamNonsense("upstream went on with a block that never began")
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
                self._inputs.setdefault(index, []).append(_string(delta.get("partial_json")))
                return False
            case _:
                return False
        return True

    def _stop_block(self, index: int) -> bool:
        """A tool's input is parsed when it is whole; until then it stands as its block began."""
        text = "".join(self._inputs.pop(index, ()))
        if not text:
            return False
        try:
            whole = text.encode("utf-8", "replace")
            self._blocks[index]["input"] = jsontext.loads_at_once(whole)
        except jsontext.NotJSON:  # as where the answer was too long, which its reason tells
            self._inputs[index] = [NEVER_WHOLE]
            return False
        self.count(whole)
        return True

    def _grow_message(self, message: Body, body: Body) -> bool:
        """The last word counts. Usage comes in totals, never to be added up; null says nothing."""
        delta = _object(body.get("delta"))
        if "stop_reason" in delta:
            self.said_all = delta["stop_reason"] is not None
        message |= {
            field: value
            for field, value in delta.items()
            if (value is not None or field.startswith("stop_")) and field != "content"
        }
        told = _object(body.get("usage")).items()
        usage = {name: count for name, count in told if count is not None}
        if usage:
            if not isinstance(message.get("usage"), dict):
                message["usage"] = {}
            message["usage"] |= usage
        others = {name: value for name, value in body.items() if name not in _PARTS}
        message |= {name: value for name, value in others.items() if value is not None}
        _check_fields(message)
        return True


_PARTS = ("type", "delta", "usage", "content")


def _check_fields(message: Body) -> None:
    if len(message) > MOST_FIELDS:
        raise UpstreamNonsense(f"upstream's Message has more than {MOST_FIELDS} fields")


def _append(block: Body, delta: Body, field: str) -> bool:
    grown = _string(delta.get(field))
    if not grown:
        return False
    text = _string(block.get(field))
    block[field] = None  # a text that nobody else holds grows where it is: it is not copied
    text += grown
    block[field] = text
    return True


def _index(body: Body) -> int:
    index = body.get("index")
    return index if isinstance(index, int) else -1


def _object(value: Any) -> Body:
    """A copy of a JSON object; {} of anything else."""
    return dict(value) if isinstance(value, dict) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
