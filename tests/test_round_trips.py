"""Translated to the oldest version and back, an answer is what the upstream sent.

So nothing that one direction of a change loses can be made up by the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import STATUS_OF_TYPE, ProxyError, UpstreamBrokeOff, UpstreamRefused
from proxy.core.sse import Decoder
from proxy.translation.stream import StreamTranslation
from proxy.translation.translation import Options, Translation

Json = dict[str, Any]

OLD, NEW = "2023-01-01", "2023-06-01"

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NAME = st.text("abc_", min_size=1, max_size=8)
CUT = st.integers(1, 60)
USAGE = st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), st.integers(0, 99))
ERRORS = st.tuples(st.sampled_from(sorted(STATUS_OF_TYPE)), TEXT.filter(bool))
INPUTS = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-9, 9) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


# What the upstream says, and what it amounts to.


@dataclass(frozen=True)
class Block:
    """A content block as it is whole, as it begins, and the deltas between."""

    whole: Json
    began: Json
    deltas: Sequence[Json] = ()


@st.composite
def texts(draw: st.DrawFn) -> Block:
    """Text in pieces, with citations anywhere between them."""
    began = {"type": "text", "text": draw(TEXT)}
    deltas: list[Json] = []
    whole: Json = dict(began)
    for piece in draw(st.lists(TEXT | st.integers(0, 9), max_size=5)):
        if isinstance(piece, str):
            deltas.append({"type": "text_delta", "text": piece})
            whole["text"] += piece
        else:
            citation = {"type": "char_location", "cited_text": "a", "start_char_index": piece}
            deltas.append({"type": "citations_delta", "citation": citation})
            whole["citations"] = [*whole.get("citations", ()), citation]
    return Block(whole, began, deltas)


@st.composite
def thoughts(draw: st.DrawFn) -> Block:
    """Thinking in pieces, then its signature; of some models the signature is all."""
    pieces = draw(st.lists(TEXT, max_size=4))
    signature = draw(TEXT)
    began = {"type": "thinking", "thinking": "", "signature": ""}
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    deltas.append({"type": "signature_delta", "signature": signature})
    return Block({**began, "thinking": "".join(pieces), "signature": signature}, began, deltas)


@st.composite
def tools(draw: st.DrawFn) -> Block:
    """The call of a tool, its input cut anywhere."""
    given_input = draw(INPUTS)
    began = {"type": "tool_use", "id": "toolu_1", "name": draw(NAME), "input": {}}
    cut = draw(st.integers(1, 20))
    deltas = [
        {"type": "input_json_delta", "partial_json": part}
        for part in ("", *pieces_of(json.dumps(given_input), cut))
        if given_input or not part
    ]
    return Block({**began, "input": given_input}, began, deltas)


WHOLE = (
    {"type": "redacted_thinking", "data": "zzz"},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "https://e.org"}]},
    {"type": "hologram", "depth": 3},
)
BLOCKS = st.lists(
    texts() | thoughts() | tools() | st.sampled_from([Block(each, each) for each in WHOLE]),
    max_size=4,
)


def pieces_of(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def named(name: str, body: Json) -> bytes:
    """One event as upstreams write it."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **body})}\n\n".encode()


def completion(text: str, reason: str | None = None, stop: str | None = None) -> Json:
    said = {"type": "completion", "id": "compl_1", "completion": text}
    return {**said, "stop_reason": reason, "model": "claude-2", "stop": stop, "log_id": "compl_1"}


def beginning(usage: Json) -> list[bytes]:
    """The first event of a Message, from which all others go on."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "x", "content": []}
    ends = {"stop_reason": None, "stop_sequence": None}
    return [named("message_start", {"message": {**message, **ends, "usage": usage}})]


def block_events(blocks: Iterable[Block]) -> list[bytes]:
    """The events of content blocks."""
    events = []
    for index, block in enumerate(blocks):
        start = {"index": index, "content_block": block.began}
        events.append(named("content_block_start", start))
        events += [
            named("content_block_delta", {"index": index, "delta": delta}) for delta in block.deltas
        ]
        events.append(named("content_block_stop", {"index": index}))
    return events


def ending(reason: str, sequence: str | None, usage: Json) -> list[bytes]:
    """The last events of a Message that is whole."""
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return [named("message_delta", {"delta": delta, "usage": usage}), named("message_stop", {})]


# The way down and up again.


@dataclass
class Got:
    """What a client of 2023-06-01 has in the end, by the official rules."""

    message: Json = field(default_factory=dict)
    content: list[Json] = field(default_factory=list)
    text: str = ""
    completion: Json = field(default_factory=dict)
    error: tuple[str, str] | None = None
    stopped: bool = False


def there_and_back(
    endpoint: str, stream: bytes, cut: int, *, newest_only: bool = False, broken: bool = False
) -> Got:
    """What is left of ``stream`` after both ways, its bytes cut alike on each.

    ``broken`` is a connection that breaks where the stream ends.
    """
    older = translation(OLD, NEW, endpoint, newest_only=newest_only).stream()
    newer = translation(NEW, OLD, endpoint).stream()
    broke = UpstreamBrokeOff("upstream api broke off its answer") if broken else None
    try:
        return read(played(newer, played(older, stream, cut, broke), cut))
    except UpstreamRefused as refused:
        return Got(error=(refused.type, refused.message))


def translation(
    client: str, upstream: str, endpoint: str, *, stream: bool = True, newest_only: bool = False
) -> Translation:
    """A translation whose client has made its request."""
    made = Translation(client, upstream, None, Options(newest_only=newest_only))
    made.request(endpoint, json.dumps({"stream": stream}).encode())
    return made


def played(
    made: StreamTranslation, stream: bytes, cut: int, broke: ProxyError | None = None
) -> bytes:
    chunks = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    fed = b"".join(piece for chunk in chunks for piece in made.feed(chunk))
    return fed + b"".join(made.finish(broke))


def both_ways(endpoint: str, body: Json) -> Json:
    """What is left of a body that is not streamed."""
    older = translation(OLD, NEW, endpoint, stream=False)
    newer = translation(NEW, OLD, endpoint, stream=False)
    back: Json = json.loads(newer.response(older.response(json.dumps(body).encode())))
    return back


def read(stream: bytes) -> Got:
    """Put an answer together as the official SDKs do; nothing may follow its end."""
    got = Got()
    inputs: dict[int, str] = {}  # which may be whole before their block ends, or without it
    for name, data in Decoder().feed(stream):
        assert got.error is None
        assert not got.stopped
        body = json.loads(data)
        assert body["type"] == name
        match name:
            case "completion":
                got.text += body["completion"]
                got.completion = body
                got.stopped = body["stop_reason"] is not None
            case "error":
                got.error = (body["error"]["type"], body["error"]["message"])
            case "message_start":
                got.message = body["message"]
                got.content = got.message["content"]
            case "content_block_start":
                assert body["index"] == len(got.content)
                got.content.append(body["content_block"])
            case "content_block_delta":
                grow(got.content[body["index"]], body["delta"], body["index"], inputs)
            case "message_delta":
                got.message |= body["delta"]
                got.message["usage"] = got.message.get("usage", {}) | body["usage"]
            case "message_stop":
                got.stopped = True
            case _:
                assert name == "content_block_stop"
    for index, text in inputs.items():
        got.content[index]["input"] = json.loads(text or "{}")
    return got


def grow(block: Json, delta: Json, index: int, inputs: dict[int, str]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            inputs[index] = inputs.get(index, "") + delta["partial_json"]
        case "compaction_delta":
            block |= {name: value for name, value in delta.items() if name != "type"}
        case _:
            pytest.fail(f"a delta of no known type: {delta}")


# Completions.

STOPS = st.sampled_from(
    [("stop_sequence", "\n\nHuman:"), ("stop_sequence", None), ("max_tokens", None)]
)


@given(st.lists(TEXT, max_size=8), TEXT, STOPS, CUT, st.booleans())
def test_a_streamed_completion_comes_back(
    pieces: list[str], rest: str, stop: tuple[str, str | None], cut: int, newest_only: bool
) -> None:
    events = [*map(completion, pieces), completion(rest, *stop)]
    stream = b"".join(named("completion", event) for event in events)
    got = there_and_back("/v1/complete", stream, cut, newest_only=newest_only)
    assert (got.error, got.stopped) == (None, True)
    assert got.text == "".join(pieces) + rest
    assert got.completion | {"completion": rest} == events[-1]


@given(TEXT, STOPS)
def test_a_completion_that_is_not_streamed_comes_back(
    text: str, stop: tuple[str, str | None]
) -> None:
    body = completion(text, *stop)
    assert both_ways("/v1/complete", body) == body


@given(st.lists(TEXT, min_size=1, max_size=8), ERRORS, CUT, st.booleans())
def test_a_completion_that_fails_still_fails(
    pieces: list[str], error: tuple[str, str], cut: int, newest_only: bool
) -> None:
    events = [named("completion", completion(piece)) for piece in pieces]
    failure = named("error", {"error": {"type": error[0], "message": error[1]}})
    stream = b"".join((*events, failure))
    got = there_and_back("/v1/complete", stream, cut, newest_only=newest_only)
    assert (got.error, got.stopped) == (error, False)
    assert got.text == "".join(pieces)


@given(st.lists(TEXT, min_size=1, max_size=8), CUT, st.booleans())
def test_a_completion_without_an_end_still_has_none(
    pieces: list[str], cut: int, broken: bool
) -> None:
    stream = b"".join(named("completion", completion(piece)) for piece in pieces)
    got = there_and_back("/v1/complete", stream, cut, broken=broken)
    how = "api broke off" if broken else "stopped before the end of"
    assert (got.error, got.stopped) == (("api_error", f"upstream {how} its answer"), False)
    assert got.text == "".join(pieces)


# Messages.

REASONS = st.sampled_from(
    [("end_turn", None), ("stop_sequence", "END"), ("tool_use", None), ("of the future", None)]
)


@given(BLOCKS, REASONS, st.tuples(USAGE, USAGE), CUT, st.booleans())
def test_a_streamed_message_comes_back(
    blocks: list[Block],
    reason: tuple[str, str | None],
    usage: tuple[Json, Json],
    cut: int,
    newest_only: bool,
) -> None:
    first, last = usage
    stream = b"".join((*beginning(first), *block_events(blocks), *ending(*reason, last)))
    got = there_and_back("/v1/messages", stream, cut, newest_only=newest_only)
    assert (got.error, got.stopped) == (None, True)
    assert got.content == [block.whole for block in blocks]
    assert (got.message["stop_reason"], got.message["stop_sequence"]) == reason
    assert got.message["usage"] == first | last
    assert (got.message["id"], got.message["role"], got.message["model"]) == (
        "msg_1",
        "assistant",
        "x",
    )


@given(BLOCKS, REASONS, USAGE)
def test_a_message_that_is_not_streamed_comes_back(
    blocks: list[Block], reason: tuple[str, str | None], usage: Json
) -> None:
    content = [block.whole for block in blocks]
    stopped = {"stop_reason": reason[0], "stop_sequence": reason[1], "usage": usage}
    body = {"id": "msg_1", "type": "message", "role": "assistant", "content": content, **stopped}
    assert both_ways("/v1/messages", body) == body


@given(BLOCKS, ERRORS, CUT, st.booleans())
def test_a_message_that_fails_still_fails(
    blocks: list[Block], error: tuple[str, str], cut: int, newest_only: bool
) -> None:
    failure = named("error", {"error": {"type": error[0], "message": error[1]}})
    stream = b"".join((*beginning({}), *block_events(blocks), failure))
    got = there_and_back("/v1/messages", stream, cut, newest_only=newest_only)
    assert (got.error, got.stopped) == (error, False)
    assert got.content == [block.whole for block in blocks]


@given(BLOCKS, CUT, st.booleans())
def test_a_message_without_an_end_still_has_none(
    blocks: list[Block], cut: int, broken: bool
) -> None:
    stream = b"".join((*beginning({}), *block_events(blocks)))
    got = there_and_back("/v1/messages", stream, cut, broken=broken)
    how = "api broke off" if broken else "stopped before the end of"
    assert (got.error, got.stopped) == (("api_error", f"upstream {how} its answer"), False)
    assert got.content == [block.whole for block in blocks]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(Block(whole, began, deltas), id=name)
        for name, whole, began, deltas in (
            (
                "no citations yet",
                {"type": "text", "text": "A", "citations": []},
                {"type": "text", "text": "", "citations": []},
                [{"type": "text_delta", "text": "A"}],
            ),
            (
                "citations that are null",
                {"type": "text", "text": "A", "citations": None},
                {"type": "text", "text": "", "citations": None},
                [{"type": "text_delta", "text": "A"}],
            ),
            (
                "compaction",
                {"type": "compaction", "content": "So far", "encrypted_content": "zz"},
                {"type": "compaction", "content": None},
                [{"type": "compaction_delta", "content": "So far", "encrypted_content": "zz"}],
            ),
            (
                "integer of more than 64 bits",
                {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 2**70}},
                {"type": "tool_use", "id": "t", "name": "n", "input": {}},
                [{"type": "input_json_delta", "partial_json": f'{{"a":{2**70}}}'}],
            ),
        )
    ],
)
def test_what_a_block_may_also_be_comes_back(block: Block) -> None:
    stream = b"".join((*beginning({}), *block_events([block]), *ending("end_turn", None, {})))
    got = there_and_back("/v1/messages", stream, 1 << 20)
    assert got.content == [block.whole]


def test_a_surrogate_pair_that_was_cut_in_two_comes_back() -> None:
    said = [completion("HIGH"), completion("LOW"), completion("", "max_tokens")]
    stream = b"".join(named("completion", event) for event in said)
    stream = stream.replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude42")
    got = there_and_back("/v1/complete", stream, 1 << 20)
    assert got.error is None
    assert got.text.encode("utf-16", "surrogatepass").decode("utf-16") == "🙂"
