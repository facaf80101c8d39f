"""The format of a case: an exchange as its client and its upstream send and receive it.

An unknown key fails its case, so that a typo is not mistaken for an expectation. README.md beside
this file explains how to write a case.
"""

from __future__ import annotations

import difflib
import json
import random
import re
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import yaml

from proxy import config
from proxy.config import Config

CASES = Path(__file__).parent / "cases"

KEYS = {
    "case": (
        "about spec gap plays route client_sends upstream_receives upstream_answers client_receives"
    ),
    "route": (
        "bridge strict keepalive snapshots translate nudge path methods upstream_path routes models"
        " speaks credentials headers base_path version_when_missing unknown_versions limits busy"
    ),
    "client_sends": "method path version headers body raw",
    "upstream_receives": "method path headers headers_missing body raw ordered",
    "upstream_answers": (
        "status headers body text events stream line_end gzip cut_off silent drained fails"
    ),
    "client_receives": (
        "status reason headers headers_missing body ordered text stream line_end snapshots error"
        " cut_off"
    ),
    "snapshots": "texts ends model log_id",
    "ends": "completion stop stop_reason exception",
    "error": "type message mentions",
}
"""Every key of every section."""

PLAYS = ("whole", "drip", "at_random_1", "at_random_2", "at_random_3", "wire")

SEVEN = ("completion", "stop", "stop_reason", "truncated", "log_id", "model", "exception")
"""The keys of a completion of 2023-01-01, in their order."""

SILENCE = b"<silence>\r\n\r\n"
"""Stands in a received stream where the upstream fell silent, if its case has it there."""

LINE_ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}
FAILURES = ("unreachable", "timeout", "not_http")

Script = list["bytes | float"]
"""What an upstream sends: bytes, and silences in seconds."""


class CaseError(Exception):
    """A case is malformed; says how."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses duplicate keys, and reads a date as text, as it is in a header."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (the library's own way)
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise CaseError(f"{', '.join(map(str, twice))}: stands there twice")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Case:
    """One exchange: ``told`` is the content of the file, ``name`` its path below ``cases``."""

    name: str
    told: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Case:
        """Read a file; raises CaseError."""
        name = path.relative_to(CASES).with_suffix("").as_posix()
        return cls.parse(name, path.read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, name: str, text: str) -> Case:
        """Read the text of a file; raises CaseError."""
        told = yaml.load(text, _Loader)  # noqa: S506  (a safe one)
        _check_keys(told)
        return cls(name, told)

    @property
    def about(self) -> str:
        return str(self.told["about"]).strip()

    @property
    def gap(self) -> str | None:
        """The reason why the case is expected to be red."""
        return self.told.get("gap")

    @property
    def plays(self) -> Sequence[str]:
        """The ways in which the case is played: not over sockets if it depends on time."""
        timed = any(isinstance(part, float) for part in self.answers.script(None))
        timed = timed or self.answers.ending == "drained"
        possible = [play for play in PLAYS if not (timed and play == "wire")]
        return [play for play in possible if play in self.told.get("plays", PLAYS)]

    @cached_property
    def sends(self) -> Sends:
        return Sends(self._side("client_sends"))

    @cached_property
    def answers(self) -> Answers:
        return Answers(self._side("upstream_answers"))

    @property
    def marks_silences(self) -> bool:
        """Whether the case states what must have arrived when the upstream falls silent."""
        return "<silence>" in repr(self._side("client_receives"))

    @property
    def busy(self) -> bool:
        """Whether another exchange is under way, where only one is allowed."""
        return bool(self._side("route").get("busy"))

    def config(self, base_url: str, *, impatient: bool = False) -> Config:
        """The configuration that the case asks for, in front of an upstream at ``base_url``."""
        told = self._side("route")
        upstream = {
            "base_url": base_url + told.get("base_path", ""),
            "speaks": told.get("speaks", ["2023-06-01", "2026-10-21"]),
            **_some(told, "credentials", "headers"),
        }
        if impatient:
            upstream["timeouts"] = {"connect": 2, "first_byte": 0.2, "idle": 0.2}
        complete = {
            "path": "/v1/complete",
            **_some(told, "path", "methods", "upstream_path", "bridge"),
            **_some(told, "strict", "keepalive", "snapshots", "translate", "nudge"),
        }
        routes = told.get("routes", [complete, {"path": "/{rest:path}"}])
        whole: dict[str, Any] = {
            "server": {"drain": 0},
            "upstreams": {"api": upstream},
            "routes": [{"upstream": "api", **route} for route in routes],
            **_some(told, "version_when_missing", "unknown_versions", "limits"),
        }
        if any("bridge" in route for route in routes):
            whole["models"] = told.get("models", {"claude-*": "claude-haiku-4-5-20251001"})
        if self.busy:
            whole["limits"] = {**told.get("limits", {}), "concurrent_exchanges": 1}
        return _parsed(json.dumps(whole), self.name)

    def mismatches(self, seen: Seen) -> Iterator[str]:
        """The differences to what the case expects, each with both values."""
        yield from self._mismatches_upstream(seen.asked)
        yield from Receives(self._side("client_receives")).mismatches(seen)
        yield from _laws(seen, own=self.sends.target.startswith("/-/"))

    def _side(self, name: str) -> Mapping[str, Any]:
        side: Mapping[str, Any] = self.told.get(name) or {}
        return {} if isinstance(side, str) else side

    def _mismatches_upstream(self, asked: Sequence[Asked]) -> Iterator[str]:
        if self.answers.fails not in (None, "timeout"):
            return
        calls = 0 if self.told.get("upstream_receives") == "nothing" else 1
        if len(asked) != calls:
            yield f"upstream was asked {len(asked)} times: {asked}"
        elif asked:
            yield from _mismatches_request(self._side("upstream_receives"), asked[0])


@dataclass(frozen=True)
class Sends:
    """What the client sends."""

    told: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.told.get("method", "POST"))

    @property
    def target(self) -> str:
        return str(self.told.get("path", "/v1/complete"))

    @property
    def body(self) -> bytes | None:
        if "raw" in self.told:
            return as_bytes(self.told["raw"])
        return dumps(self.told["body"]).encode() if "body" in self.told else None

    @property
    def chunked(self) -> bool:
        return any(name.lower() == "transfer-encoding" for name in self.told.get("headers", {}))

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields as they are sent, in the order of the file."""
        fields = [("Host", "proxy.test")]
        if "version" in self.told:
            fields.append(("Anthropic-Version", self.told["version"]))
        fields += _pairs(self.told.get("headers", {}))
        names = {name.lower() for name, _ in fields}
        if self.body is not None:
            if "content-type" not in names:
                fields.append(("Content-Type", "application/json"))
            if not self.chunked:
                fields.append(("Content-Length", str(len(self.body))))
        return fields


@dataclass(frozen=True)
class Answers:
    """What the upstream answers."""

    told: Mapping[str, Any]

    @property
    def status(self) -> int:
        return int(self.told.get("status", 200))

    @property
    def fails(self) -> str | None:
        """How the request to the upstream fails before there is any answer."""
        return self.told.get("fails")

    @property
    def ending(self) -> str:
        """How the body ends: ``complete``, or one of the ways in which it does not end properly."""
        return next(
            (way for way in ("cut_off", "silent", "drained") if way in self.told), "complete"
        )

    @property
    def fields(self) -> list[tuple[str, str]]:
        fields = _pairs(self.told.get("headers", {}))
        names = {name.lower() for name, _ in fields}
        usual = None
        if "events" in self.told or "stream" in self.told:
            usual = "text/event-stream; charset=utf-8"
        elif "body" in self.told:
            usual = "application/json"
        if self.told.get("gzip"):
            fields.append(("content-encoding", "gzip"))
        if usual is not None and "content-type" not in names:
            fields.append(("content-type", usual))
        if ("body" in self.told or "text" in self.told) and self.ending == "complete":
            size = sum(len(part) for part in self.script(None) if isinstance(part, bytes))
            if not names & {"content-length", "transfer-encoding"}:
                fields.append(("content-length", str(size)))
        return fields

    def script(self, play: str | None) -> Script:
        """The body, split into pieces as ``play`` says."""
        at_random = None
        if play is not None and play.startswith("at_random"):
            at_random = random.Random(play)  # noqa: S311
        whole = _joined(self._zipped(self._plain(at_random)))
        return [part for piece in whole for part in _cut(piece, play, at_random)]

    def _plain(self, at_random: random.Random | None) -> Iterable[bytes | float]:
        line_end = LINE_ENDS[self.told.get("line_end", "lf")]
        if "events" in self.told:
            if at_random is not None:
                line_end = at_random.choice(("\n", "\r\n"))
            return _written(self.told["events"], line_end, at_random)
        if "stream" in self.told:
            text = self.told["stream"]
            if self.ending == "complete":
                text = text.rstrip("\n") + "\n\n"
            return [text.replace("\n", line_end).encode()]
        if "body" in self.told:
            return [dumps(self.told["body"]).encode()]
        return [as_bytes(self.told.get("text", ""))]

    def _zipped(self, pieces: Iterable[bytes | float]) -> Iterator[bytes | float]:
        """The events compressed, each flushed by itself, as today's API does it."""
        if not self.told.get("gzip"):
            yield from pieces
            return
        deflater = zlib.compressobj(wbits=31)
        for piece in pieces:
            if isinstance(piece, float):
                yield piece
            else:
                yield deflater.compress(piece) + deflater.flush(zlib.Z_SYNC_FLUSH)
        yield deflater.flush()


@dataclass(frozen=True)
class Receives:
    """What the client must receive."""

    told: Mapping[str, Any]

    def mismatches(self, seen: Seen) -> Iterator[str]:
        told = self.told
        if not told:
            return
        if "status" in told and seen.status != told["status"]:
            yield f"status {seen.status} instead of {told['status']}: {seen.body!r:.500}"
        if "reason" in told and seen.reason not in (None, told["reason"]):
            yield f"reason {seen.reason!r} instead of {told['reason']!r}"
        if seen.complete == bool(told.get("cut_off")):
            yield "the response is complete" if seen.complete else "the response is cut off"
        yield from _mismatches_fields(told, seen.fields)
        if "body" in told:
            yield from _mismatches_json(told["body"], seen.body, ordered=bool(told.get("ordered")))
        if "text" in told:
            yield from _mismatches_bytes(as_bytes(told["text"]), seen.body)
        if "error" in told:
            yield from self._mismatches_error(seen)
        if "stream" in told or "snapshots" in told:
            yield from self._mismatches_stream(seen)

    def _mismatches_error(self, seen: Seen) -> Iterator[str]:
        """Check that an error is the API's envelope, with no other keys, as JSON with a length."""
        told = self.told["error"]
        got = loads(seen.body)
        message = told.get("message")
        if message is None and isinstance(got, dict):
            message = got.get("error", {}).get("message")
        want = {"type": "error", "error": {"type": told["type"], "message": message}}
        yield from _mismatches_json(want, seen.body, ordered=True)
        for word in told.get("mentions", ()):
            if word not in str(message):
                yield f"the error's message does not mention {word!r}: {message!r}"
        framing = {"content-type": "application/json", "content-length": str(len(seen.body))}
        yield from _mismatches_fields({"headers": framing}, seen.fields)

    def _mismatches_stream(self, seen: Seen) -> Iterator[str]:
        """Check a stream for an old client: exact bytes, uncompressed, and without a length."""
        yield from _mismatches_bytes(self.stream, _timeless(seen.body))
        framing = {
            "headers": {"content-type": "text/event-stream; charset=utf-8"},
            "headers_missing": ["content-encoding", "content-length"],
        }
        yield from _mismatches_fields(framing, seen.fields)
        if seen.reason is not None and seen.values("transfer-encoding") != ["chunked"]:
            yield "the stream is not chunked"

    @property
    def stream(self) -> bytes:
        if "snapshots" in self.told:
            return b"".join(expanded(self.told["snapshots"]))
        text = str(self.told["stream"]).rstrip("\n") + "\n\n"
        return text.replace("\n", LINE_ENDS[self.told.get("line_end", "crlf")]).encode()


@dataclass(frozen=True)
class Asked:
    """One request as the upstream received it. Field names are in lower case."""

    method: str
    target: str
    fields: Sequence[tuple[str, str]]
    body: bytes


@dataclass
class Seen:
    """What the client received in one play. ``reason`` is None unless it was over sockets."""

    asked: list[Asked] = field(default_factory=list)
    status: int = 0
    reason: str | None = None
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def values(self, name: str) -> list[str]:
        return _values(self.fields, name)

    def mark(self, what: bytes) -> None:
        """Insert a mark at the current end of the body."""
        self.body += what


def expanded(told: Mapping[str, Any]) -> Iterator[bytes]:
    """The stream that a list of texts stands for: the seven keys in each event, then ``[DONE]``.

    The last event repeats the last text, unless the case says what it has instead.
    """
    texts = told["texts"]
    ends = {"completion": texts[-1] if texts else "", **told["ends"]}
    common = {"truncated": False, "log_id": told["log_id"], "model": told["model"]}
    for said in (*({"completion": text} for text in texts), ends):
        snapshot = {**common, **said}
        text = dumps({key: snapshot.get(key) for key in SEVEN})
        for char in "\x85\u2028\u2029":
            text = text.replace(char, f"\\u{ord(char):04x}")
        yield f"data: {text}\r\n\r\n".encode()
    yield b"data: [DONE]\r\n\r\n"


def dumps(value: Any) -> str:
    """Compact JSON, in the order of ``value``."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(text: bytes) -> Any:
    """The text parsed as JSON, or the text itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return f"not JSON: {text!r}"


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _check_keys(told: Any) -> None:
    _known("case", told)
    for required in ("about", "spec", "client_sends", "client_receives"):
        if not told.get(required):
            raise CaseError(f"{required}: must be there")
    if not re.match(r"https://[a-z.-]+/", told["spec"]):
        raise CaseError("spec: must be the public address of the rule")
    for side in ("route", "client_sends", "upstream_answers", "client_receives"):
        _known(side, told.get(side, {}))
    if told.get("upstream_receives") != "nothing":
        _known("upstream_receives", told.get("upstream_receives", {}))
    for section in ("snapshots", "error"):
        _known(section, told["client_receives"].get(section, {}))
    _known("ends", told["client_receives"].get("snapshots", {}).get("ends", {}))
    if unknown := set(told.get("plays", ())) - set(PLAYS):
        raise CaseError(f"plays: unknown {', '.join(unknown)}")
    if told.get("upstream_answers", {}).get("fails", FAILURES[0]) not in FAILURES:
        raise CaseError(f"fails: must be one of {', '.join(FAILURES)}")


def _known(section: str, told: Any) -> None:
    if not isinstance(told, dict):
        raise CaseError(f"{section}: must be keys and values")
    for key in told:
        if key not in KEYS[section].split():
            close = difflib.get_close_matches(str(key), KEYS[section].split(), 1)
            raise CaseError(f"{section}: unknown key {key!r}, did you mean {close}")


@cache
def _parsed(text: str, name: str) -> Config:
    """Cached, as cases are played many times, and most of them with the same configuration."""
    return config.parse(text, name, {})


def _some(told: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: told[name] for name in names if name in told}


def _pairs(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, told in fields.items() for value in _listed(told)]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _values(fields: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in fields if key.lower() == name.lower()]


# Streams of the upstream.


def _written(
    events: Sequence[Mapping[str, Any]], line_end: str, at_random: random.Random | None
) -> Iterator[bytes | float]:
    """Events as today's API writes them; at random with the padding that it has on most days."""
    for event in events:
        ((name, body),) = event.items()
        if name == "silence":
            yield float(body)
            continue
        data = dumps({"type": name, **body})
        if name == "ping":
            data = '{"type": "ping"}'
        elif at_random is not None:
            data = data[:-1] + " " * at_random.randrange(16) + "}"
        yield f"event: {name}{line_end}data: {data}{line_end}{line_end}".encode()


def _joined(pieces: Iterable[bytes | float]) -> Script:
    """Join the pieces between which there is no silence."""
    return [
        part
        for silence, group in groupby(pieces, key=lambda piece: isinstance(piece, float))
        for part in (group if silence else [b"".join(cast("Iterable[bytes]", group))])
    ]


def _cut(piece: bytes | float, play: str | None, at_random: random.Random | None) -> Script:
    if isinstance(piece, float) or not piece:
        return [piece] if piece else []
    if play == "drip":
        return [piece[at : at + 1] for at in range(len(piece))]
    if at_random is None or len(piece) < 2:
        return [piece]
    count = at_random.randrange(1, min(len(piece), 12))
    cuts = sorted(at_random.sample(range(1, len(piece)), count))
    return [piece[a:b] for a, b in zip([0, *cuts], [*cuts, len(piece)], strict=True)]


# Comparisons. Each yields what is otherwise, with both sides.


def _mismatches_request(told: Mapping[str, Any], asked: Asked) -> Iterator[str]:
    for key, got in (("method", asked.method), ("path", asked.target)):
        if key in told and told[key] != got:
            yield f"upstream got {key} {got!r} instead of {told[key]!r}"
    yield from (f"upstream got {what}" for what in _mismatches_fields(told, asked.fields))
    if "body" in told:
        yield from _mismatches_json(told["body"], asked.body, ordered=bool(told.get("ordered")))
    if "raw" in told:
        yield from _mismatches_bytes(as_bytes(told["raw"]), asked.body)


def _mismatches_fields(told: Mapping[str, Any], fields: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, value in told.get("headers", {}).items():
        if _values(fields, name) != _listed(value):
            yield f"field {name}: {_values(fields, name)} instead of {_listed(value)}"
    for name in told.get("headers_missing", ()):
        if _values(fields, name):
            yield f"field {name}: {_values(fields, name)}, which must not be there"


def _mismatches_json(want: Any, body: bytes, *, ordered: bool) -> Iterator[str]:
    """Compare JSON including types, and the seven keys of an old completion in their order, too."""
    got = loads(body)
    by_order = ordered or (isinstance(want, dict) and set(want) == set(SEVEN))
    texts = [
        json.dumps(value, ensure_ascii=False, indent=1, sort_keys=not by_order)
        for value in (want, got)
    ]
    if texts[0] != texts[1]:
        yield _diff(*(text.splitlines() for text in texts))


def _mismatches_bytes(want: bytes, got: bytes) -> Iterator[str]:
    if want != got:
        yield _diff(
            *([repr(line) for line in side.splitlines(keepends=True)] for side in (want, got))
        )


def _diff(want: Sequence[str], got: Sequence[str]) -> str:
    return "\n".join(difflib.unified_diff(want, got, "as the case says", "as it is", "", "", 9, ""))


def _timeless(body: bytes) -> bytes:
    """The stream with ``<time>`` in place of the time in each old ping."""
    return re.sub(rb"(?<=data: )\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}(?=\r\n)", b"<time>", body)


def _laws(seen: Seen, *, own: bool) -> Iterator[str]:
    """Check what must hold for every answer."""
    for name in ("content-type", "content-length", "date"):
        if len(values := seen.values(name)) > 1:
            yield f"field {name} stands there {len(values)} times: {values}"
    if not own and "1.1 anthropic-version-proxy" not in seen.values("via"):
        yield f"the response does not say which way it came: via {seen.values('via')}"
    if seen.reason == "":
        yield f"status {seen.status} has no reason phrase"
    on_the_wire = seen.reason is not None
    if on_the_wire and not seen.values("date"):  # the server's to say, as the framing is
        yield "the response has no date"
    framing = {"connection", "transfer-encoding"} if on_the_wire else set()
    for name in {"connection", "keep-alive", "proxy-authenticate", "te", "trailer"} - framing:
        if seen.values(name):
            yield f"field {name} ends at the proxy, but arrived"
