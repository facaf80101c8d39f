"""The JSON Schema of a configuration: it has all keys, and refuses only what the loader refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft7Validator

from proxy import config
from proxy.config import schema
from proxy.core.errors import ConfigError
from test_config import CASES, ENVIRONMENT, EVERY_SETTING, ROOT, SECTIONS, SHIPPED, TREES

VALIDATOR = Draft7Validator(schema.schema())

BEYOND = {
    "admin-address",
    "admin-hosts-without-effect",
    "admin-without-effect",
    "duplicate-keys",
    "models-without-bridge",
    "names-of-routes",
    "names-of-upstreams",
    "unknown-upstream",
    "unreached-models",
    "unreached-routes",
    "unused-upstreams",
    "variables",  # whether they are set
    "ledger-file-of-surrogates",
}
"""Cases whose problems no schema can see: they are between keys, or in the environment."""


class Loader(yaml.SafeLoader):
    """Reads YAML as editors do, by the core schema of YAML 1.2: a date is text, and so is yes."""


Loader.yaml_implicit_resolvers = {}
for kind, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), first)


def as_edited(text: str) -> Any:
    """A file as an editor sees it; an empty one is an empty mapping."""
    return yaml.load(text, Loader) or {}  # noqa: S506  (a SafeLoader)


def wrong(text: str) -> list[str]:
    """What the schema has against a file."""
    return [error.message for error in VALIDATOR.iter_errors(as_edited(text))]


def loads(text: str) -> bool:
    """Whether the loader takes a file."""
    try:
        config.parse(text, "f", ENVIRONMENT)
    except ConfigError:
        return False
    return True


def test_what_is_shipped_is_the_schema() -> None:
    Draft7Validator.check_schema(schema.schema())
    shipped = ROOT / "proxy" / "config.schema.json"
    assert shipped.read_text() == schema.text(), (
        "run: anthropic-version-proxy schema > proxy/config.schema.json"
    )


def test_every_key_is_described_and_nothing_else() -> None:
    assert set(schema.keys()) == set(schema.ABOUT), "describe it in schema.ABOUT"


def written(value: Any, where: str = "") -> Iterator[str]:
    """The keys in a file, named as in ABOUT."""
    if isinstance(value, list):
        for item in value:
            yield f"{where}[]"
            yield from written(item, f"{where}[]")
    if isinstance(value, dict):
        free = where in ("upstreams", "models", "upstreams.*.headers.set")
        for name, item in value.items():
            path = f"{where}.{'*' if free else name}".lstrip(".")
            yield path
            yield from written(item, path)


def test_a_file_with_every_setting_is_fine_and_leaves_none_out() -> None:
    text = EVERY_SETTING.read_text()
    assert loads(text)
    assert wrong(text) == []
    of_credentials = {"upstreams.*.credentials.bearer"}  # a form, not a key of the schema's own
    assert set(written(as_edited(text))) - of_credentials == set(schema.ABOUT)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_file_is_fine_and_names_the_schema(file: Path) -> None:
    text = file.read_text()
    assert wrong(text) == []
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named
    assert (file.parent / named[1]).resolve() == ROOT / "proxy" / "config.schema.json"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_schema_sees_what_it_can_of_a_file_that_is_refused(case: Path) -> None:
    text, _, _ = case.read_text(encoding="utf-8").rpartition("---\n")
    try:
        seen = bool(wrong(text))
    except (yaml.YAMLError, OverflowError, ValueError):
        seen = True  # the editor's own parser does
    assert seen == (case.stem not in BEYOND)


SCALARS = {
    "server.port": ["0", "65535", "65536", "-1", "'80'", "'${PORT}'", "8_0", "x", "~", "[1]"],
    "server.drain": ["0", "1.5", "86400", "86401", "'2'", "1e3", "soon"],
    "server.host": ["localhost", "'::'", "127", "a b", "''", "'[::1]'", "a:1", "127.0.0.1:80"],
    "version_when_missing": ["2023-01-01", "'2023-06-01'", "reject", "pass"],
    "admin.enabled": ["true", "FALSE", "yes", "On", "'no'", "1", "maybe"],
    "limits.event": ["1", "0", "8 MiB", "'9KB'", "1.5 MB", "8 mib", "'${NONE:-1}'"],
    "models_from_upstream": ["off", "oui"],
}


@pytest.mark.parametrize(
    ("where", "value"), [(where, value) for where, values in SCALARS.items() for value in values]
)
def test_schema_and_loader_agree_on_single_values(where: str, value: str) -> None:
    section, _, key = where.partition(".")
    bridge = "upstreams: {a: {base_url: http://a, speaks: [2023-06-01]}}\nroutes:\n"
    bridge += "- {path: /v1/complete, upstream: a, bridge: messages}\n"
    text = bridge + f"{section}: {f'{{{key}: {value}}}' if key else value}\n"
    lenient = {"1e3"}  # a number to a schema, and no such text as the loader reads
    assert (wrong(text) == []) == (loads(text) or value in lenient)


@settings(max_examples=50)
@given(TREES | SECTIONS)
def test_the_schema_is_never_stricter_than_the_loader(tree: object) -> None:
    text = yaml.safe_dump(tree)
    assert not loads(text) or wrong(text) == []
