r"""Parses a prompt of 2023, one string of ``\n\nHuman:`` and ``\n\nAssistant:`` turns.

Only those exact strings are turn markers. ``Human:`` within a line or after a single line break is
ordinary text; as an exception, the old API accepted a first ``Human:`` and a last ``Assistant:``
without a blank line before. Text before the first turn is the system prompt, text after the last
marker is the beginning of the answer, the prefill. What the old API refused is refused in its
words, what it repaired without a word is repaired.
https://docs.anthropic.com/en/api/prompt-validation
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import ne
from typing import NamedTuple

from ..core.errors import InvalidRequest
from ..formats.parameters import HUMAN

ASSISTANT = "\n\nAssistant:"

NO_TEXT = "(no text)"
"""Replaces a Human turn without text: the old API accepted one, today's does not."""

MOST_TURNS = 100_000
"""Today's API accepts no more messages."""

MOST_SPACE = 1000
"""How much of the white space after a prefill is remembered until the answer begins, in
characters, as the answer must not repeat it."""


class Turn(NamedTuple):
    """What one side says, without the marker and one blank after it."""

    role: str
    """``user`` or ``assistant``, as Messages call them."""
    text: str


class Dialogue(NamedTuple):
    """A prompt, parsed."""

    system: str
    turns: tuple[Turn, ...]
    """They alternate; the first and the last are the user's."""
    prefill: str
    """The beginning of the answer, without white space at its end; "" if the prompt has none."""
    prefill_space: str
    """That white space, up to MOST_SPACE, which the answer must not repeat."""
    notes: tuple[str, ...] = ()
    """What was repaired, and what may not be what the author meant."""


def parse(prompt: str) -> Dialogue:
    """Parse ``prompt``; raises InvalidRequest where it is not a dialogue."""
    begun = _with_first_marker(prompt)
    marked = _with_last_marker(begun)
    system, (*before, last) = _split(marked)
    if last.role != "assistant":
        raise InvalidRequest(f'prompt must end with "{ASSISTANT}" turn')
    answer = last.text
    not_blank = [turn for turn in before if turn.text.strip()]
    turns = _merged(not_blank)
    if turns and turns[-1].role == before[-1].role == "assistant":  # the answer begins there
        begun_before = turns.pop().text
        answer = _joined((begun_before, answer)) if answer.strip() else begun_before
    prefill = answer.rstrip()
    return Dialogue(
        system=system.strip(),
        turns=tuple(_with_user_at_both_ends(turns)),
        prefill=prefill,
        prefill_space=answer[len(prefill) :][:MOST_SPACE] if prefill else "",
        notes=(
            *(("prompt: the first turn has no blank line before it",) if begun != prompt else ()),
            *(("prompt: the last turn has no blank line before it",) if marked != begun else ()),
            *_notes(
                marked,
                blank=len(before) - len(not_blank),
                joined=len(not_blank) - len(turns),
            ),
        ),
    )


def _split(prompt: str) -> tuple[str, list[Turn]]:
    """The text before the first turn, and all turns as they stand; raises InvalidRequest."""
    system, *questions = prompt.split(HUMAN, MOST_TURNS + 1)
    if not questions or ASSISTANT in system:
        # Gateways of 2023 look for exactly this, line breaks and all, and ask again with the turn.
        raise InvalidRequest(f'prompt must start with "{HUMAN}" turn')
    turns: list[Turn] = []
    for question in questions:
        text, *answers = question.split(ASSISTANT, MOST_TURNS + 1)
        turns.append(Turn("user", text.removeprefix(" ")))
        turns += [Turn("assistant", text.removeprefix(" ")) for text in answers]
        if len(turns) > MOST_TURNS:
            raise InvalidRequest(f"prompt has more than {MOST_TURNS} turns")
    return system, turns


def _with_first_marker(prompt: str) -> str:
    """``prompt`` with a blank line before a first ``Human:``, if only that is missing."""
    begun = prompt.lstrip()
    if begun.startswith("Human:") and not prompt.removesuffix(begun).endswith("\n\n"):
        return "\n\n" + begun
    return prompt


def _with_last_marker(prompt: str) -> str:
    """``prompt`` with a blank line before a last ``Assistant:`` that has a line of its own.

    The old API came to insist on the blank line, but programs written earlier do without.
    """
    end = prompt.rstrip()
    if not end.endswith("Assistant:"):
        return prompt
    question = end.removesuffix("Assistant:").rstrip(" \t")
    in_assistant_turn = prompt.rfind(ASSISTANT) > prompt.rfind(HUMAN)
    if in_assistant_turn or not question.endswith("\n"):
        return prompt
    return question.removesuffix("\n") + ASSISTANT


def _merged(turns: list[Turn]) -> list[Turn]:
    """``turns`` with neighbours of one role joined to one turn, as they were to the model."""
    roles = [turn.role for turn in turns]
    if all(map(ne, roles, roles[1:])):  # as nearly always, and a prompt may be long
        return turns.copy()
    return [
        Turn(role, _joined(turn.text for turn in group))
        for role, group in groupby(turns, key=lambda turn: turn.role)
    ]


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(texts)


def _with_user_at_both_ends(turns: list[Turn]) -> list[Turn]:
    """``turns`` with NO_TEXT of the user where the first or the last turn is the assistant's.

    Not every model of today accepts such a first turn, and such a last one would be a prefill.
    """
    no_text = Turn("user", NO_TEXT)
    first = [] if turns and turns[0].role == "user" else [no_text]
    last = [no_text] if turns and turns[-1].role == "assistant" else []
    return [*first, *turns, *last]


def _notes(prompt: str, *, blank: int, joined: int) -> Iterator[str]:
    """Notes on turns that were repaired, and on text that may have been meant as a turn."""
    if blank:
        yield f"prompt: empty turns left out: {blank}"
    if joined > 0:
        yield f"prompt: turns joined to one of the same role before them: {joined}"
    if _has_near_marker(prompt, HUMAN) or _has_near_marker(prompt, ASSISTANT):
        yield "prompt: a line begins like a turn, but has no blank line before it: it is text"


def _has_near_marker(prompt: str, marker: str) -> bool:
    """Whether a line of ``prompt`` begins like ``marker``, without a blank line before it."""
    line = marker[1:]
    return prompt.count(line) - prompt.startswith(line) > prompt.count(marker)
