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
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from ..errors import InvalidRequest

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

NO_TEXT = "(no text)"
"""Stands for a Human turn without text: the old API took one, today's does not."""

MOST_TURNS = 100_000
"""Today's API takes no more messages."""

_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Turn(NamedTuple):
    role: str
    text: str


class Dialogue(NamedTuple):
    """A prompt, taken apart.

    ``turns`` alternate and begin with the user's. ``prefill`` is how the answer begins, "" where
    the prompt does not say; it ends in no white space. ``prefill_space`` is the white space that
    followed it, which the answer must not repeat. ``notes`` tell what was repaired.
    """

    system: str
    turns: tuple[Turn, ...]
    prefill: str
    prefill_space: str
    notes: tuple[str, ...] = ()


def parse(prompt: str) -> Dialogue:
    """Take ``prompt`` apart; raises InvalidRequest where it is not a dialogue."""
    if prompt.count(HUMAN) + prompt.count(ASSISTANT) > MOST_TURNS:
        raise InvalidRequest(f"prompt has more than {MOST_TURNS} turns")
    system, *parts = _MARKER.split(_with_first_marker(prompt))
    roles = [_ROLES[part] for part in parts[0::2]]
    if not roles or roles[0] != "user":
        raise InvalidRequest(
            r'prompt must start with "\n\nHuman:" turn after an optional system prompt'
        )
    if roles[-1] != "assistant":
        raise InvalidRequest(r'prompt must end with "\n\nAssistant:" turn')
    *texts, answer = [text.removeprefix(" ") for text in parts[1::2]]
    said = [Turn(role, text) for role, text in zip(roles, texts, strict=False) if text.strip()]
    turns = _merged(said)
    if turns and turns[-1].role == "assistant" and roles[-2] == "assistant":
        answer = _joined((turns.pop().text, answer)) if answer.strip() else turns.pop().text
    prefill = answer.rstrip()
    return Dialogue(
        system=system.strip(),
        turns=tuple(_between_users(turns)),
        prefill=prefill,
        prefill_space=answer[len(prefill) :] if prefill else "",
        notes=tuple(_notes(prompt, blank=len(texts) - len(said), joined=len(said) - len(turns))),
    )


def _with_first_marker(prompt: str) -> str:
    """The old API forgave a first ``Human:`` without its blank line."""
    if prompt.lstrip().startswith("Human:"):
        return "\n\n" + prompt.lstrip()
    return prompt


def _merged(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbouring turns of one role are one turn, as they were to the model."""
    return [
        Turn(role, _joined(turn.text for turn in group))
        for role, group in groupby(turns, key=lambda turn: turn.role)
    ]


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(texts)


def _between_users(turns: list[Turn]) -> list[Turn]:
    """Not every model of today lets the assistant open, and none answers where nobody asked."""
    nothing = Turn("user", NO_TEXT)
    first = [] if turns and turns[0].role == "user" else [nothing]
    last = [nothing] if turns and turns[-1].role == "assistant" else []
    return [*first, *turns, *last]


def _notes(prompt: str, *, blank: int, joined: int) -> Iterator[str]:
    """What was repaired, and what may not be what its author meant."""
    if not _MARKER.match(prompt) and prompt.lstrip().startswith("Human:"):
        yield "prompt: the first turn has no blank line before it"
    if blank:
        yield f"prompt: empty turns left out: {blank}"
    if joined > 0:
        yield f"prompt: turns joined to one of the same role before them: {joined}"
    if _LOOKS_LIKE_A_TURN.search(prompt):
        yield "prompt: a line begins like a turn, but has no blank line before it: it is text"


_LOOKS_LIKE_A_TURN = re.compile(r"[^\n]\n(?:Human|Assistant):")
