"""Parses YAML into nodes, never more of them than a configuration can need.

No Python objects are constructed. Aliases count as all that they stand for, which bounds their
expansion. The message of a syntax error quotes nothing that may be an API key.
"""

from __future__ import annotations

import re

import yaml

from ..core.errors import Problem

LARGEST_FILE = 1 << 20
MOST_NODES = 10_000
DEEPEST = 20

BLANK = yaml.MappingNode("tag:yaml.org,2002:map", [], yaml.Mark("", 0, 0, 0, None, 0))
"""The root node of an empty text."""


class NotYaml(yaml.YAMLError):
    """The text is no YAML, or too large."""

    def __init__(self, line: int, column: int, what: str, rule: str) -> None:
        super().__init__(what)
        self.problem = Problem(line + 1, column + 1, "file", what, rule)


class _Loader(yaml.SafeLoader):
    """Composes at most MOST_NODES nodes, counting an alias as all that it stands for."""

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
            raise NotYaml(mark.line, mark.column, "nests too deep", f"at most {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if again and id(node) not in self._sizes:
            raise NotYaml(mark.line, mark.column, "has an alias of itself", "write it out")
        self._nodes += self._sizes[id(node)] if again else 1
        self._sizes[id(node)] = self._nodes - before
        if self._nodes > MOST_NODES:
            rule = f"at most {MOST_NODES}, counting an alias as all that it stands for"
            raise NotYaml(mark.line, mark.column, "holds too many values", rule)
        return node


def composed(source: str | bytes) -> yaml.Node:
    """The root node of a text; raises NotYaml."""
    if len(source) > LARGEST_FILE:
        raise NotYaml(0, 0, "is too large", f"at most {LARGEST_FILE} bytes")
    text = source if isinstance(source, str) else _decoded(source)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        what = f"holds the character U+{error.character:04X}"
        rule = "control characters are written as escapes, in double quotes"
        raise NotYaml(*_end_of(text[: error.position]), what, rule) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line, mark.column) if mark else (0, 0)
        raise NotYaml(*place, _problem_of(error), _YAML_RULE) from None
    except (ValueError, OverflowError):  # PyYAML's own: an escape past U+10FFFF, say
        raise NotYaml(loader.line, loader.column, "has a number out of range", _YAML_RULE) from None
    return node or BLANK


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
        raise NotYaml(*_end_of(before), "is not UTF-8", "the file must be UTF-8 text") from None


def _end_of(text: str) -> tuple[int, int]:
    return text.count("\n"), len(text) - text.rfind("\n") - 1
