"""The JSON Schema of the configuration, for editors.

It is made by the loader's own readers: they read a blank file, which records what they ask for. So
a new key or rule is added to config, and here only the key's description. A schema cannot express
all rules; it is never stricter than the loader, which has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from . import sections
from .yamlnodes import BLANK
from .yamltext import Key, Rule, Value, Wrong

T = TypeVar("T")
Form = dict[str, Any]

ABOUT = {
    "admin": "The proxy's own endpoints, under /-/.",
    "admin.enabled": "Whether they are served.",
    "admin.host": "The address to serve them on, if port is set.",
    "admin.hosts": "Public names by which the ledger and the playground may be asked for.",
    "admin.hosts[]": "A host name, such as that of an ingress.",
    "admin.port": "A port of their own to serve them on; the port of clients, if left out.",
    "ledger": "Who still speaks an old version, and for what: /-/ledger.",
    "ledger.entries": "The most entries; those not seen for longest are merged into one.",
    "ledger.file": "The file that keeps it over restarts; in memory only, if left out.",
    "limits": "What one request may need, and how many there may be at once.",
    "limits.concurrent_exchanges": "Exchanges at once in each worker; further requests get 503.",
    "limits.event": "The largest server-sent event of an upstream.",
    "limits.header_bytes": "The largest head of a request.",
    "limits.request_body": "The largest request body that is translated.",
    "models": "Which model answers for which name or glob. The first match wins.",
    "models.*": "The model that answers.",
    "models.*.max_tokens": "The longest answer that may be asked for, in tokens.",
    "models.*.to": "The model that answers.",
    "models_from_upstream": "Whether upstreams are asked for the limits of their models.",
    "routes": "Which requests go to which upstream. The first match wins.",
    "routes[]": "Requests that are treated alike.",
    "routes[].bridge": "The API that serves an endpoint which the upstream no longer has.",
    "routes[].keepalive": "What clients are sent after 15 silent seconds of a translated stream.",
    "routes[].methods": "The methods to match; all, if left out.",
    "routes[].methods[]": "An HTTP method.",
    "routes[].name": "The name in the log; the path, if left out.",
    "routes[].nudge": "How clients are told of the end of their version. Times are UTC.",
    "routes[].nudge.brownouts": "When requests are refused, to rehearse the end.",
    "routes[].nudge.brownouts[]": "A period of time, once or repeatedly.",
    "routes[].nudge.brownouts[].every": "From one start to the next; once, if left out.",
    "routes[].nudge.brownouts[].for": "How long it lasts.",
    "routes[].nudge.brownouts[].from": "When it begins for the first time.",
    "routes[].nudge.brownouts[].percent": "The percentage of requests refused; all, if left out.",
    "routes[].nudge.deprecation": "When the version is or was deprecated (RFC 9745).",
    "routes[].nudge.link": "A page that says what to do.",
    "routes[].nudge.sunset": "When the version ends (RFC 8594).",
    "routes[].path": "The path to match. It may contain {parameters}, and end in {rest:path}.",
    "routes[].snapshots": "Whether all snapshots are sent, or of several due at once the newest.",
    "routes[].strict": "Whether to refuse, not leave out, what the model would refuse.",
    "routes[].translate": "Whether to translate; if not, only the version header is replaced.",
    "routes[].upstream": "The name of an upstream.",
    "routes[].upstream_path": "The path to request instead, with the parameters of path.",
    "server": "How clients reach the proxy.",
    "server.drain": "Seconds that open exchanges get to finish after SIGTERM.",
    "server.host": "The address to listen on; 0.0.0.0 is all of IPv4, :: of IPv6 as well.",
    "server.hosts": "Names to answer to, besides addresses and private names; any, if left out.",
    "server.hosts[]": "A host name, such as that of an ingress.",
    "server.port": "The port to listen on; 0 is any free one.",
    "unknown_versions": "What happens to requests in a version newer than all known ones.",
    "upstreams": "The APIs to send requests to, by name.",
    "upstreams.*": "An API to send requests to.",
    "upstreams.*.base_url": "Where it is. A path in it goes before every path.",
    "upstreams.*.credentials": "Whose API key is sent, and in which header.",
    "upstreams.*.headers": "Header fields to set or remove in every request.",
    "upstreams.*.headers.remove": "Fields to remove.",
    "upstreams.*.headers.remove[]": "The name of a field.",
    "upstreams.*.headers.set": "Fields to set.",
    "upstreams.*.headers.set.*": "The value of the field.",
    "upstreams.*.speaks": "The versions that it supports; requests in others are translated.",
    "upstreams.*.speaks[]": "A version of the API.",
    "upstreams.*.timeouts": "How long to wait for it, in seconds.",
    "upstreams.*.timeouts.connect": "Until the connection is made.",
    "upstreams.*.timeouts.first_byte": "From the request to the first byte of the answer.",
    "upstreams.*.timeouts.idle": "Between two reads of the answer.",
    "upstreams.*.timeouts.total": "From the request to the end of the answer.",
    "version_when_missing": "The version of requests that name none, or reject.",
}
"""The description of each key; ``*`` stands for any name, ``[]`` for an item of a list."""

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


def text() -> str:
    """The schema as JSON, as in config.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Form:
    """The schema of a whole file."""
    return _HEAD | _described(sections.read, "")


def keys() -> Iterator[str]:
    """Every key that the loader knows, named as in ABOUT."""
    for mapping in (False, True):
        yield from _keys(_read(sections.read, "", mapping=mapping))


class _Blank(Value):
    """A value that is empty, and records what its reader asks for.

    Readers report it as they would an empty file, and go on.
    """

    def __init__(self, where: str, *, mapping: bool) -> None:
        super().__init__(BLANK, where, {}, [])
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
    """The schema of what ``read`` accepts: text, a mapping, or either of them."""
    forms: list[Form] = []
    for mapping in (False, True):
        form = _form(_read(read, where, mapping=mapping))
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
    """The schema of text that follows ``rule``, or contains a variable, whose value is unknown.

    The loader reads numbers and flags without quotes as text, too.
    """
    form = rule.form if isinstance(rule, Rule) else {}
    if not form.keys() & {"anyOf", "enum", "type"}:
        form = {"type": ["string", "number", "boolean"]} | form
    title = {"title": rule} if isinstance(rule, Rule) else {}
    return {"anyOf": [title | form, {"$ref": "#/definitions/variable"}]}


def _keys(blank: _Blank) -> Iterator[str]:
    readers = [(key.read, path) for key, path in blank.within.values()]
    if blank.named is not None:
        readers.append((blank.named, f"{blank.where}.*"))
    if blank.items is not None:
        readers.append((blank.items, f"{blank.where}[]"))
    for read, where in readers:
        yield where
        for mapping in (False, True):
            yield from _keys(_read(read, where, mapping=mapping))
