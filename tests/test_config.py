"""A configuration file is read as meant, or refused with all its problems, each with its place.

The files in ``conformance/config`` show what is refused, and in which words: each is a
configuration, a line ``---``, and the problems that are reported in it.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import config
from proxy.bridge.models import ModelTarget
from proxy.config import Admin, Config, Credentials, Ledger, Limits, Route, Secret, Server, Timeouts
from proxy.config.summary import summary
from proxy.config.yamlnodes import LARGEST_FILE
from proxy.core.errors import ConfigError
from proxy.core.nudges import Nudge, Window
from support import PATIENCE

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
CASES = sorted((ROOT / "tests" / "conformance" / "config").glob("*.yaml"))

EVERY_SETTING = ROOT / "tests" / "conformance" / "every-setting.yaml"
"""A file in which no key is left out."""

ENVIRONMENT = {
    "BROKEN_KEY": "sk-hunter2\n",
    "EMPTY": "",
    "KEY": "sk-hunter2",
    "NOT_A_PORT": "hunter2",
    "PORT": "9000",
    "STRUCTURE": "{host: hunter2}",
}
"""What the cases find in the environment. Whatever is secret says ``hunter2``."""

NEEDED = {"ANTHROPIC_API_KEY": "k", "SERVICE_URL": "http://127.0.0.1:9000"}
"""What files that are shipped ask of the environment."""

UPSTREAM = "upstreams: {a: {base_url: https://api.example.com, speaks: [2023-06-01]}}\n"
ROUTES = "routes: [{path: /v1/complete, upstream: a}]\n"
BRIDGE = "routes: [{path: /v1/complete, upstream: a, bridge: messages}]\n"


def parse(*sections: str) -> Config:
    return config.parse("".join(sections), "proxy.yaml", ENVIRONMENT)


def problems(*sections: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(*sections)
    return [str(problem) for problem in refused.value.problems]


def upstream(*lines: str) -> str:
    """The upstream ``a`` with further lines."""
    head = (
        "upstreams:",
        "  a:",
        "    base_url: https://api.example.com",
        "    speaks: [2023-06-01]",
    )
    return "\n".join((*head, *(f"    {line}" for line in lines), ""))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_problem_is_told_with_its_place_and_the_rule(case: Path) -> None:
    text, _, expected = case.read_text(encoding="utf-8").rpartition("---\n")
    assert "\n".join(problems(text)) == expected.rstrip("\n")
    assert "hunter2" not in expected


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_loads(path: Path) -> None:
    read = config.parse(path.read_bytes(), path.name, NEEDED)
    assert [route.path for route in read.routes] == ["/v1/complete", "/{rest:path}"]


def test_the_packaged_default_is_the_example() -> None:
    default = ROOT / "proxy" / "default.yaml"
    assert default.read_bytes() == (ROOT / "config" / "proxy.yaml").read_bytes()


def test_the_example_with_a_key_of_its_own_differs_in_who_may_spend_it_and_nothing_else() -> None:
    files = (ROOT / "config" / name for name in ("proxy.yaml", "key.yaml"))
    example, read = (config.parse(file.read_bytes(), file.name, NEEDED) for file in files)
    own = Credentials("x-api-key", Secret("k"))
    upstream = replace(example.upstreams["anthropic"], credentials=own)
    server = replace(example.server, hosts=())
    assert read == replace(example, server=server, upstreams={"anthropic": upstream})


def test_the_example_shows_the_defaults() -> None:
    """What is commented as the usual value is what a file without it means."""
    shown = config.parse((ROOT / "config" / "proxy.yaml").read_bytes(), "proxy.yaml", {})
    silent = parse(UPSTREAM, ROUTES)
    for section in ("version_when_missing", "unknown_versions", "limits", "admin"):
        assert getattr(shown, section) == getattr(silent, section)
    assert shown.server == silent.server
    assert shown.upstreams["anthropic"].base_url == "https://api.anthropic.com"
    assert shown.upstreams["anthropic"].timeouts == Timeouts()
    assert shown.upstreams["anthropic"].credentials == Credentials()
    bridged = Route(
        "complete", "/v1/complete", ("POST",), "anthropic", upstream_path=None, bridge="messages"
    )
    assert shown.routes == (bridged, Route("/{rest:path}", "/{rest:path}", None, "anthropic"))


def test_the_shortest_file_has_all_defaults() -> None:
    read = parse(UPSTREAM, ROUTES)
    assert read.server == Server("127.0.0.1", 8080, 30.0)
    assert read.version_when_missing == "2023-01-01"
    assert read.unknown_versions == "pass"
    assert read.limits == Limits(32 * 1024**2, 64 * 1024, 8 * 1024**2, 1000)
    assert read.admin == Admin(enabled=True, host="127.0.0.1", port=None)
    assert read.models == ()
    assert read.routes == (Route("/v1/complete", "/v1/complete", None, "a"),)


def test_every_setting_is_read() -> None:
    read = parse(EVERY_SETTING.read_text())
    a = read.upstreams["a"]
    assert read.server == Server("::", 0, 0.0, ("proxy.example.com",))
    assert (read.version_when_missing, read.unknown_versions) == ("reject", "reject")
    assert a.credentials == Credentials("bearer", Secret("sk-hunter2"))
    assert a.timeouts == Timeouts(0.5, 10.0, 2.25, 90.0)
    assert a.set_headers == (("x-team", Secret("legacy")), ("x-no", Secret("no")))
    assert a.remove_headers == ("x-debug",)
    assert read.models == (
        ModelTarget("claude-2", "big", None),
        ModelTarget("claude-*", "small", 4096),
    )
    assert read.routes == (
        Route(
            name="old",
            path="/o/{x:path}",
            methods=("POST", "PUT"),
            upstream="a",
            upstream_path="/{x}/v1/complete",
            translate=True,
            bridge="messages",
            strict=True,
            keepalive="timestamp",
            snapshots="latest",
            nudge=Nudge(
                deprecation=datetime(2027, 1, 1, tzinfo=UTC),
                sunset=datetime(2027, 6, 1, tzinfo=UTC),
                link="http://x/",
                brownouts=(
                    Window(
                        datetime(2027, 5, 3, tzinfo=UTC),
                        timedelta(seconds=90),
                        timedelta(days=7),
                        50,
                    ),
                ),
            ),
        ),
    )
    assert read.limits == Limits(1024**3, 8_000_000, 9 * 1024, 1)
    assert read.admin == Admin(True, "::1", 0, hosts=("proxy.example.com", "b.example"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://api.example.com/", "https://api.example.com"),
        ("HTTPS://API.example.com:8443/", "https://api.example.com:8443"),
        ("http://127.0.0.1:8081/gate/Way//", "http://127.0.0.1:8081/gate/Way"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_a_base_url_keeps_its_path_and_loses_its_last_slash(written: str, read: str) -> None:
    text = f'upstreams: {{a: {{base_url: "{written}", speaks: [2023-06-01]}}}}\n'
    assert parse(text, ROUTES).upstreams["a"].base_url == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("as_is", Credentials("as_is", None)),
        ("x-api-key", Credentials("x-api-key", None)),
        ("bearer", Credentials("bearer", None)),
        ('{x-api-key: "${KEY}"}', Credentials("x-api-key", Secret("sk-hunter2"))),
        ("{bearer: plain}", Credentials("bearer", Secret("plain"))),
    ],
)
def test_credentials_pass_convert_or_replace(written: str, read: Credentials) -> None:
    assert parse(upstream(f"credentials: {written}"), ROUTES).upstreams["a"].credentials == read


@pytest.mark.parametrize(
    ("written", "port"),
    [("${PORT}", 9000), ("${NONE:-81}", 81), ("${EMPTY:-82}", 82), ("8${NONE:-}0", 80)],
)
def test_a_variable_is_filled_in_before_the_type_is_looked_at(written: str, port: int) -> None:
    assert parse(UPSTREAM, ROUTES, f"server: {{port: '{written}'}}\n").server.port == port


def test_two_dollars_are_one() -> None:
    headers = "headers: {set: {x: 'a$$b$${KEY}'}}"
    read = parse(upstream(headers), ROUTES)
    assert read.upstreams["a"].set_headers == (("x", Secret("a$b${KEY}")),)


def test_what_a_variable_holds_is_not_filled_in_again() -> None:
    text = upstream("headers: {set: {x: '${A}'}}") + ROUTES
    read = config.parse(text, "f", {"A": "${B}$$", "B": "never"})
    assert read.upstreams["a"].set_headers == (("x", Secret("${B}$$")),)


def test_keys_are_not_filled_in() -> None:
    read = parse(UPSTREAM, BRIDGE, "models: {$PORT: m}\n")
    assert read.models == (ModelTarget("$PORT", "m", None),)


def test_aliases_are_read() -> None:
    text = upstream("timeouts: &short {connect: 1}")
    text += "  b: {base_url: http://b, speaks: [2023-06-01], timeouts: *short}\n"
    text += "routes: [{path: /a, upstream: a}, {path: /b, upstream: b}]\n"
    assert parse(text).upstreams["b"].timeouts == Timeouts(connect=1.0)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("path: /a, methods: [GET]", "path: /a"),
        ("path: /a, methods: [GET]", "path: /a, methods: [GET, POST]"),
        ("path: '/a/{x}'", "path: '/a/{x:path}'"),
        ("path: '/a/{x}/{y}'", "path: '/a/{x:path}'"),
        ("path: '/a/{x:path}'", "path: /b/c"),
        ("path: '/{x:path}', methods: [POST]", "path: /a"),
        ("path: /a.b", "path: /aXb"),
    ],
)
def test_a_route_that_is_left_something_is_fine(earlier: str, later: str) -> None:
    routes = f"routes: [{{{earlier}, upstream: a}}, {{{later}, upstream: a, name: later}}]\n"
    assert len(parse(UPSTREAM, routes).routes) == 2


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("claude-2", "claude-*"),
        ("claude-?", "claude-*"),
        ("a*b", "a*"),
        ("a??", "a*"),
        ("a?*", "a*"),
        ("[!a]*", "[ab]x"),
    ],
)
def test_a_model_that_is_left_something_is_fine(earlier: str, later: str) -> None:
    assert len(parse(UPSTREAM, BRIDGE, f"models: {{'{earlier}': m, '{later}': m}}\n").models) == 2


def test_a_problem_within_an_upstream_is_not_told_again_by_its_routes() -> None:
    text = "upstreams: {a: {base_url: http://x, speaks: [1999-01-01]}}\n"
    assert len(problems(text, ROUTES)) == 1


def test_nothing_is_called_unused_while_a_route_is_broken() -> None:
    text = "  b: {base_url: http://b, speaks: [2023-06-01]}\n"
    assert problems(upstream(), text, "routes: [{path: b, upstream: b}]\n") == [
        "6:17: routes[0].path: is 'b': a path starts with /"
    ]


def test_problems_are_in_the_order_of_the_file_and_name_it() -> None:
    with pytest.raises(ConfigError) as refused:
        parse("server: {port: x}\n", UPSTREAM, "routes: []\n", "admin: {on: 1}\n")
    lines = str(refused.value).splitlines()
    assert [line.split(":")[:2] for line in lines] == [["proxy.yaml", n] for n in "134"]


def test_a_file_that_is_not_there_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml:1:1: file: cannot be read \(No such file"):
        config.load(missing)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load("a\0b")


@pytest.mark.anyio
async def test_nobody_is_waited_for_who_might_write_to_a_fifo(tmp_path: Path) -> None:
    """A reload that waited would hear of no stop."""
    os.mkfifo(fifo := tmp_path / "proxy.yaml")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConfigError, match="file: has no routes"):
            await asyncio.to_thread(config.load, fifo)


def test_a_pipe_is_read_to_its_end() -> None:
    """As of a shell's <(...). What comes later is waited for, and more than is read shows it."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe, os.fdopen(reading):
        writer = threading.Thread(target=pipe.write, args=(b" " * (LARGEST_FILE + 1),))
        writer.start()
        with pytest.raises(ConfigError, match="is too large"):
            config.load(f"/dev/fd/{reading}")
        writer.join()


def test_many_routes_and_models_take_little_time() -> None:
    """Each is compared with all before it: prepared anew each time, that took a minute."""
    routes = "".join(f"  - {{path: '/{number}/{{x}}', upstream: a}}\n" for number in range(900))
    models = "".join(f"  claude-{number}-*: m\n" for number in range(900))
    began = time.process_time()
    read = parse(
        UPSTREAM,
        "routes:\n",
        "  - {path: /v1/complete, upstream: a, bridge: messages}\n",
        routes,
        "models:\n",
        models,
    )
    assert (len(read.routes), len(read.models)) == (901, 900)
    assert time.process_time() - began < 5


def test_load_takes_the_environment_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(UPSTREAM + ROUTES + "server: {host: '${HOST_OF_TEST}'}\n")
    monkeypatch.setenv("HOST_OF_TEST", "localhost")
    assert config.load(os.fspath(file)).server.host == "localhost"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"server:\n  host: \xff\n", "2:9: file: is not UTF-8: the file must be UTF-8 text"),
        (b"a: b\nc: \x07\n", "2:4: file: holds the character U+0007: "),
        (b"#" * (2 << 20), "1:1: file: is too large: at most 1048576 bytes"),
        (b"[" * 100_000, "1:21: file: nests too deep: at most 20 levels"),
        (b"[" + b"1," * 20_000 + b"]", "1:20002: file: holds too many values: "),
        (b"%YAML 1." + b"9" * 5000, "1:9: file: has a number out of range: "),
    ],
    ids=["not-utf-8", "control", "large", "deep", "many", "digits"],
)
def test_text_that_is_no_configuration_is_a_problem_at_its_place(text: bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse(text, "f", {})
    assert str(refused.value.problems[0]).startswith(problem)


def test_a_byte_order_mark_is_no_problem() -> None:
    assert config.parse(b"\xef\xbb\xbf" + (UPSTREAM + ROUTES).encode(), "f", {})


def test_a_configuration_is_frozen() -> None:
    read: Any = parse(UPSTREAM, ROUTES)
    with pytest.raises(FrozenInstanceError):
        read.server.port = 1
    assert isinstance(read.upstreams, MappingProxyType)


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    read = parse(
        upstream("credentials: {x-api-key: '${KEY}'}", "headers: {set: {x-b: hunter2}}"), ROUTES
    )
    assert "hunter2" not in repr(read)
    assert "hunter2" not in summary(read)
    key = Secret("hunter2")
    assert "hunter2" not in f"{key} {key!r} {[key]}"
    assert key.reveal() == "hunter2"


def test_secrets_are_equal_to_secrets_only() -> None:
    key = Secret("hunter2")
    assert key == Secret("hunter2")
    assert key != Secret("other")
    assert key != key.reveal()
    assert len({key, Secret("hunter2")}) == 1


SUMMARY = """\
listens on 127.0.0.1 port 8080
answers under /-/ there, too
keeps the ledger in ledger.jsonl
a request without version: 2023-01-01
a request of a newer version than all known: pass

upstreams
  a  https://api.example.com  speaks 2023-06-01  a key of its own, as bearer  sets x-b, removes x-d

routes
  POST  /old          -> a /v1/complete  bridge: messages, strict, deprecated 2027-01-01  (old)
  any   /{rest:path}  -> a               not translated

models
  claude-*  -> small  at most 9 tokens"""


def test_the_summary_is_a_table_of_upstreams_and_routes() -> None:
    read = parse(
        upstream("credentials: {bearer: '${KEY}'}", "headers: {set: {x-b: c}, remove: [x-d]}"),
        "models: {'claude-*': {to: small, max_tokens: 9}}\n",
        "routes:\n",
        "  - {name: old, path: /old, upstream_path: /v1/complete, methods: [POST], upstream: a,\n",
        "     bridge: messages, strict: true, nudge: {deprecation: 2027-01-01}}\n",
        "  - {path: '/{rest:path}', upstream: a, translate: false}\n",
        "ledger: {file: ledger.jsonl}\n",
    )
    assert summary(read) == SUMMARY
    named = replace(read, admin=Admin(hosts=("a.example", "b.example")))
    asked_as = "there, too, also as a.example, b.example"
    assert summary(named) == SUMMARY.replace("there, too", asked_as)
    in_memory = replace(read, ledger=Ledger())
    assert summary(in_memory) == SUMMARY.replace("keeps the ledger in ledger.jsonl\n", "")


def is_read_or_refused(text: str | bytes) -> bool:
    try:
        config.parse(text, "f", ENVIRONMENT)
    except ConfigError as refused:
        return bool(refused.problems) and "hunter2" not in str(refused)
    return True


@given(st.text() | st.text(alphabet="{}[]:,-&*!|>'\"%@`#?\\$\n\t ab01<") | st.binary())
def test_no_text_does_anything_but_load_or_be_refused(text: str | bytes) -> None:
    assert is_read_or_refused(text)


WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """
        server host port drain limits event admin enabled upstreams a base_url http://x speaks
        2023-06-01 credentials bearer timeouts headers set remove models to routes path methods
        /v1/complete /{a:path} upstream bridge messages GET ${KEY} ${NONE} ${STRUCTURE} $ -1 0 80
        """,
    )
)
LEAVES = WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda trees: st.lists(trees, max_size=3) | st.dictionaries(WORDS, trees, max_size=4),
    max_leaves=20,
)
SECTIONS = st.fixed_dictionaries(
    {
        "upstreams": TREES | st.dictionaries(WORDS, st.dictionaries(WORDS, TREES)),
        "routes": TREES | st.lists(st.dictionaries(WORDS, TREES), max_size=3),
    },
    optional={"models": TREES, "server": TREES, "limits": TREES},
)


@settings(max_examples=200)
@given(TREES | SECTIONS)
def test_no_tree_does_anything_but_load_or_be_refused(tree: object) -> None:
    assert is_read_or_refused(yaml.safe_dump(tree))
