"""Reads paths, which may have parameters: /v1/models/{name}, /{rest:path}."""

from __future__ import annotations

import re
from functools import lru_cache

from .yamlnodes import MOST_NODES
from .yamltext import Rule, Value

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


def read_path(value: Value) -> str:
    """The path of a route; raises Wrong."""
    text = _template(value)
    if f"{text}/".startswith("/-/"):
        raise value.wrong(f"is {value.shown}", "paths under /-/ are the proxy's own")
    return text


def read_upstream_path(value: Value) -> str:
    """The path that a route requests instead of its own; raises Wrong."""
    text = _template(value)
    if ":path}" in text:
        raise value.wrong(f"is {value.shown}", "in an upstream_path a parameter is only {name}")
    return text


def parameters(path: str) -> list[str]:
    """The names of the parameters of ``path``, in order."""
    return [match[1] for match in _PARAMETER.finditer(path)]


@lru_cache(maxsize=MOST_NODES)
def filled(path: str, segment: str, rest: str) -> str:
    """``path`` with ``segment`` in the place of each {name} and ``rest`` in that of {name:path}."""
    return _PARAMETER.sub(lambda match: rest if match[2] else segment, path)


def _template(value: Value) -> str:
    text = value.text(Rule("must be a path such as /v1/complete", pattern="^/[^?# ]*$"))
    names = parameters(text)
    rules = {
        "a path starts with /": text.startswith("/"),
        "a path is ASCII without blanks, ? or #; braces are for {name} and {name:path}": (
            re.fullmatch(r"[!-~]+", text) and not re.search(r"[{}?#]", _PARAMETER.sub("", text))
        ),
        "a path has no segment . or ..": not re.search(r"/\.{1,2}(/|$)", text),
        "{name:path} matches all that follows: it comes last": not re.search(r":path\}.", text),
        "something must stand between two parameters": "}{" not in text,
        "each parameter needs a name of its own": len(set(names)) == len(names),
    }
    for rule, kept in rules.items():
        if not kept:
            raise value.wrong(f"is {value.shown}", rule)
    return text
