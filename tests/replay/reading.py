"""What a recording says, read by the official rules and by nothing of the proxy's.

https://docs.anthropic.com/en/api/messages-streaming
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

Json = dict[str, Any]

HUMAN = "\n\nHuman:"

STOPS = {
    "end_turn": ("stop_sequence", HUMAN),
    "max_tokens": ("max_tokens", None),
    "model_context_window_exceeded": ("max_tokens", None),
}
"""A Message's reason to stop: the old one, and its ``stop``. Any other is a stop without one."""

STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What an error would have been if it had come before the stream."""

CUT = "api_error: "
"""How the exception of a stream begins that stopped in the middle."""


class Event(NamedTuple):
    name: str
    body: Json


class NoAnswer(Exception):
    """By the official rules the stream cannot be put together."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failure that has an HTTP status, because nothing was said before it.

    ``type`` and ``message`` None are the proxy's to word.
    """

    status: int
    type: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A completion. ``exception`` is how that of a failed stream begins."""

    text: str
    stop_reason: str | None
    stop: str | None
    log_id: str
    model: str
    exception: str | None = None

    def failed(self, exception: str) -> Told:
        return Told(self.text, "max_tokens", None, self.log_id, self.model, exception)


def events(stream: bytes) -> list[Event]:
    """The events of a stream; one that no blank line ended is none."""
    *ended, _ = re.split(r"\r?\n\r?\n", stream.decode())
    found = []
    for event in ended:
        fields = dict(line.split(": ", 1) for line in re.split(r"\r?\n", event))
        found.append(Event(fields["event"], json.loads(fields["data"])))
    return found


def refusal(stream: bytes) -> Refusal | None:
    """The failure that a stream is from its first event on; a ping does not count as one."""
    said = [event for event in events(stream) if event.name != "ping"]
    if not said:
        return Refusal(502, "api_error")
    if said[0].name != "error":
        return None
    error = said[0].body["error"]
    return Refusal(STATUS.get(error["type"], 500), error["type"], error["message"])


def refusal_in(status: int, body: bytes) -> Refusal:
    """The failure that an answer with an error status is."""
    try:
        error = json.loads(body)["error"]
        return Refusal(status, error["type"], error["message"])
    except (ValueError, TypeError, KeyError):
        return Refusal(status)


# Completions.


def completion(body: Json) -> Told:
    """A completion of 2023-06-01; the earlier one said the same."""
    return Told(
        body["completion"], body["stop_reason"], body["stop"], body["log_id"], body["model"]
    )


def streamed_completion(stream: bytes) -> Told:
    """The completion that a stream of increments amounts to."""
    told = Told("", None, None, "", "")
    for event in events(stream):
        if event.name == "completion":
            told = completion(event.body | {"completion": told.text + event.body["completion"]})
            if told.stop_reason is not None:
                return told
        elif event.name == "error":
            return told.failed(_exception(event.body))
    return told.failed(CUT)


# Messages as completions.


def message_as_completion(message: Json, model: str) -> Told:
    """The completion that a Message amounts to, for a client that asked for ``model``."""
    text = "".join(map(_text, message["content"]))
    return _stopped(message, Told(_spaced(text), None, None, _log_id(message), model))


def streamed_message_as_completion(stream: bytes, model: str) -> Told:
    """The completion that a streamed Message amounts to; it has one beginning, the first."""
    text, log_id, stop = "", "", Json()
    exception = CUT
    for event in events(stream):
        match event.name:
            case "message_start" if not log_id:
                message = event.body["message"]
                log_id, stop = _log_id(message), message
                text = "".join(map(_text, message["content"]))
            case "content_block_start":
                text += _text(event.body["content_block"])
            case "content_block_delta":
                text += _text(event.body["delta"])
            case "message_delta":
                stop = event.body["delta"]
            case "error":
                exception = _exception(event.body)
                break
            case "message_stop":
                break
    told = Told(_spaced(text), None, None, log_id, model)
    return _stopped(stop, told) if stop.get("stop_reason") else told.failed(exception)


def _log_id(message: Json) -> str:
    return re.sub("^msg_", "compl_", message["id"])


def _stopped(message: Json, told: Told) -> Told:
    if message["stop_reason"] == "stop_sequence":
        reason, stop = "stop_sequence", message["stop_sequence"]
    else:
        reason, stop = STOPS.get(message["stop_reason"], ("stop_sequence", None))
    return Told(told.text, reason, stop, told.log_id, told.model)


def _text(block: Json) -> str:
    return str(block["text"]) if block["type"] in ("text", "text_delta") else ""


def _spaced(text: str) -> str:
    return f" {text}" if text and not text[0].isspace() else text


# Messages as Messages.


def snapshots(stream: bytes) -> list[Json]:
    """The Message after each event by which it grew, then as it ended; raises NoAnswer.

    How it ended (the reason, the usage) is told last, even where the stream told it before. A
    failed one ends with the beginning of its exception.
    """
    so_far = _Message()
    growing: list[Json] = []
    exception = CUT
    for event in events(stream):
        if event.name == "error":
            exception = _exception(event.body)
        if event.name in ("error", "message_stop"):
            break
        before = copy.deepcopy(so_far.message)
        so_far.take(event)
        if so_far.message != before and event.name != "message_delta":
            growing.append(copy.deepcopy(so_far.message) | {"stop_reason": None})
    last = so_far.message
    if last.get("stop_reason") is None:
        last = last | {"stop_reason": "max_tokens", "exception": exception}
    return [in_2023_01_01(message) for message in (*growing, last)]


def in_2023_01_01(message: Json) -> Json:
    """The Message with the two fields that every body had."""
    return {"exception": None, **message, "truncated": False}


class _Message:
    """Puts a Message together as the official SDKs do."""

    def __init__(self) -> None:
        self.message: Json = {}
        self._inputs: dict[int, str] = {}

    def take(self, event: Event) -> None:
        body = event.body
        match event.name:
            case "message_start" if not self.message:
                self.message = copy.deepcopy(body["message"])
            case _ if not self.message:
                return
            case "content_block_start":
                self._start(copy.deepcopy(body["content_block"]))
            case "content_block_delta":
                self._grow(body["index"], body["delta"])
            case "content_block_stop":
                self._parse_input(body["index"])
            case "message_delta":
                self._end(body)

    def _start(self, block: Json) -> None:
        self.message["content"].append(block)
        if block["type"] == "fallback":
            self.message["model"] = block["to"]["model"]

    def _grow(self, index: int, delta: Json) -> None:
        if index >= len(self.message["content"]):
            raise NoAnswer("a delta for a block that never began")
        block = self.message["content"][index]
        match block["type"], delta["type"]:
            case "text", "text_delta":
                block["text"] += delta["text"]
            case "text", "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case "thinking", "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "thinking", "signature_delta":
                block["signature"] = delta["signature"]
            case "compaction", "compaction_delta":
                block |= {key: value for key, value in delta.items() if key != "type"}
            case (("tool_use" | "server_tool_use" | "mcp_tool_use"), "input_json_delta"):
                self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]

    def _parse_input(self, index: int) -> None:
        """SDKs show half of an input, too, as each guesses it; the whole is the same for all."""
        if text := self._inputs.pop(index, ""):
            try:
                self.message["content"][index]["input"] = json.loads(text)
            except ValueError as error:
                raise NoAnswer("the input of a tool is not JSON") from error

    def _end(self, body: Json) -> None:
        for key, value in body["delta"].items():
            if value is not None or key in ("stop_reason", "stop_sequence", "stop_details"):
                self.message[key] = value
        for key, value in body.get("usage", {}).items():
            if value is not None:
                self.message.setdefault("usage", {})[key] = value
        for key in ("context_management", "input_transformations"):
            if body.get(key) is not None:
                self.message[key] = body[key]


def _exception(body: Json) -> str:
    error = body["error"]
    return f"{error['type']}: {error['message']}"
