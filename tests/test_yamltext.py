"""What a YAML file may hold: bounded, and nothing that means something else than it seems to."""

from __future__ import annotations

from contextlib import suppress

import pytest

from proxy.config.yamlnodes import DEEPEST, LARGEST_FILE, MOST_NODES
from proxy.config.yamltext import Value, Wrong, compose
from proxy.core.errors import Problem

LAUGHS = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion values in a kilobyte."""

MAPPINGS = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{now}: &{now} {{x: *{before}, y: *{before}}}\n"
    for before, now in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)


def problem(text: str | bytes) -> str:
    """What is wrong with a text, which must be one thing."""
    problems: list[Problem] = []
    with suppress(Wrong):
        read(compose(text, {}, problems))
    assert len(problems) == 1
    return str(problems[0])


def read(value: Value) -> object:
    """A value with all that is in it."""
    if value.is_mapping:
        return {key: read(entry.value) for key, entry in value.entries.items()}
    if value.is_scalar:
        return value.text("")
    return value.each(read, "")


@pytest.mark.parametrize("bomb", [LAUGHS, MAPPINGS], ids=["lists", "mappings"])
def test_an_alias_counts_as_all_that_it_stands_for(bomb: str) -> None:
    assert "holds too many values" in problem(bomb)


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a {b: *a}", "a: &a {b: {c: [*a]}}"])
def test_an_alias_of_itself_is_refused(text: str) -> None:
    assert "has an alias of itself" in problem(text)


def test_aliases_within_the_bounds_are_read() -> None:
    value = compose("a: &a [1, 2]\nb: [*a, *a]\n", {}, [])
    assert read(value) == {"a": ["1", "2"], "b": [["1", "2"], ["1", "2"]]}


def test_as_many_values_as_are_allowed_are_read_and_one_more_is_not() -> None:
    items = MOST_NODES - 1  # and the list itself
    assert read(compose(f"[{'1,' * items}]", {}, [])) == ["1"] * items
    assert "holds too many values" in problem(f"[{'1,' * (items + 1)}]")


def test_as_deep_as_is_allowed_is_read_and_one_more_is_not() -> None:
    deep = DEEPEST - 1
    compose("[" * deep + "1" + "]" * deep, {}, [])
    assert "nests too deep" in problem("[" * (deep + 1) + "1" + "]" * (deep + 1))


def test_a_file_as_large_as_is_allowed_is_read_and_one_byte_more_is_not() -> None:
    assert read(compose("a: 1\n".ljust(LARGEST_FILE, "#"), {}, [])) == {"a": "1"}
    assert "is too large" in problem("a: 1\n".ljust(LARGEST_FILE + 1, "#"))


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: 2\na: 3\n", "{a: 1, a: 2}", "a: 1\n'a': 2\n", "a: 1\n? a\n: 2\n"],
)
def test_a_key_that_is_written_twice_is_refused(text: str) -> None:
    assert "is written twice: a key is written once; see line 1" in problem(text)


@pytest.mark.parametrize("text", ["a: &a {x: 1}\nb: {<<: *a}\n", "<<: {a: 1}\n"])
def test_merge_keys_are_refused(text: str) -> None:
    assert "merge key" in problem(text)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "a: !!python/name:os.system x",
        "a: !!binary aGk=",
        "a: !!set {x}",
        "a: !mine x",
    ],
)
def test_tags_make_nothing(text: str) -> None:
    assert "has a YAML tag" in problem(text)


@pytest.mark.parametrize("text", ["? [a]\n: 1\n", "? {a: b}\n: 1\n", "'': 1\n", '"a\\nb": 1\n'])
def test_keys_are_plain_text(text: str) -> None:
    assert "a key that is no plain text" in problem(text)


def test_a_second_document_is_refused() -> None:
    assert "expected a single document" in problem("a: 1\n---\nb: 2\n")
