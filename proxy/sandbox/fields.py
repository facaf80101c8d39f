"""The fields of requests that the sandbox takes, with one check for each.

Pure. A check is given the name of a field, as the API spells it in errors, and its value; it raises
the ApiError that the API would answer with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import invalid

Json = dict[str, Any]
Check = Callable[[str, Any], None]

V2023_06_01 = "2023-06-01"
V2026_10_21 = "2026-10-21"
VERSIONS = (V2023_06_01, V2026_10_21)


def _anything(_name: str, _value: Any) -> None:
    pass


def _a(kind: type, expected: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise invalid(f"{name}: Input should be {expected}")

    return check


_string = _a(str, "a valid string")
_flag = _a(bool, "a valid boolean")
_list = _a(list, "a valid array")
_object = _a(dict, "an object")


def _whole(least: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(f"{name}: Input should be a valid integer")
        if value < least:
            raise invalid(f"{name}: must be greater than or equal to {least}")

    return check


def _share(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise invalid(f"{name}: Input should be a valid number")
    if not 0 <= value <= 1:
        raise invalid(f"{name}: range: 0..1")


def _stop_sequences(name: str, value: Any) -> None:
    _list(name, value)
    for index, stop in enumerate(value):
        _string(f"{name}.{index}", stop)
    if not all(stop.strip() for stop in value):
        raise invalid(f"{name}: each stop sequence must contain non-whitespace")


def _metadata(name: str, value: Any) -> None:
    _object(name, value)
    check_fields(value, {"user_id": _string}, within=f"{name}.")


def _blocks(where: str, blocks: list[Any], within: str) -> None:
    for index, block in enumerate(blocks):
        _object(f"{where}.{index}", block)
        require(block, ("type",), within=f"{where}.{index}.")
    texts = [(index, block) for index, block in enumerate(blocks) if block["type"] == "text"]
    for index, block in texts:
        require(block, ("text",), within=f"{where}.{index}.text.")
        _string(f"{where}.{index}.text.text", block["text"])
        if not block["text"]:
            raise invalid(f"{within}: text content blocks must be non-empty")
        if len(texts) == len(blocks):  # beside a tool's block, a blank is let through
            _not_blank(within, block["text"])


def _not_blank(within: str, text: str) -> None:
    if text and not text.strip():
        raise invalid(f"{within}: text content blocks must contain non-whitespace text")


def _system(name: str, value: Any) -> None:
    _content(name, value, within=name)


def _content(name: str, value: Any, within: str) -> None:
    if isinstance(value, str):
        _not_blank(within, value)
    else:
        _list(name, value)
        _blocks(name, value, within)


def _role(name: str, value: Any) -> None:
    if value not in ("user", "assistant"):
        raise invalid(f"{name}: Input should be 'user' or 'assistant'")


def _turn_content(name: str, value: Any) -> None:
    _content(name, value, within="messages")


_TURN: dict[str, Check] = {"role": _role, "content": _turn_content}


def _messages(name: str, value: Any) -> None:
    _list(name, value)
    if not value:
        raise invalid(f"{name}: at least one message is required")
    for index, turn in enumerate(value):
        _object(f"{name}.{index}", turn)
        check_fields(turn, _TURN, required=("role", "content"), within=f"{name}.{index}.")
        if turn["role"] == "user" and not turn["content"]:
            raise invalid(f"{name}.{index}: user messages must have non-empty content")
    last = text_of(value[-1]["content"])
    if value[-1]["role"] == "assistant" and last != last.rstrip():
        raise invalid(f"{name}: final assistant content cannot end with trailing whitespace")


def _messages_since_2026(name: str, value: Any) -> None:
    """2026-10-21 took away where documents and citations may stand."""
    _messages(name, value)
    for index, turn in enumerate(value):
        blocks = turn["content"] if isinstance(turn["content"], list) else []
        for number, block in enumerate(blocks):
            where = f"{name}.{index}.content.{number}"
            if turn["role"] == "assistant" and block["type"] == "document":
                raise invalid(f"{where}: document blocks are not taken in assistant messages")
            if turn["role"] == "user" and block["type"] == "text" and block.get("citations"):
                raise invalid(f"{where}.text.citations: Extra inputs are not permitted")


def check_fields(
    body: Json, checks: Mapping[str, Check], required: Iterable[str] = (), within: str = ""
) -> None:
    """Report missing fields first, then wrong ones, then unknown ones, as the API does."""
    require(body, required, within)
    for name, check in checks.items():
        if name in body:
            check(within + name, body[name])
    for name in body:
        if name not in checks:
            raise invalid(f"{within}{name}: Extra inputs are not permitted")


def require(body: Json, names: Iterable[str], within: str = "") -> None:
    for name in names:
        if name not in body:
            raise invalid(f"{within}{name}: Field required")


COUNTABLE: dict[str, Check] = {"model": _string, "messages": _messages, "system": _system}
COUNTABLE |= dict.fromkeys(
    ("cache_control", "output_config", "thinking", "tool_choice", "tools"), _anything
)
SAMPLING: dict[str, Check] = {"temperature": _share, "top_p": _share, "top_k": _whole(least=0)}
_ANY_MESSAGES = {
    **COUNTABLE,
    "max_tokens": _whole(least=1),
    "metadata": _metadata,
    "stop_sequences": _stop_sequences,
    "stream": _flag,
    "container": _anything,
    "inference_geo": _anything,
    "service_tier": _anything,
}
MESSAGES: dict[str, dict[str, Check]] = {
    V2023_06_01: _ANY_MESSAGES | SAMPLING,
    V2026_10_21: _ANY_MESSAGES | {"messages": _messages_since_2026},
}
COMPLETE = {
    **SAMPLING,
    "model": _string,
    "prompt": _string,
    "max_tokens_to_sample": _whole(least=1),
    "metadata": _metadata,
    "stop_sequences": _stop_sequences,
    "stream": _flag,
}


def text_of(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block["type"] == "text")
