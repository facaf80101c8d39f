"""YAML values that know their line and column, so that every problem is reported at its place.

The reader of a scalar decides what it means, not quotes or YAML's guesses (a date, an octal number,
``no`` for Norway). ``${NAME}`` is filled in when a scalar is read, so the environment never changes
the structure of the file. Messages show a scalar as it is written, never a variable's value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import yaml

from ..core.errors import Problem
from ..core.redaction import without_keys
from .yamlnodes import NotYaml, composed

T = TypeVar("T")

_MERGE, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "null"))
_UNTAGGED = re.compile("tag:yaml.org,2002:(bool|float|int|map|merge|null|seq|str|timestamp|value)")

_DOLLAR = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}$]*))?\})?"
)

_LONGEST_SHOWN = 60


class Rule(str):
    """A rule in words; ``form`` is the same in JSON Schema, as far as that can express it."""

    __slots__ = ("form",)

    form: dict[str, Any]

    def __new__(cls, words: str, **form: Any) -> Self:
        rule = super().__new__(cls, words)
        rule.form = form
        return rule


class Wrong(Exception):
    """A value cannot be used; why has been reported."""


class Entry(NamedTuple):
    """A key of a mapping, and its value."""

    key: Value
    value: Value


class Key(NamedTuple):
    """A key that a section may have; ``usual`` is its value if it is left out."""

    name: str
    read: Callable[[Value], Any]
    usual: object
    required: bool


class Value:
    """A node of the file; ``where`` is its path, such as ``routes[0].path``."""

    def __init__(
        self, node: yaml.Node, where: str, environ: Mapping[str, str], problems: list[Problem]
    ) -> None:
        self._node = node
        self._environ = environ
        self.where = where
        self.problems = problems
        self.line = node.start_mark.line + 1
        self.column = node.start_mark.column + 1

    def report(self, what: str, rule: str) -> None:
        where, what, rule = self.where or "file", without_keys(what), without_keys(rule)
        self.problems.append(Problem(self.line, self.column, where, what, rule))

    def wrong(self, what: str, rule: str) -> Wrong:
        """Report, and return the exception to raise."""
        self.report(what, rule)
        return Wrong()

    @property
    def shown(self) -> str:
        """The value for a message: as written, with its variables, without API keys."""
        if isinstance(self._node, yaml.SequenceNode):
            return "a list"
        if isinstance(self._node, yaml.MappingNode):
            return "a mapping"
        return "empty" if self._node.tag == _NULL else _short(repr(without_keys(self._node.value)))

    @property
    def origin(self) -> str:
        """For a message that must not show the value: where it comes from."""
        if not self.is_scalar:
            return "the value"
        found = (match["name"] for match in _DOLLAR.finditer(self._node.value))
        names = ", ".join(f"${{{name}}}" for name in found if name)
        return f"the value of {names}" if names else "the value"

    @property
    def is_scalar(self) -> bool:
        return isinstance(self._node, yaml.ScalarNode)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    def text(self, rule: str) -> str:
        """A scalar's text, with its variables filled in."""
        self._refuse_tag()
        if not self.is_scalar or self._node.tag == _NULL:
            raise self.wrong(f"is {self.shown}", rule)
        before = len(self.problems)
        text = _DOLLAR.sub(self._filled_in, self._node.value)
        if len(self.problems) > before:
            raise Wrong
        return text

    def each(self, read: Callable[[Value], T], rule: str, *, least: int = 1) -> list[T]:
        """Read each item of a list; those that are wrong are left out.

        Raises Wrong if this is no list, or has fewer than ``least`` items.
        """
        self._refuse_tag()
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.wrong(f"is {self.shown}", rule)
        if len(self._node.value) < least:
            raise self.wrong("is an empty list", rule)
        items: list[T] = []
        for index, node in enumerate(self._node.value):
            with suppress(Wrong):
                items.append(read(self._at(node, f"{self.where}[{index}]")))
        return items

    def lines(self, read: Callable[[Value, str, Value], T]) -> list[T]:
        """Read each entry of a mapping: the key, the key's text, and the value.

        Those that are wrong are left out.
        """
        items: list[T] = []
        for name, (key, value) in self.entries.items():
            with suppress(Wrong):
                items.append(read(key, name, value))
        return items

    def asked(self, key: Key) -> None:
        """Called for each key that a section may have; for schema, which overrides it."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The entries of a mapping, in order; of a key that is repeated, the first."""
        self._refuse_tag()
        if not self.is_mapping:
            raise self.wrong(f"is {self.shown}", "must be a mapping of keys to values")
        entries: dict[str, Entry] = {}
        for key_node, node in self._node.value:
            with suppress(Wrong):
                name = self._at(key_node, self.where).key()
                where = f"{self.where}.{_label(name)}" if self.where else _label(name)
                key = self._at(key_node, where)
                if name in entries:
                    first = entries[name].key.line
                    raise key.wrong("is written twice", f"a key is written once; see line {first}")
                entries[name] = Entry(key, self._at(node, where))
        return entries

    def _at(self, node: yaml.Node, where: str) -> Value:
        return Value(node, where, self._environ, self.problems)

    def key(self) -> str:
        """The text of a mapping's key."""
        if self._node.tag == _MERGE:
            raise self.wrong("has a merge key (<<)", "merge keys are not read: write the keys out")
        name = self._node.value if self.is_scalar else ""
        if not name or not name.isprintable() or "${" in name:
            raise self.wrong(
                "has a key that is no plain text", "keys are text on one line, without variables"
            )
        return str(name)

    def _refuse_tag(self) -> None:
        if not _UNTAGGED.fullmatch(self._node.tag):
            raise self.wrong("has a YAML tag (!)", "tags mean nothing here: leave it out")

    def _filled_in(self, match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["dollar"]:
            return "$"
        if not name:
            rule = "a dollar is written $$, a variable ${NAME}; neither stands in a default"
            self.report("has a lone $", rule)
            return ""
        if default is not None:  # as in a shell, :- is for what is empty, too
            return self._environ.get(name) or default
        if name not in self._environ:
            rule = f"set it in the environment, or give a default: ${{{name}:-...}}"
            self.report(f"${{{name}}} is not set", rule)
        return self._environ.get(name, "")


class Fields:
    """The keys of one section, for a ``with``. Each is taken by name; any other is an error.

    If the section has a problem, the end of the ``with`` raises Wrong. Until then reading goes on
    with stand-in values, so that all problems are reported at once.
    """

    def __init__(self, section: Value) -> None:
        self._section = section
        self._before = len(section.problems)
        self._entries = section.entries
        self._asked: list[str] = []
        self._bad: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        for name, entry in self._entries.items():
            if name not in self._asked:
                entry.key.report("is not known", did_you_mean(name, self._asked))
        if len(self._section.problems) > self._before:
            raise Wrong

    def take(self, name: str, read: Callable[[Value], T], otherwise: T) -> T:
        """Read the key's value; ``otherwise`` if the key is left out."""
        return self._take(Key(name, read, otherwise, required=False), read, otherwise)

    def require(self, name: str, read: Callable[[Value], T], stand_in: T) -> T:
        """As ``take``, for a required key."""
        if name not in self._entries:
            self._bad.add(name)
            self._section.report(f"has no {name}", "this key is required")
        return self._take(Key(name, read, None, required=True), read, stand_in)

    def _take(self, key: Key, read: Callable[[Value], T], otherwise: T) -> T:
        name = key.name
        self._asked.append(name)
        self._section.asked(key)
        if name not in self._entries:
            return otherwise
        before = len(self._section.problems)
        value = otherwise
        with suppress(Wrong):
            value = read(self._entries[name].value)
        if len(self._section.problems) > before:
            self._bad.add(name)
        return value

    def refuse(self, name: str, what: str, rule: str) -> None:
        """Report what is wrong with a key in the light of the others."""
        self._bad.add(name)
        self._entries[name].key.report(what, rule)

    def has(self, *names: str) -> bool:
        """Whether all of these keys are in the file, valid or not."""
        return all(name in self._entries for name in names)

    def fine(self, *names: str) -> bool:
        """Whether no problem was found with any of these keys so far."""
        return self._bad.isdisjoint(names)

    def entries(self, name: str) -> dict[str, Entry]:
        """The entries of the mapping under a key; none if it is missing or no mapping."""
        entry = self._entries.get(name)
        return entry.value.entries if entry and entry.value.is_mapping else {}


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The rule for a name that is none of ``known``."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(known)}" if known else "none is known here"


def compose(text: str | bytes, environ: Mapping[str, str], problems: list[Problem]) -> Value:
    """The whole file as one value. An empty file is an empty mapping."""
    try:
        return Value(composed(text), "", environ, problems)
    except NotYaml as error:
        problems.append(error.problem)
        raise Wrong from None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _label(name: str) -> str:
    name = without_keys(name)
    return _short(name if re.fullmatch(r"[^\s:]+", name) else repr(name))
