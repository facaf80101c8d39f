"""Recordings: what an upstream once answered, as files, and the pieces in which it is served again.

A file is the body, byte for byte. What else the answer had follows from the name, and stands in
``NAME.meta.json`` beside it where that does not say it:

    path                       /v1/complete below a folder of that name, else /v1/messages
    method                     POST
    status                     the three digits that the name begins with, else 200
    response_headers           [[name, value], …]; content-type, if not there, is by the suffix
    content_encoding_on_wire   null; with "gzip" the file, though plain, is served packed

A file ``NAME.sse.gz`` is the packed bytes themselves.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Cut = Literal["whole", "events", "random", "broken"]
"""How a body arrives: in one piece, event by event, cut at random, or that without its end."""

TYPES = {
    ".sse": "text/event-stream; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-jsonl",
    ".txt": "text/plain",
    ".html": "text/html",
    ".csv": "text/csv",
}

_NOT_SERVED = (
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "transfer-encoding",
)
"""Fields that belong to the connection of then, or that are said anew."""

_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\Z)", re.DOTALL)
_FLUSHED = re.compile(rb".*?(?:\x00\x00\xff\xff|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer: ``plain`` is its body, ``wire`` the same as it crosses the wire."""

    name: str
    method: str
    path: str
    status: int
    fields: tuple[tuple[str, str], ...]
    plain: bytes
    wire: bytes

    def __str__(self) -> str:
        return self.name

    @property
    def endpoint(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    @property
    def query(self) -> str:
        """The query, with its question mark."""
        return self.path.removeprefix(self.endpoint)

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.value("content-type").startswith("text/event-stream")

    def value(self, name: str) -> str:
        """The value of a field, "" if it is not there."""
        return dict(self.fields).get(name, "")

    def pieces(self, cut: Cut) -> list[bytes]:
        """The body as it arrives; the cuts at random are the same in every run."""
        if cut == "whole":
            return [self.wire]
        if cut == "events":
            packed = self.value("content-encoding") == "gzip"
            return [piece for piece in (_FLUSHED if packed else _EVENT).findall(self.wire) if piece]
        return list(_anywhere(self.wire, random.Random(self.name)))  # noqa: S311


def recordings(folder: Path) -> Iterator[Recording]:
    """Every recording below ``folder``."""
    for file in sorted(folder.rglob("*")):
        body = file.with_suffix("") if file.suffix == ".gz" else file
        if body.suffix in TYPES and not file.name.endswith(".meta.json"):
            yield _read(file, TYPES[body.suffix], folder)


def _read(file: Path, content_type: str, folder: Path) -> Recording:
    about = file.with_suffix(".meta.json")
    meta: dict[str, Any] = json.loads(about.read_text()) if about.exists() else {}
    content = file.read_bytes()
    packed = file.suffix == ".gz" or meta.get("content_encoding_on_wire") == "gzip"
    plain = gzip.decompress(content) if file.suffix == ".gz" else content
    fields = [(name.lower(), value) for name, value in meta.get("response_headers") or ()]
    fields = [(name, value) for name, value in fields if name not in _NOT_SERVED]
    names = [name for name, _ in fields]
    if "content-type" not in names:
        fields.append(("content-type", content_type))
    if "request-id" not in names:
        fields.append(("request-id", "req_01Synthetic"))
    if packed:
        fields.append(("content-encoding", "gzip"))
    status = re.match(r"\d{3}(?=[-.])", file.name)
    complete = "complete" in file.relative_to(folder).parts
    return Recording(
        name=file.relative_to(folder).as_posix(),
        method=meta.get("method", "POST").upper(),
        path=meta.get("path", "/v1/complete" if complete else "/v1/messages"),
        status=meta.get("status", int(status[0]) if status else 200),
        fields=tuple(fields),
        plain=plain,
        wire=content if file.suffix == ".gz" else _packed(content) if packed else content,
    )


def _packed(plain: bytes) -> bytes:
    """As the API packs its streams: what is there after each event can be unpacked at once."""
    packer = zlib.compressobj(wbits=31)
    events = (
        packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in _EVENT.findall(plain)
    )
    return b"".join([*events, packer.flush()])


def _anywhere(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Pieces of any length; of a long body longer ones, or it would take all day."""
    longest = max(24, len(data) // 40)
    while data:
        length = chance.randint(1, longest)
        yield data[:length]
        data = data[length:]
