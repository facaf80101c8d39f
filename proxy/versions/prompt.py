r"""The prompt of 2023 as a dialogue: one string of ``\n\nHuman:`` and ``\n\nAssistant:`` turns.

Only those exact strings are turn markers; ``Human:`` within a line or after one line break is
ordinary text, unless it is the very first, or a very last ``Assistant:``. Text before the first
turn is the system prompt, text after the last marker is the beginning of the answer (the prefill).
What the old API refused is refused in its words, what it repaired in silence is repaired.
https://docs.anthropic.com/en/api/prompt-validation
https://docs.anthropic.com/en/api/migrating-from-text-completions-to-messages
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import ne
from typing import NamedTuple

from ..errors import InvalidRequest

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

NO_TEXT = "(no text)"
"""Stands for a Human turn without text: the old API took one, today's does not."""

MOST_TURNS = 100_000
"""Today's API takes no more messages."""

MOST_SPACE = 1000
"""How much white space behind a prefill an answer may repeat, in characters: it is remembered until
the answer begins."""


class Turn(NamedTuple):
    role: str
    text: str


class Dialogue(NamedTuple):
    """A prompt, taken apart.

    ``turns`` alternate and begin with the user's. ``prefill`` is how the answer begins, "" where
    the prompt does not say; it ends in no white space. ``prefill_space`` is the white space that
    followed it, as far as MOST_SPACE, which the answer must not repeat. ``notes`` tell what was
    repaired.
    """

    system: str
    turns: tuple[Turn, ...]
    prefill: str
    prefill_space: str
    notes: tuple[str, ...] = ()


def parse(prompt: str) -> Dialogue:
    """Take ``prompt`` apart; raises InvalidRequest where it is not a dialogue."""
    begun = _with_first_marker(prompt)
    marked = _with_last_marker(begun)
    system, (*given, last) = _taken_apart(marked)
    if last.role != "assistant":
        raise InvalidRequest(r'prompt must end with "\n\nAssistant:" turn')
    answer = last.text
    said = [turn for turn in given if turn.text.strip()]
    turns = _merged(said)
    if turns and turns[-1].role == "assistant" and given[-1].role == "assistant":
        answer = _joined((turns.pop().text, answer)) if answer.strip() else turns.pop().text
    prefill = answer.rstrip()
    return Dialogue(
        system=system.strip(),
        turns=tuple(_between_users(turns)),
        prefill=prefill,
        prefill_space=answer[len(prefill) :][:MOST_SPACE] if prefill else "",
        notes=(
            *(("prompt: the first turn has no blank line before it",) if begun != prompt else ()),
            *(("prompt: the last turn has no blank line before it",) if marked != begun else ()),
            *_notes(marked, blank=len(given) - len(said), joined=len(said) - len(turns)),
        ),
    )


def _taken_apart(prompt: str) -> tuple[str, list[Turn]]:
    """What stands before the first turn, and all turns as they stand; raises InvalidRequest."""
    system, *questions = prompt.split(HUMAN, MOST_TURNS + 1)
    if not questions or ASSISTANT in system:
        raise InvalidRequest(
            r'prompt must start with "\n\nHuman:" turn after an optional system prompt'
        )
    turns: list[Turn] = []
    for question in questions:
        text, *answers = question.split(ASSISTANT, MOST_TURNS + 1)
        turns.append(Turn("user", text.removeprefix(" ")))
        turns += [Turn("assistant", text.removeprefix(" ")) for text in answers]
        if len(turns) > MOST_TURNS:
            raise InvalidRequest(f"prompt has more than {MOST_TURNS} turns")
    return system, turns


def _with_first_marker(prompt: str) -> str:
    """The old API forgave a first ``Human:`` without its blank line."""
    begun = prompt.lstrip()
    if begun.startswith("Human:") and not prompt.removesuffix(begun).endswith("\n\n"):
        return "\n\n" + begun
    return prompt


def _with_last_marker(prompt: str) -> str:
    """Nor did it mind how a last ``Assistant:`` was set off, if that had a line of its own.

    Later it did, but programs that were written before then have prompts like that.
    """
    end = prompt.rstrip()
    if not end.endswith("Assistant:"):
        return prompt
    question = end.removesuffix("Assistant:").rstrip(" \t")
    answers = prompt.rfind(ASSISTANT) > prompt.rfind(HUMAN)  # it is one, or in how one begins
    if answers or not question.endswith("\n"):
        return prompt
    return question.removesuffix("\n") + ASSISTANT


def _merged(turns: list[Turn]) -> list[Turn]:
    """Neighbouring turns of one role are one turn, as they were to the model.

    Most prompts have none, and they may be long.
    """
    roles = [turn.role for turn in turns]
    if all(map(ne, roles, roles[1:])):
        return turns.copy()
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
    """What was repaired between the markers, and what may not be what its author meant."""
    if blank:
        yield f"prompt: empty turns left out: {blank}"
    if joined > 0:
        yield f"prompt: turns joined to one of the same role before them: {joined}"
    if _stands_in_a_text(prompt, HUMAN) or _stands_in_a_text(prompt, ASSISTANT):
        yield "prompt: a line begins like a turn, but has no blank line before it: it is text"


def _stands_in_a_text(prompt: str, marker: str) -> bool:
    """Whether a line of ``prompt`` begins like a turn, but not behind a blank one."""
    line = marker[1:]
    return prompt.count(line) - prompt.startswith(line) > prompt.count(marker)
