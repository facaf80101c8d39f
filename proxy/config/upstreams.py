"""Reads the section ``upstreams``: where each is, what it speaks, and whose key it gets.

API keys stand here, perhaps in a wrong place, so messages show no value that may be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple, get_args
from unicodedata import normalize
from urllib.parse import unquote

from ..core.fields import HOP_BY_HOP, HTTP_NAME, alike
from ..core.redaction import without_keys
from ..versions import dates
from .readers import one_of, seconds, several, whole_text
from .values import CredentialForm, Credentials, Secret, Timeouts, Upstream
from .yamltext import Fields, Rule, Value


def read_upstreams(value: Value) -> dict[str, Upstream]:
    """The upstreams by their names; raises Wrong."""
    if value.is_mapping and not value.entries:
        raise value.wrong("is empty", "name at least one upstream")

    def read(key: Value, name: str, section: Value) -> Upstream:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            key.report("is no name for an upstream", "a name is letters, digits, dots, _ and -")
        return _upstream(section, name)

    return {upstream.name: upstream for upstream in value.lines(read)}


def _upstream(value: Value, name: str) -> Upstream:
    with Fields(value) as field:
        changes = field.take("headers", _headers, _HeaderChanges())
        return Upstream(
            name=name,
            base_url=field.require("base_url", _base_url, ""),
            speaks=field.require("speaks", _speaks, ()),
            credentials=field.take("credentials", _credentials, Credentials()),
            timeouts=field.take("timeouts", _timeouts, Timeouts()),
            set_headers=changes.set,
            remove_headers=changes.remove,
        )


def _speaks(value: Value) -> tuple[str, ...]:
    return several(one_of(dates()), "must be a list of versions")(value)


def _timeouts(value: Value) -> Timeouts:
    usual = Timeouts()
    with Fields(value) as field:
        return Timeouts(
            connect=field.take("connect", seconds(), usual.connect),
            first_byte=field.take("first_byte", seconds(), usual.first_byte),
            idle=field.take("idle", seconds(), usual.idle),
            total=field.take("total", seconds(), usual.total),
        )


def _base_url(value: Value) -> str:
    rule = Rule(
        "must be http:// or https://, a host, and perhaps a port and a path",
        pattern="^[Hh][Tt][Tt][Pp][Ss]?://[^@?#]+$",
    )
    text = value.text(rule)
    match = re.fullmatch(
        r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?",
        text,
        re.IGNORECASE | re.ASCII,
    )
    if "@" in (text if match else normalize("NFKC", unquote(text))):  # which is why it is not shown
        raise value.wrong("has a user name or password", "write it under credentials")
    if "?" in text or "#" in text:
        raise value.wrong("has a query or a fragment", rule)
    if without_keys(text) != text:
        raise value.wrong("has what looks like a key", "write it under credentials")
    if not match or int(match[3] or 1) not in range(1, 65_536):
        raise value.wrong(f"is {value.shown}", rule)
    scheme, host, port, path = match.groups(default="")
    if not _is_host(host):
        raise value.wrong(f"is {value.shown}, whose host is no name and no address", rule)
    origin = f"{scheme}://{host}".lower() + (f":{port}" if port else "")
    return origin + path.rstrip("/")


def _is_host(host: str) -> bool:
    """Whether ``host`` can be connected to, by its looks (RFC 1123 §2.1, RFC 3986 §3.2.2)."""
    if host.startswith("["):
        with suppress(ValueError):
            return ip_address(host[1:-1]).version == 6
        return False
    return all(re.fullmatch(r"[a-z0-9_-]{1,63}", label, re.IGNORECASE) for label in host.split("."))


_FORMS: tuple[CredentialForm, ...] = get_args(CredentialForm)


def _credentials(value: Value) -> Credentials:
    # No message shows what is written here: it may be a key in the wrong place.
    if value.is_mapping:
        for form in _FORMS[1:]:
            if list(value.entries) == [form]:
                return Credentials(form, _key(value.entries[form].value))
        rule = f"must hold {' or '.join(_FORMS[1:])}, only one of them and nothing else"
        raise value.wrong("is not one key in one form", rule)
    rule = Rule(
        f'must be {", ".join(_FORMS)}, or a form with a key: {{x-api-key: "${{NAME}}"}}',
        anyOf=[{"enum": list(_FORMS)}, *map(_form_with_key, _FORMS[1:])],
    )
    text = value.text(rule)
    for form in _FORMS:
        if text == form:
            return Credentials(form)
    raise value.wrong("is no form of credentials", rule)


def _form_with_key(form: CredentialForm) -> dict[str, Any]:
    """The mapping of one form of credentials to a key, for editors."""
    key = {"type": ["string", "number"]}
    return {
        "type": "object",
        "properties": {form: key},
        "required": [form],
        "additionalProperties": False,
    }


def _secret(pattern: str, words: str) -> Callable[[Value], Secret]:
    """Reads text that no message may show."""
    rule = Rule(words, pattern=whole_text(pattern))

    def read(value: Value) -> Secret:
        text = value.text(rule)
        if not re.fullmatch(pattern, text):
            raise value.wrong(f"{value.origin} cannot be sent", rule)
        return Secret(text)

    return read


_key = _secret(r"[!-~]+", "a key is visible ASCII, without blanks")
_header_value = _secret(
    r"[!-~]([ \t!-~]*[!-~])?", "a field's value is visible ASCII; blanks only within"
)


class _HeaderChanges(NamedTuple):
    """The header fields that an upstream's section sets and removes."""

    set: tuple[tuple[str, Secret], ...] = ()
    remove: tuple[str, ...] = ()


def _headers(value: Value) -> _HeaderChanges:
    _refuse_text(value)
    with Fields(value) as field:
        changes = _HeaderChanges(
            set=field.take("set", _headers_set, ()),
            remove=field.take("remove", several(_header_removed, "must be a list of names"), ()),
        )
        for name in {name for name, _ in changes.set} & set(changes.remove):
            field.refuse("remove", f"removes {name}, which is set", "a field is set or removed")
        return changes


def _refuse_text(value: Value) -> None:
    """Refuse text without showing it: it may be a whole field with a key, as in HTTP."""
    if value.is_scalar:
        raise value.wrong("is text", "must be a mapping of keys to values")


def _headers_set(value: Value) -> tuple[tuple[str, Secret], ...]:
    _refuse_text(value)
    fields: dict[str, Secret] = {}

    def read(key: Value, written: str, value: Value) -> None:
        name = _header_name(key, written)
        if name in fields:
            raise key.wrong("is set twice", "field names ignore upper and lower case")
        fields[name] = _header_value(value)

    value.lines(read)
    return tuple(fields.items())


def _header_removed(value: Value) -> str:
    return _header_name(value, value.text("must be the name of a header field"))


_OWN_FIELDS = {
    **dict.fromkeys(("authorization", "x-api-key"), "write the key under credentials"),
    **dict.fromkeys(
        ("content-encoding", "content-length", "expect", "host", "via"),
        "the proxy sets it, to fit what it sends",
    ),
    **dict.fromkeys((name.decode() for name in HOP_BY_HOP), "it concerns one connection only"),
    "accept-encoding": "whoever reads the answer names what it can read: the client, or the proxy",
    "anthropic-version": "the version is chosen from what the upstream speaks",
}


def _header_name(place: Value, written: str) -> str:
    name = written.lower()
    if not re.fullmatch(HTTP_NAME, name):
        raise place.wrong("is no name of a field", "a name is letters, digits and !#$%&'*+-.^_`|~")
    read_as = alike(name.encode()).decode()
    if read_as in _OWN_FIELDS:
        raise place.wrong(f"is {place.shown}, which cannot be changed here", _OWN_FIELDS[read_as])
    return name
