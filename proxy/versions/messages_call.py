"""A call of `/v1/complete` as a call of `/v1/messages`: the way out over the bridge.

What today's API would refuse is left out and remembered, never sent in hope; what has no meaning
without a value is told to the client in the API's words.
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..change import Body, Call
from ..errors import InvalidRequest
from .models import ModelTarget, Profile, Thinking
from .prompt import Dialogue, Turn
from .unset_parameters_refused import ONLY_THEN, is_unset

SAMPLING = ("temperature", "top_p", "top_k")

THINKING: dict[Thinking, Body] = {
    "off": {},
    "disabled": {"thinking": {"type": "disabled"}},
    "between_tools": {"thinking": {"type": "between_tools"}, "output_config": {"effort": "low"}},
    "always": {"output_config": {"effort": "low"}},
}
"""What keeps a model from thinking, or to little of it."""

THINKING_ROOM = 4096
"""Tokens added where a model thinks all the same: thoughts count as tokens of the answer, and the
few hundred that callers of 2023 asked for would be gone before the first word."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call of `/v1/complete` asks for, checked."""

    model: str
    prompt: str
    max_tokens: int
    stop_sequences: tuple[str, ...]

    @classmethod
    def read(cls, body: Body) -> Completion:
        """Read the body of a call; raises InvalidRequest, which names the field."""
        stops = body.get("stop_sequences") or ()
        if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
            raise InvalidRequest("stop_sequences: Input should be a list of strings")
        tokens = _required(body, "max_tokens_to_sample")
        if not isinstance(tokens, int) or isinstance(tokens, bool):
            raise InvalidRequest("max_tokens_to_sample: Input should be a valid integer")
        if tokens < 1:
            raise InvalidRequest("max_tokens_to_sample: Input should be greater than or equal to 1")
        return cls(_string(body, "model"), _string(body, "prompt"), tokens, tuple(stops))


def messages_call(
    call: Call, asked: Completion, dialogue: Dialogue, target: ModelTarget, profile: Profile
) -> Call:
    """The call of `/v1/messages` that asks what ``asked`` does of ``target``."""
    left = Call(call.endpoint, dict(call.body), call.dropped)
    body: Body = {"model": target.to, "max_tokens": _max_tokens(asked, target, profile)}
    if dialogue.system:
        body["system"] = dialogue.system
    body["messages"] = _messages(dialogue, profile, left)
    if stops := [stop for stop in asked.stop_sequences if stop.strip()]:
        body["stop_sequences"] = stops
    body |= _stream(left.body) | _metadata(left) | _sampling(left, profile)
    body |= THINKING[profile.thinking]
    for parameter, value in list(left.body.items()):
        if parameter not in _CARRIED and value is not None:
            left.drop(parameter)
    return Call("/v1/messages", body, left.dropped)


_CARRIED = frozenset(
    (
        *("model", "prompt", "max_tokens_to_sample", "stop_sequences", "stream", "metadata"),
        *SAMPLING,
        *ONLY_THEN,
    )
)


def _required(body: Body, field: str) -> Any:
    if body.get(field) is None:
        raise InvalidRequest(f"{field}: Field required")
    return body[field]


def _string(body: Body, field: str) -> str:
    value = _required(body, field)
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: Input should be a valid string")
    return value


def _max_tokens(asked: Completion, target: ModelTarget, profile: Profile) -> int:
    """The old API capped what was too much; today's refuses it."""
    room = THINKING_ROOM if profile.thinking == "always" else 0
    wanted = min(asked.max_tokens, target.max_tokens or asked.max_tokens)
    return min(wanted + room, profile.max_tokens)


def _messages(dialogue: Dialogue, profile: Profile, call: Call) -> list[Body]:
    turns = list(dialogue.turns)
    if dialogue.prefill and profile.prefill:
        turns.append(Turn("assistant", dialogue.prefill))
    elif dialogue.prefill:
        call.dropped.append("prefill")
        turns[-1] = Turn("user", turns[-1].text + _GO_ON % dialogue.prefill)
    return [{"role": turn.role, "content": turn.text} for turn in turns]


_GO_ON = (
    "\n\nYour answer to this was cut off after the text between the lines below."
    " Go on from its very end, without repeating any of it and without remarks."
    "\n---\n%s\n---"
)
"""Asks a model that takes no prefill to continue one, as the migration guide advises."""


def _stream(body: Body) -> Body:
    stream = body.get("stream")
    if stream is None:
        return {}
    if not isinstance(stream, bool):
        raise InvalidRequest("stream: Input should be a valid boolean")
    return {"stream": stream}


def _metadata(call: Call) -> Body:
    metadata = call.body.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidRequest("metadata: Input should be an object")
    call.dropped += (f"metadata.{key}" for key in metadata if key != "user_id")
    return {"metadata": {"user_id": metadata["user_id"]}} if "user_id" in metadata else {}


def _sampling(call: Call, profile: Profile) -> Body:
    """The sampling parameters that the model takes; never temperature and top_p at once."""
    wanted = {
        parameter: value
        for parameter in SAMPLING
        if (value := call.body.get(parameter)) is not None and not is_unset(parameter, value)
    }
    refused = set() if profile.sampling else set(wanted)
    if {"temperature", "top_p"} <= wanted.keys():
        refused.add("top_p")
    call.dropped += (parameter for parameter in wanted if parameter in refused)
    return {parameter: value for parameter, value in wanted.items() if parameter not in refused}
