"""The rules of the sandbox: which requests today's API accepts, and how it refuses others.

Pure. ``read_*`` turn a body into ``Asked``, or raise the ``ApiError`` that the API would answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..core.errors import STATUS_OF_TYPE

Json = dict[str, Any]
Check = Callable[[str, Any], None]

V2023_06_01 = "2023-06-01"
V2026_10_21 = "2026-10-21"
VERSIONS = (V2023_06_01, V2026_10_21)

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class ApiError(Exception):
    """An answer of the API that is an error."""

    def __init__(
        self,
        type_: str,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.status = status or STATUS_OF_TYPE[type_]
        self.headers = dict(headers or {})


def invalid(message: str) -> ApiError:
    return ApiError("invalid_request_error", message)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the API would accept: what an answer depends on."""

    model: str
    question: str
    """What the user said last."""
    limit: int
    """The longest answer, in tokens."""
    prefilled: bool = False
    stops: tuple[str, ...] = ()
    stream: bool = False
    input_tokens: int = 0


# Models.


class Model(NamedTuple):
    id: str
    created: str
    max_tokens: int = 128_000
    prefill: bool = False
    sampling: bool = False
    thinking_off: bool = True
    """Whether it takes ``thinking: {"type": "disabled"}``."""

    @property
    def info(self) -> Json:
        line, *numbers = self.id.removeprefix("claude-").split("-")
        version = ".".join(number for number in numbers if len(number) < len("20250101"))
        return {
            "type": "model",
            "id": self.id,
            "display_name": f"Claude {line.title()} {version}",
            "created_at": f"{self.created}T00:00:00Z",
            "max_input_tokens": 200_000 if self.max_tokens == 64_000 else 1_000_000,
            "max_tokens": self.max_tokens,
        }


MODELS = (
    Model("claude-fable-5-2", "2026-11-09", thinking_off=False),
    Model("claude-mythos-5-2", "2026-11-09", thinking_off=False),
    Model("claude-haiku-5-5", "2026-10-07"),
    Model("claude-sonnet-5-5", "2026-09-28", thinking_off=False),
    Model("claude-opus-5-5", "2026-09-22", thinking_off=False),
    Model("claude-fable-5-1", "2026-09-01", thinking_off=False),
    Model("claude-mythos-5-1", "2026-09-01", thinking_off=False),
    Model("claude-opus-5", "2026-07-24"),
    Model("claude-sonnet-5", "2026-06-30"),
    Model("claude-fable-5", "2026-06-09", thinking_off=False),
    Model("claude-mythos-5", "2026-06-09", thinking_off=False),
    Model("claude-opus-4-8", "2026-05-28"),
    Model("claude-opus-4-7", "2026-04-16"),
    Model("claude-sonnet-4-6", "2026-02-17", sampling=True),
    Model("claude-opus-4-6", "2026-02-05", sampling=True),
    Model("claude-opus-4-5-20251101", "2025-11-24", 64_000, prefill=True, sampling=True),
    Model("claude-haiku-4-5-20251001", "2025-10-15", 64_000, prefill=True, sampling=True),
    Model("claude-sonnet-4-5-20250929", "2025-09-29", 64_000, prefill=True, sampling=True),
)
_BY_NAME = {model.id: model for model in MODELS}
_BY_NAME |= {re.sub(r"-\d{8}$", "", model.id): model for model in MODELS}

_COMPLETES = re.compile(r"claude-(v?1|instant|2)([.-].*)?")
_RESOLVED = {"claude-2": "claude-2.1", "claude-instant-1": "claude-instant-1.2"}


def find_model(name: str) -> Model:
    if name not in _BY_NAME:
        raise ApiError("not_found_error", f"model: {name}")
    return _BY_NAME[name]


# Requests: one check per field.


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
    _fields(value, {"user_id": _string}, within=f"{name}.")


def _blocks(where: str, blocks: list[Any], within: str) -> None:
    for index, block in enumerate(blocks):
        _object(f"{where}.{index}", block)
        _require(block, ("type",), within=f"{where}.{index}.")
    texts = [(index, block) for index, block in enumerate(blocks) if block["type"] == "text"]
    for index, block in texts:
        _require(block, ("text",), within=f"{where}.{index}.text.")
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
        _fields(turn, _TURN, required=("role", "content"), within=f"{name}.{index}.")
        if turn["role"] == "user" and not turn["content"]:
            raise invalid(f"{name}.{index}: user messages must have non-empty content")
    last = _text_of(value[-1]["content"])
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


def _fields(
    body: Json, checks: Mapping[str, Check], required: Iterable[str] = (), within: str = ""
) -> None:
    """Report missing fields first, then wrong ones, then unknown ones, as the API does."""
    _require(body, required, within)
    for name, check in checks.items():
        if name in body:
            check(within + name, body[name])
    for name in body:
        if name not in checks:
            raise invalid(f"{within}{name}: Extra inputs are not permitted")


def _require(body: Json, names: Iterable[str], within: str = "") -> None:
    for name in names:
        if name not in body:
            raise invalid(f"{within}{name}: Field required")


_COUNTABLE: dict[str, Check] = {"model": _string, "messages": _messages, "system": _system}
_COUNTABLE |= dict.fromkeys(
    ("cache_control", "output_config", "thinking", "tool_choice", "tools"), _anything
)
_SAMPLING: dict[str, Check] = {"temperature": _share, "top_p": _share, "top_k": _whole(least=0)}
_MESSAGES = {
    **_COUNTABLE,
    "max_tokens": _whole(least=1),
    "metadata": _metadata,
    "stop_sequences": _stop_sequences,
    "stream": _flag,
    "container": _anything,
    "inference_geo": _anything,
    "service_tier": _anything,
}
_MESSAGES_OF_VERSION: dict[str, dict[str, Check]] = {
    V2023_06_01: _MESSAGES | _SAMPLING,
    V2026_10_21: _MESSAGES | {"messages": _messages_since_2026},
}
_COMPLETE = {
    **_SAMPLING,
    "model": _string,
    "prompt": _string,
    "max_tokens_to_sample": _whole(least=1),
    "metadata": _metadata,
    "stop_sequences": _stop_sequences,
    "stream": _flag,
}


# Requests: whole bodies.


def read_messages(raw: bytes, version: str) -> Asked:
    """A body of ``/v1/messages``."""
    body = _parsed(raw)
    required = ("model", "messages", "max_tokens")
    _fields(body, _MESSAGES_OF_VERSION[version], required)
    model = find_model(body["model"])
    _suits(model, body)
    turns = body["messages"]
    users = [turn for turn in turns if turn["role"] == "user"]
    return Asked(
        model=model.id,
        question=_text_of(users[-1]["content"]) if users else "",
        limit=body["max_tokens"],
        prefilled=turns[-1]["role"] == "assistant" and bool(turns[-1]["content"]),
        stops=tuple(body.get("stop_sequences", ())),
        stream=body.get("stream", False),
        input_tokens=_count(body),
    )


def read_complete(raw: bytes, _version: str) -> Asked:
    """A body of ``/v1/complete``."""
    body = _parsed(raw)
    _fields(body, _COMPLETE, required=("model", "prompt", "max_tokens_to_sample"))
    name: str = body["model"]
    if not _COMPLETES.fullmatch(name):
        find_model(name)
        raise invalid(
            f'"{name}" is not supported on this API. Please use the Messages API instead.'
        )
    question, prefill = _dialogue(body["prompt"])
    return Asked(
        model=_RESOLVED.get(name, name),
        question=question,
        limit=body["max_tokens_to_sample"],
        prefilled=bool(prefill.strip()),
        stops=tuple(body.get("stop_sequences", ())),
        stream=body.get("stream", False),
    )


def read_count_tokens(raw: bytes) -> int:
    """The tokens in a body of ``/v1/messages/count_tokens``; here a word is a token."""
    body = _parsed(raw)
    _fields(body, _COUNTABLE, required=("model", "messages"))
    find_model(body["model"])
    return _count(body)


def _parsed(raw: bytes) -> Json:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid("Input should be an object")
    return body


def _suits(model: Model, body: Json) -> None:
    """Refuse what this model does not take, however well-formed."""
    if body["max_tokens"] > model.max_tokens:
        raise invalid(
            f"max_tokens: {body['max_tokens']} > {model.max_tokens}, which is the maximum allowed "
            f"number of output tokens for {model.id}"
        )
    sampling = [name for name in _SAMPLING if name in body]
    if sampling and not model.sampling:
        raise invalid(f"`{sampling[0]}` is deprecated for this model.")
    if "temperature" in sampling and "top_p" in sampling:
        raise invalid(
            "`temperature` and `top_p` cannot both be specified for this model. "
            "Please use only one."
        )
    if body["messages"][-1]["role"] == "assistant" and not model.prefill:
        raise invalid(
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    if body.get("thinking") == {"type": "disabled"} and not model.thinking_off:
        raise invalid('"thinking.type.disabled" is not supported for this model.')


def _dialogue(prompt: str) -> tuple[str, str]:
    """The last thing the human said, and what the assistant is to go on from."""
    if prompt.lstrip().startswith(HUMAN.strip()):
        prompt = "\n\n" + prompt.lstrip()
    first, last = prompt.find(HUMAN), prompt.rfind(HUMAN)
    if first < 0 or ASSISTANT in prompt[:first]:
        raise invalid(r'prompt must start with "\n\nHuman:" turn after an optional system prompt')
    said, assistant, prefill = prompt[last + len(HUMAN) :].rpartition(ASSISTANT)
    if not assistant:
        raise invalid(r'prompt must end with "\n\nAssistant:" turn')
    return said.partition(ASSISTANT)[0], prefill


def _text_of(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block["type"] == "text")


def _count(body: Json) -> int:
    parts = [body.get("system", ""), *(turn["content"] for turn in body["messages"])]
    return sum(len(_text_of(part).split()) for part in parts)
