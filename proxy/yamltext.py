"""YAML text becomes values that know where they stand, and what is wrong with one is said there.

What a scalar means is for its reader to say: neither quotes nor YAML's own guesses (a date, an
octal number, ``no`` for Norway) decide. ``${NAME}`` is filled in as the scalar is read, so what
comes from the environment never becomes structure; and messages show a scalar as it is written,
so that they never repeat what came from there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import yaml

from .errors import Problem
from .redaction import without_keys

T = TypeVar("T")

LARGEST_FILE = 1 << 20
MOST_NODES = 10_000
DEEPEST = 20

_MAPPING, _MERGE, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "merge", "null"))
_UNTAGGED = re.compile("tag:yaml.org,2002:(bool|float|int|map|merge|null|seq|str|timestamp|value)")

_DOLLAR = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?"
)

_LONGEST_SHOWN = 60


class Rule(str):
    """A rule in words; ``form`` says it once more in JSON Schema, as far as that can."""

    __slots__ = ("form",)

    form: dict[str, Any]

    def __new__(cls, words: str, **form: Any) -> Self:
        rule = super().__new__(cls, words)
        rule.form = form
        return rule


class Wrong(Exception):
    """A value is of no use. Why is among the problems already."""


class Entry(NamedTuple):
    """One line of a mapping. ``key`` stands where the key stands."""

    key: Value
    value: Value


class Key(NamedTuple):
    """What a section's reader knows of a key; ``usual`` is its value where it is not written."""

    name: str
    read: Callable[[Value], Any]
    usual: object
    required: bool


class Value:
    """A node of the file, at its place."""

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
        """Reports, for ``raise``."""
        self.report(what, rule)
        return Wrong()

    @property
    def shown(self) -> str:
        """The value for a message: as written, before any variable is filled in, without keys."""
        if isinstance(self._node, yaml.SequenceNode):
            return "a list"
        if isinstance(self._node, yaml.MappingNode):
            return "a mapping"
        return "empty" if self._node.tag == _NULL else _short(repr(without_keys(self._node.value)))

    @property
    def origin(self) -> str:
        """The value for a message that must not show it, not even as written."""
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

    def each(self, read: Callable[[Value], T], rule: str) -> list[T]:
        """What ``read`` makes of each item of a list; those that are wrong are left out."""
        self._refuse_tag()
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.wrong(f"is {self.shown}", rule)
        if not self._node.value:
            raise self.wrong("is an empty list", rule)
        items: list[T] = []
        for index, node in enumerate(self._node.value):
            with suppress(Wrong):
                items.append(read(self._at(node, f"{self.where}[{index}]")))
        return items

    def lines(self, read: Callable[[Value, str, Value], T]) -> list[T]:
        """What ``read`` makes of each line of a mapping: its key, the key's text, and its value.

        Those that are wrong are left out.
        """
        items: list[T] = []
        for name, (key, value) in self.entries.items():
            with suppress(Wrong):
                items.append(read(key, name, value))
        return items

    def asked(self, key: Key) -> None:
        """Hears of each key that a section may have, whether it is written or not."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The lines of a mapping, in order. Of a key that comes twice, the first."""
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
            self.report("has a lone $", "a dollar is written $$, a variable ${NAME}")
            return ""
        if default is not None:  # as in a shell, :- is for what is empty, too
            return self._environ.get(name) or default
        if name not in self._environ:
            rule = f"set it in the environment, or give a default: ${{{name}:-...}}"
            self.report(f"${{{name}}} is not set", rule)
        return self._environ.get(name, "")


class Fields:
    """The keys of one section. Each is asked for by name; what nobody asks for is refused.

    A section with a problem has no value: leaving the ``with`` raises ``Wrong``. Until then the
    reading goes on with stand-ins, so that all its problems are told at once.
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
        """What ``read`` makes of the key's value; ``otherwise`` where it is not written."""
        return self._take(Key(name, read, otherwise, required=False), read, otherwise)

    def require(self, name: str, read: Callable[[Value], T], stand_in: T) -> T:
        """As ``take``, of a key that must be written."""
        if name not in self._entries:
            self._bad.add(name)
            self._section.report(f"has no {name}", f"{name} must be written")
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
        """Reports what is wrong with a written key in the light of the others."""
        self._bad.add(name)
        self._entries[name].key.report(what, rule)

    def has(self, *names: str) -> bool:
        """Whether all of these are written, rightly or wrongly."""
        return all(name in self._entries for name in names)

    def fine(self, *names: str) -> bool:
        """Whether nothing is wrong so far with any of these."""
        return self._bad.isdisjoint(names)

    def entries(self, name: str) -> dict[str, Entry]:
        """The lines of a mapping within; none where it is missing or something else."""
        entry = self._entries.get(name)
        return entry.value.entries if entry and entry.value.is_mapping else {}


def matching(pattern: str, words: str) -> Callable[[Value], str]:
    """Reads text that matches ``pattern`` from end to end."""
    compiled = re.compile(pattern)
    rule = Rule(words, pattern=whole_text(pattern))

    def read(value: Value) -> str:
        text = value.text(rule)
        if not compiled.fullmatch(text):
            raise value.wrong(f"is {value.shown}", rule)
        return text

    return read


def one_of(names: Collection[T]) -> Callable[[Value], T]:
    """Reads one of ``names``, which are text."""
    known = {str(name): name for name in names}
    rule = Rule(f"must be one of {', '.join(known)}", enum=list(known))

    def read(value: Value) -> T:
        text = value.text(rule)
        if text not in known:
            raise value.wrong(f"is {value.shown}", rule)
        return known[text]

    return read


def several(read: Callable[[Value], T], rule: str) -> Callable[[Value], tuple[T, ...]]:
    """Reads a list of at least one, each of them once."""

    def read_all(value: Value) -> tuple[T, ...]:
        items = value.each(lambda item: (item, read(item)), rule)
        seen: set[T] = set()
        for place, item in items:
            if item in seen:
                place.report(f"is {place.shown} once more", "each is written once")
            seen.add(item)
        return tuple(item for _, item in items)

    return read_all


def whole(low: int, high: int) -> Callable[[Value], int]:
    """Reads a whole number, in decimal."""
    digits = r"0|[1-9][0-9]{0,15}"  # YAML reads leading zeros as octal, and people do not
    rule = Rule(
        f"must be a whole number from {low} to {high}",
        anyOf=[
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "string", "pattern": whole_text(digits)},
        ],
    )

    def read(value: Value) -> int:
        text = value.text(rule)
        if not re.fullmatch(digits, text) or not low <= int(text) <= high:
            raise value.wrong(f"is {value.shown}", rule)
        return int(text)

    return read


def seconds(*, zero: bool = False) -> Callable[[Value], float]:
    """Reads a span of time in seconds: up to a day, because more was meant as milliseconds."""
    day = 86_400
    decimal = r"[0-9]+(\.[0-9]+)?"
    rule = Rule(
        f"must be a number of seconds, {'0 or more' if zero else 'over 0'}, at most {day}",
        anyOf=[
            {"type": "number", "minimum" if zero else "exclusiveMinimum": 0, "maximum": day},
            {"type": "string", "pattern": whole_text(decimal)},
        ],
    )

    def read(value: Value) -> float:
        text = value.text(rule)
        number = float(text) if re.fullmatch(decimal, text) else -1.0
        if not 0 <= number <= day or (number == 0 and not zero):
            raise value.wrong(f"is {value.shown}", rule)
        return number

    return read


_SPANS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN = rf"([1-9][0-9]{{0,7}})({'|'.join(_SPANS)})"


def span(value: Value) -> timedelta:
    """Reads a span of time that people plan by, up to a year."""
    rule = Rule(
        "must be a span such as 90s, 15m, 1h, 7d or a number of seconds, over 0, at most 366d",
        anyOf=[{"type": "integer", "minimum": 1}, {"type": "string", "pattern": whole_text(_SPAN)}],
    )
    text = value.text(rule)
    match = re.fullmatch(_SPAN, text)
    length = int(match[1]) * _SPANS[match[2]] if match else 0
    if not 0 < length <= 366 * _SPANS["d"]:
        raise value.wrong(f"is {value.shown}", rule)
    return timedelta(seconds=length)


_MOMENT = r"2[0-9]{3}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?"


def moment(value: Value) -> datetime:
    """Reads a day, which is its first moment in UTC, or a time as RFC 3339 has it; into UTC."""
    rule = Rule(
        "must be a day such as 2027-03-01 or a time such as 2027-03-01T10:00:00Z",
        type="string",
        pattern=whole_text(_MOMENT),
    )
    text = value.text(rule)
    try:
        read = datetime.fromisoformat(text) if re.fullmatch(_MOMENT, text) else None
    except ValueError:
        read = None
    if read is None:
        raise value.wrong(f"is {value.shown}", rule)
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = rf"([1-9][0-9]{{0,15}}) ?({'|'.join(_UNITS)})"


def size(value: Value) -> int:
    """Reads a size, into bytes."""
    rule = Rule(
        "must be a size such as 32 MiB, 64 KiB, 8 MB, 1 GiB or a number of bytes, over 0",
        anyOf=[{"type": "integer", "minimum": 1}, {"type": "string", "pattern": whole_text(_SIZE)}],
    )
    text = value.text(rule)
    match = re.fullmatch(_SIZE, text)
    if not match:
        raise value.wrong(f"is {value.shown}", rule)
    return int(match[1]) * _UNITS[match[2]]


_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")


def flag(value: Value) -> bool:
    """Reads true or false, in any of the words that YAML 1.1 has for them."""
    any_case = ("".join(f"[{c.upper()}{c}]" for c in word) for word in (*_YES, *_NO))
    rule = Rule(
        "must be true or false",
        anyOf=[{"type": "boolean"}, {"type": "string", "pattern": whole_text("|".join(any_case))}],
    )
    text = value.text(rule).lower()
    if text not in (*_YES, *_NO):
        raise value.wrong(f"is {value.shown}", rule)
    return text in _YES


def whole_text(pattern: str) -> str:
    """A pattern that has to match from end to end, as JSON Schema wants it said."""
    return f"^(?:{pattern})$"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The rule for a name that is none of ``known``."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(known)}" if known else "none is known here"


def compose(text: str | bytes, environ: Mapping[str, str], problems: list[Problem]) -> Value:
    """The whole file as one value. An empty file is an empty mapping."""
    try:
        return Value(_composed(text), "", environ, problems)
    except _NotYaml as error:
        problems.append(error.problem)
        raise Wrong from None


class _NotYaml(yaml.YAMLError):
    """The text is no YAML, or more of it than a configuration can need."""

    def __init__(self, line: int, column: int, what: str, rule: str) -> None:
        super().__init__(what)
        self.problem = Problem(line + 1, column + 1, "file", what, rule)


class _Loader(yaml.SafeLoader):
    """Composes nodes, but not without end: an alias counts as all that it stands for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        again = self.check_event(yaml.AliasEvent)
        before = self._nodes
        self._depth += 1
        if self._depth > DEEPEST:
            raise _NotYaml(mark.line, mark.column, "nests too deep", f"at most {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if again and id(node) not in self._sizes:
            raise _NotYaml(mark.line, mark.column, "has an alias of itself", "write it out")
        self._nodes += self._sizes[id(node)] if again else 1
        self._sizes[id(node)] = self._nodes - before
        if self._nodes > MOST_NODES:
            rule = f"at most {MOST_NODES}, an alias counted as all that it stands for"
            raise _NotYaml(mark.line, mark.column, "holds too many values", rule)
        return node


def _composed(source: str | bytes) -> yaml.Node:
    """The root node of a text, or _NotYaml with the place where it stops being YAML."""
    if len(source) > LARGEST_FILE:
        raise _NotYaml(0, 0, "is too large", f"at most {LARGEST_FILE} bytes")
    text = source if isinstance(source, str) else _decoded(source)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        what = f"holds the character U+{error.character:04X}"
        rule = "control characters are written as escapes, in double quotes"
        raise _NotYaml(*_end_of(text[: error.position]), what, rule) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line, mark.column) if mark else (0, 0)
        raise _NotYaml(*place, _problem_of(error), _YAML_RULE) from None
    except (ValueError, OverflowError):  # PyYAML's own: an escape past U+10FFFF, say
        raise _NotYaml(
            loader.line, loader.column, "has a number out of range", _YAML_RULE
        ) from None
    return node or yaml.MappingNode(_MAPPING, [], yaml.Mark("", 0, 0, 0, None, 0))


_YAML_RULE = "the file must be YAML; within [ ] and { }, a ${NAME} needs quotes"


def _problem_of(error: yaml.MarkedYAMLError) -> str:
    what = ", ".join(part for part in (error.context, error.problem) if part)
    # The names of aliases and tags are left out: they may be a key that someone forgot to quote.
    return re.sub(r" '[^'<]{2,}'", "", what)


def _decoded(source: bytes) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8", "replace")
        raise _NotYaml(*_end_of(before), "is not UTF-8", "the file must be UTF-8 text") from None


def _end_of(text: str) -> tuple[int, int]:
    return text.count("\n"), len(text) - text.rfind("\n") - 1


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _label(name: str) -> str:
    name = without_keys(name)
    return _short(name if re.fullmatch(r"[^\s:]+", name) else repr(name))
