"""What the stand-in upstream accepts, what it answers, and the exact bytes of both answers.

Pure: the same request always gives the same bytes. ``read_*`` turn a body into ``Asked`` or raise
the ``ApiError`` that the API answers; ``answer`` makes up a text; ``*_body`` and ``*_frames`` put
it on the wire. On that wire every event is padded with 0-15 blanks before its last brace, except
pings, which are always the same bytes; text is raw UTF-8; bodies are compact.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from proxy.errors import STATUS_OF_TYPE

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
    question: str  # what the user said last
    limit: int  # tokens
    prefilled: bool = False
    stops: tuple[str, ...] = ()
    stream: bool = False
    input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    pieces: tuple[str, ...]  # one per token
    reason: Literal["end_turn", "max_tokens", "stop_sequence"]
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# --- models ---------------------------------------------------------------------------------------


class Model(NamedTuple):
    id: str
    created: str
    max_tokens: int = 128_000
    prefill: bool = False
    sampling: bool = False
    thinking_off: bool = True  # takes thinking: {"type": "disabled"}

    @property
    def info(self) -> Json:
        line, *numbers = self.id.removeprefix("claude-").split("-")
        version = ".".join(number for number in numbers if len(number) < len("20250101"))
        return {
            "type": "model",
            "id": self.id,
            "display_name": f"Claude {line.title()} {version}",
            "created_at": f"{self.created}T00:00:00Z",
            "max_input_tokens": 200_000 if self.max_tokens == 64_000 else 1_000_000,  # noqa: PLR2004
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


# --- requests: one check per field ----------------------------------------------------------------


def _anything(_name: str, _value: Any) -> None:
    pass


def _a(kind: type, told: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise invalid(f"{name}: Input should be {told}")

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


def _fields(
    body: Json, checks: Mapping[str, Check], required: Iterable[str] = (), within: str = ""
) -> None:
    """Missing fields are told first, then wrong ones, then unknown ones: the API's own order."""
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
_MESSAGES_OF_VERSION = {V2023_06_01: _MESSAGES | _SAMPLING, V2026_10_21: _MESSAGES}
_COMPLETE = {
    **_SAMPLING,
    "model": _string,
    "prompt": _string,
    "max_tokens_to_sample": _whole(least=1),
    "metadata": _metadata,
    "stop_sequences": _stop_sequences,
    "stream": _flag,
}


# --- requests: whole bodies -----------------------------------------------------------------------


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
    """Refuses what this model does not take, however well-formed."""
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


# --- answers --------------------------------------------------------------------------------------

_MARKER = re.compile(r"\[sandbox:(\w+)=([^\]]*)\]")
_OPENING = 'Hello! You said: "{}"'
_CONTINUED = ' — you said: "{}"'  # after a prefill
_REST = (
    " This is the sandbox: no key, no model, not even a café."
    " 日本 and 🙂 show that every byte arrives."
)
_QUOTED_WORDS, _QUOTED_LETTERS = 7, 60


def switches(question: str) -> dict[str, str]:
    """What ``[sandbox:name=value]`` in a question asks for."""
    return dict(_MARKER.findall(question))


def answer(asked: Asked, lead: str = "") -> Answer:
    """A friendly answer that shows what arrived; ``lead`` stands before its first word."""
    opening = _CONTINUED if asked.prefilled else lead + _OPENING
    pieces = _pieces(opening.format(_quote(asked.question)) + _REST)[: asked.limit]
    text, stop = _until_stop("".join(pieces), asked.stops)
    if stop is not None:
        return Answer(_pieces(text), "stop_sequence", stop)
    return Answer(pieces, "max_tokens" if len(pieces) == asked.limit else "end_turn")


def _quote(question: str) -> str:
    words = _MARKER.sub("", question).split()
    short = " ".join(words[:_QUOTED_WORDS])[:_QUOTED_LETTERS]
    return short if short == " ".join(words) else short + "…"


def _pieces(text: str) -> tuple[str, ...]:
    """Words with the blanks before them: about what a token is."""
    return tuple(re.findall(r"\s*\S+|\s+", text))


def _until_stop(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """The text before the stop sequence that was complete first."""
    ends = {text.find(stop) + len(stop): stop for stop in stops if stop in text}
    if not ends:
        return text, None
    stop = ends[min(ends)]
    return text[: min(ends) - len(stop)], stop


# --- the wire -------------------------------------------------------------------------------------

Kind = Literal["text", "end", "other"]


class Frame(NamedTuple):
    """One event as its bytes, and whether it carries text or belongs to the end of its stream."""

    kind: Kind
    wire: bytes


_LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PING: tuple[Kind, Json] = ("other", {"type": "ping"})


def seed_of(*parts: bytes) -> bytes:
    """What everything that looks like chance in an answer comes from."""
    return hashlib.sha256(b"\0".join(parts)).digest()


def new_id(kind: str, seed: bytes) -> str:
    noise = hashlib.shake_128(kind.encode() + seed).digest(22)
    return f"{kind}_01" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in noise)


def compact(data: Any) -> bytes:
    return orjson.dumps(data)


def encode(data: Json, blanks: int, eol: bytes) -> bytes:
    """One event, named by its type, with ``blanks`` before its last brace."""
    name = str(data["type"]).encode()
    line = b'{"type": "ping"}' if name == b"ping" else compact(data)[:-1] + b" " * blanks + b"}"
    return b"event: " + name + eol + b"data: " + line + eol + eol


def _frames(events: list[tuple[Kind, Json]], eol: bytes, seed: bytes) -> list[Frame]:
    noise = hashlib.shake_128(seed).digest(len(events))
    return [
        Frame(kind, encode(data, byte % 16, eol))
        for (kind, data), byte in zip(events, noise, strict=True)
    ]


def error_body(error: ApiError, seed: bytes, *, streamed: bool = False) -> Json:
    """An error; within a stream it opens with a key of its own."""
    told = {"type": error.type, "message": error.message}
    told_in_stream = {"details": None} | told
    return {
        "type": "error",
        "error": told_in_stream if streamed else told,
        "request_id": new_id("req", seed),
    }


def error_frame(error: ApiError, eol: bytes, seed: bytes) -> Frame:
    """An error within a stream, whose status was told long ago."""
    return _frames([("end", error_body(error, seed, streamed=True))], eol, seed)[0]


def message_body(asked: Asked, said: Answer, seed: bytes) -> Json:
    """A whole Message, as it is answered where nothing is streamed."""
    content = [{"type": "text", "text": said.text}] if said.pieces else []
    return _message(asked, seed, content, said)


def message_frames(asked: Asked, said: Answer, seed: bytes) -> list[Frame]:
    """A Message as a stream; without a content block where there is no text."""
    events: list[tuple[Kind, Json]] = [
        ("other", {"type": "message_start", "message": _message(asked, seed, [], None)}),
        *(_block_events(said) if said.pieces else ()),
        (
            "end",
            {
                "type": "message_delta",
                "delta": _ending(said),
                "usage": _input_usage(asked) | {"output_tokens": len(said.pieces)},
            },
        ),
        ("end", {"type": "message_stop"}),
    ]
    return _frames(events, b"\n", seed)


def _block_events(said: Answer) -> list[tuple[Kind, Json]]:
    block = {"type": "text", "text": ""}
    deltas = ({"type": "text_delta", "text": piece} for piece in said.pieces)
    return [
        ("other", {"type": "content_block_start", "index": 0, "content_block": block}),
        _PING,
        *(("text", {"type": "content_block_delta", "index": 0, "delta": d}) for d in deltas),
        ("other", {"type": "content_block_stop", "index": 0}),
    ]


def _message(asked: Asked, seed: bytes, content: list[Json], ended: Answer | None) -> Json:
    kept = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return {
        "model": asked.model,
        "id": new_id("msg", seed),
        "type": "message",
        "role": "assistant",
        "content": content,
        **_ending(ended),
        "usage": {
            **_input_usage(asked),
            "cache_creation": kept,
            "output_tokens": len(ended.pieces) if ended else 1,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def _ending(ended: Answer | None) -> Json:
    return {
        "stop_reason": ended.reason if ended else None,
        "stop_sequence": ended.stop if ended else None,
        "stop_details": None,
    }


def _input_usage(asked: Asked) -> Json:
    return {
        "input_tokens": asked.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def completion_body(asked: Asked, said: Answer, seed: bytes) -> Json:
    """A whole completion, as it is answered where nothing is streamed."""
    return _completion(asked, seed, said.text, said)


def completion_frames(asked: Asked, said: Answer, seed: bytes) -> list[Frame]:
    """The end comes with the last piece where it was cut off, else alone, with an empty text."""
    *pieces, last = said.pieces if said.reason == "max_tokens" else (*said.pieces, "")
    events: list[tuple[Kind, Json]] = [
        ("text", _completion(asked, seed, piece, None)) for piece in pieces
    ]
    if len(events) > 1:
        events.insert(2, _PING)
    events.append(("end", _completion(asked, seed, last, said)))
    return _frames(events, b"\r\n", seed)


def _completion(asked: Asked, seed: bytes, text: str, ended: Answer | None) -> Json:
    reason = stop = None
    if ended:
        reason = "max_tokens" if ended.reason == "max_tokens" else "stop_sequence"
        stop = ended.stop or (HUMAN if ended.reason == "end_turn" else None)
    name = new_id("compl", seed)
    return {
        "type": "completion",
        "id": name,
        "completion": text,
        "stop_reason": reason,
        "model": asked.model,
        "stop": stop,
        "log_id": name,
    }
