r"""The prompt of 2023 as a dialogue: one string of ``\n\nHuman:`` and ``\n\nAssistant:`` turns.

Only those exact strings are turn markers; ``Human:`` within a line or after one line break is
ordinary text. Text before the first turn is the system prompt, text after the last marker is the
beginning of the answer (the prefill). What the old API refused is refused in its words, what it
repaired in silence is repaired.
https://docs.anthropic.com/en/api/prompt-validation
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from ..errors import InvalidRequest

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

NO_TEXT = "(no text)"
"""Stands for a Human turn without text: the old API took one, today's does not."""

_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A prompt, taken apart.

    ``turns`` alternate and begin with the user's. ``prefill`` is how the answer begins, "" where
    the prompt does not say; it ends in no white space. ``prefill_space`` is the white space that
    followed it, which the answer must not repeat.
    """

    system: str
    turns: tuple[Turn, ...]
    prefill: str
    prefill_space: str


def parse(prompt: str) -> Dialogue:
    """Take ``prompt`` apart; raises InvalidRequest where it is not a dialogue."""
    system, *parts = _MARKER.split(_with_first_marker(prompt))
    roles = [_ROLES[part] for part in parts[0::2]]
    if not roles or roles[0] != "user":
        raise InvalidRequest(
            r'prompt must start with "\n\nHuman:" turn after an optional system prompt'
        )
    if roles[-1] != "assistant":
        raise InvalidRequest(r'prompt must end with "\n\nAssistant:" turn')
    texts = [text.removeprefix(" ") for text in parts[1::2]]
    *turns, answer = map(Turn, roles, texts)
    turns = _merged(turn for turn in turns if turn.text.strip())
    if not turns or turns[-1].role == "assistant":
        if roles[-2] == "user":  # an empty question still asks for an answer
            turns.append(Turn("user", NO_TEXT))
        else:
            answer = Turn("assistant", turns.pop().text + answer.text.rstrip())
    prefill = answer.text.rstrip()
    return Dialogue(
        system=system.strip(),
        turns=tuple(_opened_by_user(turns)),
        prefill=prefill,
        prefill_space=answer.text[len(prefill) :] if prefill else "",
    )


def _with_first_marker(prompt: str) -> str:
    """The old API forgave a first ``Human:`` without its blank line."""
    if prompt.lstrip().startswith("Human:"):
        return "\n\n" + prompt.lstrip()
    return prompt


def _merged(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbouring turns of one role are one turn, as they were to the model."""
    return [
        Turn(role, "\n\n".join(turn.text for turn in group))
        for role, group in groupby(turns, key=lambda turn: turn.role)
    ]


def _opened_by_user(turns: list[Turn]) -> list[Turn]:
    """Not every model of today takes a dialogue that the assistant opens."""
    return turns if turns[0].role == "user" else [Turn("user", NO_TEXT), *turns]
