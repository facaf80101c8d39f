"""A call of `/v1/complete` as the bridge reads it: checked, and refused in the API's words.

https://docs.anthropic.com/en/api/complete
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..core.change import Body
from ..core.errors import InvalidRequest
from ..formats.parameters import SAMPLING, is_unset
from .stops import MOST_CHARACTERS, MOST_STOPS

MODEL_LENGTH = 256
"""The longest name of a model that the API ever accepted, in characters. Each event repeats it."""

BLANK_LENGTH = MOST_CHARACTERS // 2
"""How many characters the blank stop sequences may have in all. The proxy has to look for all of
them, and for others beside them."""

MOST_BLANK = MOST_STOPS // 2
"""How many blank stop sequences there may be, likewise."""

USER_ID_LENGTH = 512
"""The longest metadata.user_id that the API accepts, in characters."""


class CompleteCall(NamedTuple):
    """The parameters of a call of `/v1/complete`."""

    model: str
    prompt: str
    max_tokens: int
    stop_sequences: tuple[str, ...]
    """Those that the upstream is asked to stop at."""
    blank_stops: tuple[str, ...]
    """Those of white space alone, which today's API refuses: the bridge looks for them instead."""
    stream: bool | None
    sampling: Body
    """The sampling parameters that are in use."""
    user_id: str | None

    @classmethod
    def read(cls, body: Body) -> CompleteCall:
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
    """The stop sequences of white space alone, each once; raises InvalidRequest for too many."""
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
