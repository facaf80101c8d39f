"""The call of `/v1/messages` that puts the question of a call of `/v1/complete`.

What today's API would refuse is left out, and reported as dropped.
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from ..core.change import Body, Call
from ..core.errors import InvalidRequest
from ..formats.parameters import SAMPLING, WITHOUT_EFFECT
from .complete_call import CompleteCall
from .models import ModelTarget, Profile, Thinking
from .prompt import Dialogue, Turn

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


def messages_call(
    call: Call, asked: CompleteCall, dialogue: Dialogue, target: ModelTarget, profile: Profile
) -> Call:
    """The call of `/v1/messages` that puts the question of ``asked`` to the model ``target``.

    ``asked`` was read from ``call``, ``dialogue`` is its prompt, ``profile`` says what the model
    accepts. Raises InvalidRequest where too much is unknown.
    """
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


def _max_tokens(asked: CompleteCall, target: ModelTarget, profile: Profile, made: Call) -> int:
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
    """The turns as messages; a prefill is the last of them, or is quoted in the last."""
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


def _copy_stops(asked: CompleteCall, made: Call) -> None:
    if asked.stop_sequences:
        made.body["stop_sequences"] = list(asked.stop_sequences)
    if asked.blank_stops:
        made.notes.append("stop_sequences: the blank ones are enforced by the proxy")


def _copy_sampling(asked: CompleteCall, profile: Profile, made: Call) -> None:
    """Copy the sampling parameters that the model accepts; never both temperature and top_p."""
    for parameter, value in asked.sampling.items():
        if not profile.sampling:
            made.dropped[parameter] = "the model takes no sampling parameters"
        elif parameter == "top_p" and "temperature" in asked.sampling:
            made.dropped[parameter] = "the model takes it or temperature, not both"
        else:
            made.body[parameter] = value


_KNOWN = frozenset(
    (
        *("model", "prompt", "max_tokens_to_sample", "stop_sequences", "stream", "metadata"),
        *SAMPLING,
        *WITHOUT_EFFECT,
    )
)


def _drop_unknown(body: Body, made: Call) -> None:
    """Report what `/v1/complete` never had; raises InvalidRequest where that is too much."""
    unknown = [name for name, value in body.items() if name not in _KNOWN and value is not None]
    metadata = body.get("metadata") or {}
    others = [name for name, value in metadata.items() if name != "user_id" and value is not None]
    if len(unknown) + len(others) > MOST_UNKNOWN:
        raise InvalidRequest(f"The request body has more than {MOST_UNKNOWN} unknown parameters")
    made.dropped |= dict.fromkeys(unknown, "not a parameter of this endpoint")
    for name in others:
        made.dropped[f"metadata.{name}"] = "metadata takes nothing but user_id"
