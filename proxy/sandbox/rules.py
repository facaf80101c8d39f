"""The rules of the sandbox: which requests today's API accepts, and how it refuses others.

Pure. ``read_*`` turn a body into ``Asked``, or raise the ``ApiError`` that the API would answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from .errors import invalid
from .fields import COMPLETE, COUNTABLE, MESSAGES, SAMPLING, Json, check_fields, text_of
from .models import Model, find_model

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

_COMPLETES = re.compile(r"claude-(v?1|instant|2)([.-].*)?")
_RESOLVED = {"claude-2": "claude-2.1", "claude-instant-1": "claude-instant-1.2"}


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


def read_messages(raw: bytes, version: str) -> Asked:
    """A body of ``/v1/messages``."""
    body = _parsed(raw)
    required = ("model", "messages", "max_tokens")
    check_fields(body, MESSAGES[version], required)
    model = find_model(body["model"])
    _suits(model, body)
    turns = body["messages"]
    users = [turn for turn in turns if turn["role"] == "user"]
    return Asked(
        model=model.id,
        question=text_of(users[-1]["content"]) if users else "",
        limit=body["max_tokens"],
        prefilled=turns[-1]["role"] == "assistant" and bool(turns[-1]["content"]),
        stops=tuple(body.get("stop_sequences", ())),
        stream=body.get("stream", False),
        input_tokens=_count(body),
    )


def read_complete(raw: bytes, _version: str) -> Asked:
    """A body of ``/v1/complete``."""
    body = _parsed(raw)
    check_fields(body, COMPLETE, required=("model", "prompt", "max_tokens_to_sample"))
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
    check_fields(body, COUNTABLE, required=("model", "messages"))
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
    sampling = [name for name in SAMPLING if name in body]
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
        raise invalid(f'prompt must start with "{HUMAN}" turn after an optional system prompt')
    said, assistant, prefill = prompt[last + len(HUMAN) :].rpartition(ASSISTANT)
    if not assistant:
        raise invalid(f'prompt must end with "{ASSISTANT}" turn')
    return said.partition(ASSISTANT)[0], prefill


def _count(body: Json) -> int:
    parts = [body.get("system", ""), *(turn["content"] for turn in body["messages"])]
    return sum(len(text_of(part).split()) for part in parts)
