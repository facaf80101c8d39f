"""The rules of the configuration for editors: what the loader says of a file that is blank.

The loader's own readers are given a file that writes down what they ask for, and that becomes a
JSON Schema. So a key or a rule is added to config alone, and only its description here. A schema
cannot know all rules; it is never stricter than the loader, which has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import yaml

from . import config
from .yamltext import Key, Rule, Value, Wrong

T = TypeVar("T")
Form = dict[str, Any]

ABOUT = {
    "admin": "The endpoints of the proxy itself, under /-/.",
    "admin.enabled": "Whether they answer.",
    "admin.host": "Where they listen, if port is given: an address of their own.",
    "admin.hosts": "Further names by which the ledger and the playground may be asked for.",
    "admin.hosts[]": "A name, such as an ingress has.",
    "admin.port": "The port of that address; the proxy's own, if left out.",
    "ledger": "Who still speaks an old version, and for what: /-/ledger.",
    "ledger.entries": "The most that are told apart; those gone for longest are summed up.",
    "ledger.file": "Where it is kept over restarts; in memory alone, if left out.",
    "limits": "What one exchange may take, and how many there may be.",
    "limits.concurrent_exchanges": "Exchanges at once, in each worker; more are answered with 503.",
    "limits.event": "The largest server-sent event of an upstream.",
    "limits.header_bytes": "The largest head of a request.",
    "limits.request_body": "The largest body of a request that is translated.",
    "models": "Which model answers for which: names or globs. The first that matches counts.",
    "models.*": "The model that answers.",
    "models.*.max_tokens": "The most that an answer may be long, in tokens.",
    "models.*.to": "The model that answers.",
    "models_from_upstream": "Whether upstreams are asked for the limits of their models.",
    "routes": "Which request goes where. The first that matches counts.",
    "routes[]": "Requests that are treated alike.",
    "routes[].bridge": "The API that serves a retired endpoint.",
    "routes[].keepalive": "What is sent to old clients after 15 silent seconds.",
    "routes[].methods": "The methods that it takes; all, if left out.",
    "routes[].methods[]": "A method.",
    "routes[].name": "Its name in the log; the path, if left out.",
    "routes[].nudge": "What clients are told of the end of their version. Times are UTC.",
    "routes[].nudge.brownouts": "When calls are refused to rehearse the end.",
    "routes[].nudge.brownouts[]": "A time, once or again and again.",
    "routes[].nudge.brownouts[].every": "From one beginning to the next; once, if left out.",
    "routes[].nudge.brownouts[].for": "How long it lasts.",
    "routes[].nudge.brownouts[].from": "When it begins, the first time.",
    "routes[].nudge.brownouts[].percent": "How many of a hundred calls are refused.",
    "routes[].nudge.deprecation": "When the version is or was deprecated (RFC 9745).",
    "routes[].nudge.link": "Where to read what to do.",
    "routes[].nudge.sunset": "When the version ends (RFC 8594).",
    "routes[].path": "The path, perhaps with {parameters}, and {rest:path} at its end.",
    "routes[].snapshots": "Whether every text is sent, or of those that come together the latest.",
    "routes[].strict": "Whether what the upstream would refuse is refused instead of left out.",
    "routes[].translate": "Whether answers are translated; if not, only the version is raised.",
    "routes[].upstream": "The name of the upstream that serves it.",
    "routes[].upstream_path": "The path to ask there, with the parameters of this one.",
    "server": "Where the proxy listens.",
    "server.drain": "Seconds that open exchanges may take once it is told to stop.",
    "server.host": "The address to listen on; 0.0.0.0, or :: for IPv6 too, for all.",
    "server.hosts": "Names, beside private ones, to be asked by; any, if left out.",
    "server.hosts[]": "A name, such as an ingress has.",
    "server.port": "The port to listen on; 0 is any free one.",
    "unknown_versions": "What happens to a version that is newer than all known ones.",
    "upstreams": "The APIs to send to, by name.",
    "upstreams.*": "An API to send to.",
    "upstreams.*.base_url": "Where it is; a path goes before every path.",
    "upstreams.*.credentials": "How the API key goes there, and whose.",
    "upstreams.*.headers": "Header fields of every request that goes there.",
    "upstreams.*.headers.remove": "Fields that are left out.",
    "upstreams.*.headers.remove[]": "The name of a field.",
    "upstreams.*.headers.set": "Fields that are set.",
    "upstreams.*.headers.set.*": "The value of a field.",
    "upstreams.*.speaks": "The versions that it serves.",
    "upstreams.*.speaks[]": "A version.",
    "upstreams.*.timeouts": "How long it is waited for, in seconds.",
    "upstreams.*.timeouts.connect": "For the connection.",
    "upstreams.*.timeouts.first_byte": "From the request to the first byte of its answer.",
    "upstreams.*.timeouts.idle": "Between two pieces of its answer.",
    "upstreams.*.timeouts.total": "For all of its answer, from the request sent.",
    "version_when_missing": "The version of requests that name none.",
}
"""What each key is for, in a sentence; ``*`` stands for a free name, ``[]`` for an item."""

_HEAD = {
    "$schema": "http://json-schema.org/draft-07/schema#",  # which editors know best
    "title": "Configuration of anthropic-version-proxy",
    "definitions": {
        "variable": {
            "description": "Text with ${NAME} or ${NAME:-default}, from the environment.",
            "type": "string",
            "pattern": r"\$",
        }
    },
}

_NOTHING_WRITTEN = yaml.MappingNode("tag:yaml.org,2002:map", [], yaml.Mark("", 0, 0, 0, None, 0))


def text() -> str:
    """The schema as JSON, as it is shipped."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Form:
    """The schema of a whole file."""
    return _HEAD | _described(config.read, "")


def keys() -> Iterator[str]:
    """Every key that the loader knows, named as in ABOUT."""
    for kind in (False, True):
        yield from _keys(_read(config.read, "", mapping=kind))


class _Blank(Value):
    """A value of which nothing is written, neither as text nor as a mapping.

    Readers find it wanting, as they would an empty file, and go on; what they asked for stays here.
    """

    def __init__(self, where: str, *, mapping: bool) -> None:
        super().__init__(_NOTHING_WRITTEN, where, {}, [])
        self.rule: str | None = None
        self.within: dict[str, tuple[Key, str]] = {}
        self.items: Callable[[Value], Any] | None = None
        self.least = 0
        self.named: Callable[[Value], Any] | None = None
        self._mapping = mapping

    @property
    def is_mapping(self) -> bool:
        return self._mapping

    def text(self, rule: str) -> str:
        self.rule = rule
        raise self.wrong("is blank", rule)

    def asked(self, key: Key) -> None:
        self.within[key.name] = (key, f"{self.where}.{key.name}".lstrip("."))

    def each(self, read: Callable[[Value], T], rule: str, *, least: int = 1) -> list[T]:
        self.items, self.least = read, least
        raise self.wrong("is blank", rule)

    def lines(self, read: Callable[[Value, str, Value], T]) -> list[T]:
        self.named = partial(read, _Blank(self.where, mapping=False), "name")
        return []


def _read(read: Callable[[Value], Any], where: str, *, mapping: bool) -> _Blank:
    blank = _Blank(where, mapping=mapping)
    with suppress(Wrong):
        read(blank)
    return blank


def _described(read: Callable[[Value], Any], where: str) -> Form:
    """The form of what ``read`` takes, as text or as a mapping, whichever it can be."""
    forms: list[Form] = []
    for kind in (False, True):
        form = _form(_read(read, where, mapping=kind))
        if form and form not in forms:
            forms.append(form)
    form = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return {"description": ABOUT[where], **form} if where else form


def _form(blank: _Blank) -> Form:
    where = blank.where
    if blank.within:
        entries = blank.within.values()
        required = [key.name for key, _ in entries if key.required]
        return {
            "type": "object",
            "properties": {key.name: _member(key, path) for key, path in entries},
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }
    if blank.named is not None:
        return {"type": "object", "additionalProperties": _described(blank.named, f"{where}.*")}
    if blank.items is not None:
        items = _described(blank.items, f"{where}[]")
        return {"type": "array", "items": items, "minItems": blank.least}
    return {} if blank.rule is None else _scalar(blank.rule)


def _member(key: Key, where: str) -> Form:
    form = _described(key.read, where)
    plain = isinstance(key.usual, bool | int | float | str) and key.usual != ""
    return form | ({"default": key.usual} if plain else {})


def _scalar(rule: str) -> Form:
    """Text that keeps a rule, or has a variable, of which an editor knows nothing.

    Where numbers and flags are written without quotes, the loader reads them as text.
    """
    form = rule.form if isinstance(rule, Rule) else {}
    if not form.keys() & {"anyOf", "enum", "type"}:
        form = {"type": ["string", "number", "boolean"]} | form
    told = {"title": rule} if isinstance(rule, Rule) else {}
    return {"anyOf": [told | form, {"$ref": "#/definitions/variable"}]}


def _keys(blank: _Blank) -> Iterator[str]:
    readers = [(key.read, path) for key, path in blank.within.values()]
    if blank.named is not None:
        readers.append((blank.named, f"{blank.where}.*"))
    if blank.items is not None:
        readers.append((blank.items, f"{blank.where}[]"))
    for read, where in readers:
        yield where
        for kind in (False, True):
            yield from _keys(_read(read, where, mapping=kind))
