"""The prompts of 2023: the messages that they become, and those that are refused as in 2023."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bridge.prompt import ASSISTANT, MOST_SPACE, NO_TEXT, parse
from proxy.core.errors import InvalidRequest
from proxy.formats.parameters import HUMAN

FIRST = 'prompt must start with "\n\nHuman:" turn'
LAST = 'prompt must end with "\n\nAssistant:" turn'
"""As the old API worded them, real line breaks in them: programs compare them with ``==``."""

DIALOGUES = {
    "one question": (f"{HUMAN} Hi{ASSISTANT}", "", [("user", "Hi")], "", ""),
    "several turns": (
        f"{HUMAN} a{ASSISTANT} b{HUMAN} c{ASSISTANT}",
        "",
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        "",
        "",
    ),
    "a system prompt": (f"Be kind.{HUMAN} Hi{ASSISTANT}", "Be kind.", [("user", "Hi")], "", ""),
    "a system prompt of blanks": (f" \n {HUMAN} Hi{ASSISTANT}", "", [("user", "Hi")], "", ""),
    "a prefill": (f"{HUMAN} Hi{ASSISTANT} Sure", "", [("user", "Hi")], "Sure", ""),
    "a prefill and no end of white space": (
        f"{HUMAN} Hi{ASSISTANT} Sure" + " " * (MOST_SPACE + 1),
        "",
        [("user", "Hi")],
        "Sure",
        " " * MOST_SPACE,
    ),
    "a prefill as LangChain made it": (
        f"{HUMAN} Hi{ASSISTANT} Sure, here you go:\n",
        "",
        [("user", "Hi")],
        "Sure, here you go:",
        "\n",
    ),
    "a blank after Assistant": (f"{HUMAN} Hi{ASSISTANT} ", "", [("user", "Hi")], "", ""),
    "a line end after Assistant": (f"{HUMAN} Hi{ASSISTANT}\n", "", [("user", "Hi")], "", ""),
    "no blank after the colons": (f"{HUMAN}Hi{ASSISTANT}", "", [("user", "Hi")], "", ""),
    "two blanks after the colon": (f"{HUMAN}  Hi{ASSISTANT}", "", [("user", " Hi")], "", ""),
    "Human without its blank line": (f"Human: Hi{ASSISTANT}", "", [("user", "Hi")], "", ""),
    "Human after one line end": (f"\nHuman: Hi{ASSISTANT}", "", [("user", "Hi")], "", ""),
    "Assistant without its blank line": (f"{HUMAN} Hi\nAssistant:\n", "", [("user", "Hi")], "", ""),
    "neither with its blank line": (
        "Human: Sum up.\n<input>a</input>\nAssistant:\n",
        "",
        [("user", "Sum up.\n<input>a</input>")],
        "",
        "",
    ),
    "Assistant on an indented line": (
        f"{HUMAN} Hi\n\n\n  Assistant:\n  ",
        "",
        [("user", "Hi\n\n")],
        "",
        "",
    ),
    "a last line of the answer's beginning": (
        f"{HUMAN} A play{ASSISTANT} A:\nAssistant:",
        "",
        [("user", "A play")],
        "A:\nAssistant:",
        "",
    ),
    "Human within a line": (
        f"{HUMAN} Say Human: or\nAssistant: to me{ASSISTANT}",
        "",
        [("user", "Say Human: or\nAssistant: to me")],
        "",
        "",
    ),
    "neighbours of one role": (
        f"{HUMAN} <admin>x</admin>{HUMAN} Hi{ASSISTANT}",
        "",
        [("user", "<admin>x</admin>\n\nHi")],
        "",
        "",
    ),
    "an empty first turn as LiteLLM made it": (
        f"{HUMAN} {ASSISTANT} Hello{HUMAN} Hi{ASSISTANT} ",
        "",
        [("user", NO_TEXT), ("assistant", "Hello"), ("user", "Hi")],
        "",
        "",
    ),
    "an empty turn in the middle": (
        f"{HUMAN} a{ASSISTANT} {HUMAN} b{ASSISTANT}",
        "",
        [("user", "a\n\nb")],
        "",
        "",
    ),
    "an empty question": (f"{HUMAN}{ASSISTANT}", "", [("user", NO_TEXT)], "", ""),
    "an empty last question": (
        f"{HUMAN} a{ASSISTANT} b{HUMAN}{ASSISTANT}",
        "",
        [("user", "a"), ("assistant", "b"), ("user", NO_TEXT)],
        "",
        "",
    ),
    "an answer in two turns": (
        f"{HUMAN} a{ASSISTANT} b{ASSISTANT} c ",
        "",
        [("user", "a")],
        "b\n\nc",
        " ",
    ),
    "an answer and an empty turn": (
        f"{HUMAN} a{ASSISTANT} b{ASSISTANT}",
        "",
        [("user", "a")],
        "b",
        "",
    ),
    "nothing but markers": (f"{HUMAN}{ASSISTANT}{ASSISTANT}", "", [("user", NO_TEXT)], "", ""),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_what_a_prompt_becomes(name: str) -> None:
    prompt, system, turns, prefill, space = DIALOGUES[name]
    dialogue = parse(prompt)
    assert dialogue.system == system
    assert [(turn.role, turn.text) for turn in dialogue.turns] == turns
    assert (dialogue.prefill, dialogue.prefill_space) == (prefill, space)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", FIRST),
        ("Hi", FIRST),
        (f"Hi{ASSISTANT}", FIRST),
        (f"{ASSISTANT} a{HUMAN} b{ASSISTANT}", FIRST),
        (f"{HUMAN} Hi", LAST),
        (f"{HUMAN} Hi Assistant:", LAST),
        (f"{HUMAN} Hi\nAssistant: Yo", LAST),
        ("Hi\nAssistant:", FIRST),
        (f"{HUMAN} a{ASSISTANT} b{HUMAN} c", LAST),
        (f"{HUMAN.lower()} Hi{ASSISTANT}", FIRST),
    ],
)
def test_what_was_refused_is_refused_in_the_same_words(prompt: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(prompt)
    assert refused.value.message == words


SAID = st.text(st.sampled_from("ab \n:é"), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "\n\nHuman:" not in text
)


@given(system=SAID.map(str.strip), said=st.lists(SAID, min_size=1, max_size=7))
def test_a_dialogue_that_was_rendered_is_read_back(system: str, said: list[str]) -> None:
    if len(said) % 2 == 0:
        said.append("last")
    markers = [HUMAN, ASSISTANT] * len(said)
    rendered = "".join(f"{marker} {text}" for marker, text in zip(markers, said, strict=False))
    dialogue = parse(f"{system}{rendered}{ASSISTANT}")
    assert dialogue.system == system
    assert [turn.text for turn in dialogue.turns] == said
    assert {turn.role for turn in dialogue.turns[0::2]} == {"user"}


PARTS = st.lists(st.sampled_from([HUMAN, ASSISTANT, " ", "a", "\n", "Human:", "\nAssistant:"]))


@given(PARTS.map("".join))
def test_every_prompt_is_refused_or_can_be_sent(prompt: str) -> None:
    try:
        dialogue = parse(prompt)
    except InvalidRequest:
        return
    roles = [turn.role for turn in dialogue.turns]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert all(turn.text.strip() for turn in dialogue.turns)
    assert dialogue.prefill == dialogue.prefill.rstrip()


def test_a_giant_prompt_is_taken_apart_whole() -> None:
    turns = "".join(f"{HUMAN} {'x' * 500}{ASSISTANT} {'y' * 500}" for _ in range(10_000))
    dialogue = parse(f"{turns}{HUMAN} last{ASSISTANT}")
    assert len(dialogue.turns) == 20_001


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        (f"Human: Hi{ASSISTANT}", "prompt: the first turn has no blank line before it"),
        (f"{HUMAN} a{HUMAN} {HUMAN} b{ASSISTANT}", "prompt: empty turns left out: 1"),
        (
            f"{HUMAN} a{HUMAN} b{ASSISTANT}",
            "prompt: turns joined to one of the same role before them: 1",
        ),
        (
            f"{HUMAN} a\nAssistant: b{ASSISTANT}",
            "prompt: a line begins like a turn, but has no blank line before it: it is text",
        ),
    ],
)
def test_repairs_are_told(prompt: str, note: str) -> None:
    assert note in parse(prompt).notes
    assert parse(f"{HUMAN} Hi{ASSISTANT}").notes == ()


@pytest.mark.parametrize("before", ["\n", "\n\n", " ", "\r\n"])
def test_a_first_turn_behind_more_than_a_blank_line_needs_no_repair(before: str) -> None:
    dialogue = parse(f"{before}{HUMAN} Hi{ASSISTANT}")
    assert dialogue == parse(f"{HUMAN} Hi{ASSISTANT}")


def test_more_turns_than_the_api_takes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than 100000 turns"):
        parse(f"{HUMAN}{ASSISTANT}" * 50_001)
