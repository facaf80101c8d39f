"""The request of the bridge: turns a call of `/v1/complete` into one of `/v1/messages`.

What today's API would refuse is left out, and reported as dropped. What nothing can be done without
is refused in the API's words.
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..core.change import Body, Call
from ..core.errors import InvalidRequest
from ..formats.parameters import SAMPLING, WITHOUT_EFFECT, is_unset
from .models import ModelTarget, Profile, Thinking
from .prompt import Dialogue, Turn
from .stops import MOST_CHARACTERS, MOST_STOPS

THINKING: dict[Thinking, Body] = {
    "off": {},
    "disabled": {"thinking": {"type": "disabled"}},
    "between_tools": {"thinking": {"type": "between_tools"}, "output_config": {"effort": "low"}},
    "always": {"output_config": {"effort": "low"}},
}
"""The parameters that keep a model from thinking, or from thinking much."""

THINKING_ROOM = 4096
"""How many tokens are added where a model always thinks: thoughts count as tokens of the answer,
and the few hundred that programs of 2023 ask for would be used up before the first word."""

MOST_UNKNOWN = 1000
"""How many unknown parameters a request may have: each is reported, counted and remembered."""

MODEL_LENGTH = 256
"""The longest name of a model that the API ever accepted, in characters. Each event repeats it."""

BLANK_LENGTH = MOST_CHARACTERS // 2
"""How many characters the blank stop sequences may have in all. The proxy has to look for all of
them, and for others beside them."""

MOST_BLANK = MOST_STOPS // 2
"""How many blank stop sequences there may be, likewise."""

USER_ID_LENGTH = 512
"""The longest metadata.user_id that the API accepts, in characters."""


class Completion(NamedTuple):
    """The parameters of a call of `/v1/complete`, validated."""

    model: str
    prompt: str
    max_tokens: int
    stop_sequences: tuple[str, ...]
    blank_stops: tuple[str, ...]
    """Those of white space alone, which today's API refuses: the bridge looks for them instead."""
    stream: bool | None
    sampling: Body
    user_id: str | None

    @classmethod
    def read(cls, body: Body) -> Completion:
        """Read the body of a call; raises InvalidRequest, which names the parameter."""
        stops = _stop_sequences(body)
        return cls(
            model=_model(body),
            prompt=_string(body, "prompt"),
            max_tokens=_max_tokens_to_sample(body),
            stop_sequences=tuple(stop for stop in stops if stop.strip()),
            blank_stops=_blank(stops),
            stream=_stream(body),
            sampling=_sampling(body),
            user_id=_user_id(body),
        )


def messages_call(
    call: Call, asked: Completion, dialogue: Dialogue, target: ModelTarget, profile: Profile
) -> Call:
    """The call of `/v1/messages` that puts the question of ``asked`` to the model ``target``."""
    made = Call("/v1/messages", {"model": target.to}, call.dropped, [*call.notes, *dialogue.notes])
    if target.to != asked.model:
        made.notes.append(f"model: {target.to} answers for {asked.model}")
    made.body["max_tokens"] = _max_tokens(asked, target, profile, made)
    if dialogue.system:
        made.body["system"] = dialogue.system
    made.body["messages"] = _messages(dialogue, profile, made)
    _copy_stops(asked, made)
    if asked.stream is not None:
        made.body["stream"] = asked.stream
    if asked.user_id is not None:
        made.body["metadata"] = {"user_id": asked.user_id}
    _copy_sampling(asked, profile, made)
    if thinking := THINKING[profile.thinking]:
        made.body |= thinking
        made.notes.append("thinking: reduced as far as possible, it is not part of a completion")
    _drop_unknown(call.body, made)
    return made


_KNOWN = frozenset(
    (
        *("model", "prompt", "max_tokens_to_sample", "stop_sequences", "stream", "metadata"),
        *SAMPLING,
        *WITHOUT_EFFECT,
    )
)

# Reading the call of /v1/complete.


def _required(body: Body, field: str) -> Any:
    if body.get(field) is None:
        raise InvalidRequest(f"{field}: Field required")
    return body[field]


def _string(body: Body, field: str) -> str:
    value = _required(body, field)
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: Input should be a valid string")
    return value


def _model(body: Body) -> str:
    model = _string(body, "model")
    if len(model) > MODEL_LENGTH:
        raise InvalidRequest(f"model: String should have at most {MODEL_LENGTH} characters")
    return model


def _max_tokens_to_sample(body: Body) -> int:
    tokens = _required(body, "max_tokens_to_sample")
    if isinstance(tokens, float) and tokens.is_integer():  # some languages print 300 as 300.0
        tokens = int(tokens)
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise InvalidRequest("max_tokens_to_sample: Input should be a valid integer")
    if tokens < 1:
        raise InvalidRequest("max_tokens_to_sample: Input should be greater than or equal to 1")
    return tokens


def _stop_sequences(body: Body) -> tuple[str, ...]:
    stops = body.get("stop_sequences")
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("stop_sequences: Input should be a valid list of strings")
    return tuple(stops)


def _blank(stops: Iterable[str]) -> tuple[str, ...]:
    blank = tuple(dict.fromkeys(stop for stop in stops if not stop.strip()))
    if len(blank) > MOST_BLANK:
        raise InvalidRequest(f"stop_sequences: at most {MOST_BLANK} of them can be blank")
    if sum(map(len, blank)) > BLANK_LENGTH:
        raise InvalidRequest(
            f"stop_sequences: the blank ones should have at most {BLANK_LENGTH} characters in all"
        )
    return blank


def _stream(body: Body) -> bool | None:
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream: Input should be a valid boolean")
    return stream


def _sampling(body: Body) -> Body:
    """The sampling parameters that are in use; the upstream checks their range."""
    return {
        parameter: value
        for parameter in SAMPLING
        if (value := body.get(parameter)) is not None and not is_unset(parameter, value)
    }


def _user_id(body: Body) -> str | None:
    metadata = body.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise InvalidRequest("metadata: Input should be a valid dictionary")
    user_id = metadata.get("user_id")
    if user_id is not None and not isinstance(user_id, str):
        raise InvalidRequest("metadata.user_id: Input should be a valid string")
    return user_id[:USER_ID_LENGTH] if user_id else None


# Making the call of /v1/messages.


def _max_tokens(asked: Completion, target: ModelTarget, profile: Profile, made: Call) -> int:
    """What was asked for, capped as the old API capped it, as today's refuses what is too much."""
    cap = min(target.max_tokens or profile.max_tokens, profile.max_tokens)
    if asked.max_tokens > cap:
        made.notes.append(f"max_tokens_to_sample: capped at {cap}")
    room = THINKING_ROOM if profile.thinking == "always" else 0
    if room:
        made.notes.append(
            f"max_tokens_to_sample: {room} added, for thinking that cannot be disabled"
        )
    return min(min(asked.max_tokens, cap) + room, profile.max_tokens)


def _messages(dialogue: Dialogue, profile: Profile, made: Call) -> list[Body]:
    turns = list(dialogue.turns)
    if dialogue.prefill and profile.prefill:
        turns.append(Turn("assistant", dialogue.prefill))
    elif dialogue.prefill:
        made.dropped["prefill"] = "the model accepts none, and is asked to continue from it instead"
        turns[-1] = Turn("user", turns[-1].text + _CONTINUE.format(dialogue.prefill))
    return [{"role": turn.role, "content": turn.text} for turn in turns]


_CONTINUE = (
    "\n\nYour answer to this was cut off after the text between the lines below."
    " Go on from its very end, without repeating any of it and without remarks."
    "\n---\n{}\n---"
)
"""Asks a model that takes no prefill to continue one, as the migration guide advises."""


def _copy_stops(asked: Completion, made: Call) -> None:
    if asked.stop_sequences:
        made.body["stop_sequences"] = list(asked.stop_sequences)
    if asked.blank_stops:
        made.notes.append("stop_sequences: the blank ones are enforced by the proxy")


def _copy_sampling(asked: Completion, profile: Profile, made: Call) -> None:
    """Copy the sampling parameters that the model accepts; never both temperature and top_p."""
    for parameter, value in asked.sampling.items():
        if not profile.sampling:
            made.dropped[parameter] = "the model takes no sampling parameters"
        elif parameter == "top_p" and "temperature" in asked.sampling:
            made.dropped[parameter] = "the model takes it or temperature, not both"
        else:
            made.body[parameter] = value


def _drop_unknown(body: Body, made: Call) -> None:
    unknown = [name for name, value in body.items() if name not in _KNOWN and value is not None]
    others = [name for name in body.get("metadata") or () if name != "user_id"]
    if len(unknown) + len(others) > MOST_UNKNOWN:
        raise InvalidRequest(f"The request body has more than {MOST_UNKNOWN} unknown parameters")
    made.dropped |= dict.fromkeys(unknown, "not a parameter of this endpoint")
    for name in others:
        made.dropped[f"metadata.{name}"] = "metadata takes nothing but user_id"
