"""Arbitrary input, through every translation in both directions: at worst a ProxyError.

``PROXY_FUZZ=20000`` tries more than CI does.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.bridge.models import ModelTarget
from proxy.core.errors import ProxyError, RequestError, UpstreamBrokeOff, UpstreamError
from proxy.translation.translation import Options, Translation
from proxy.versions import dates
from proxy.versions.complete_through_messages import CompleteThroughMessages

MAP = [ModelTarget("claude-*", "claude-haiku-4-5")]

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e300,
    "",
    "a",
    "\ud800",
    "\u2028",
    [],
    {},
    [[]],
    {"type": None},
]
VALUES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)

WORDS: dict[str, list[Any]] = {
    "type": [
        "message",
        "text",
        "text_delta",
        "input_json_delta",
        "tool_use",
        "error",
        "completion",
    ],
    "role": ["user", "assistant"],
    "model": ["claude-v1", "claude-haiku-4-5"],
    "prompt": ["\n\nHuman: Hi\n\nAssistant:", "\n\nHuman:", "x\n\nHuman: a\n\nHuman: b"],
    "stop_reason": ["end_turn", "stop_sequence", "max_tokens", "refusal", "tool_use"],
    "stop_sequence": ["\n\nHuman:", "x"],
    "stop_sequences": [["\n\nHuman:"], [" "], ["x", ""]],
    "max_tokens_to_sample": [1, 9],
    "max_tokens": [1, 9],
    "stream": [True, False],
    "completion": [" Hi", " Hi there"],
    "text": ["Hi", "x\n\nHuman:"],
    "partial_json": ['{"a":', "1}"],
    "index": [0, 1],
    "temperature": [0.5, 2],
    "id": ["msg_1"],
}
"""What those keys hold that mean something, as a rule."""

PARTS = {
    "message": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
    "content_block": ["type", "text", "id", "name", "input", "citations"],
    "delta": ["type", "text", "partial_json", "stop_reason", "stop_sequence"],
    "error": ["type", "message"],
    "source": ["type", "citations"],
    "params": ["model", "messages", "max_tokens", "temperature", "top_k"],
}
"""What objects hold."""

LISTS = {
    "content": PARTS["content_block"],
    "system": PARTS["content_block"],
    "messages": ["role", "content"],
    "requests": ["custom_id", "params"],
}
"""What the objects in lists hold."""


def objects(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these keys, which hold what they should or anything else."""
    return st.fixed_dictionaries({}, optional={key: value_of(key) for key in keys})


def value_of(key: str) -> st.SearchStrategy[Any]:
    """What a key may hold."""
    if key in LISTS:
        return st.lists(objects(LISTS[key]) | VALUES, max_size=3) | VALUES
    if key in PARTS:
        return objects(PARTS[key]) | VALUES
    return st.sampled_from(WORDS[key]) | VALUES if key in WORDS else VALUES


CALLS = objects(
    [
        *(*WORDS, "messages", "system", "metadata", "tools", "thinking", "top_k", "top_p"),
        *("requests", "tags", "disable_checks", "tool_choice", "output_config"),
    ]
)
ANSWERS = objects([*WORDS, *PARTS, "content", "stop", "truncated", "exception", "log_id", "usage"])
NAMES = [
    *("completion", "message_start", "content_block_start", "content_block_delta", "ping"),
    *("content_block_stop", "message_delta", "message_stop", "error", "what", ""),
]
BYTES = st.binary(max_size=30) | st.sampled_from(
    [b"data: [DONE]\n\n", b"data\n\n", b":\n\n", b"\r", b"event: error\n", b"data: \xff\n\n"]
)


def written(body: object) -> bytes:
    return json.dumps(body).encode()


def event(name: str, body: object) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: %b\n\n" % written(body)


STREAMS = st.lists(st.builds(event, st.sampled_from(NAMES), ANSWERS) | BYTES, max_size=8)

ROADS = [
    (client, upstream, bridge, endpoint)
    for client, upstream, bridge, endpoint in product(
        dates(),
        dates(),
        (False, True),
        ("/v1/complete", "/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"),
    )
    if not bridge or (endpoint == "/v1/complete" and upstream != dates()[0])
]


Road = tuple[str, str, bool, str]
MANY = settings(max_examples=int(os.environ.get("PROXY_FUZZ", "200")))


def translation(road: Road) -> Translation:
    client, upstream, bridge, _ = road
    made = CompleteThroughMessages(MAP) if bridge else None
    return Translation(client, upstream, made, Options(event_limit=4096))


def begun(road: Road, call: dict[str, Any]) -> Translation:
    """A translation whose request was made, with another if this one is refused."""
    tried = translation(road)
    try:
        tried.request(road[3], written({**call, "stream": True}))
    except ProxyError:
        tried = translation(road)
        fine = {"model": "claude-v1", "max_tokens_to_sample": 9, "max_tokens": 9, "stream": True}
        fine |= {"prompt": "\n\nHuman: Hi\n\nAssistant:", "messages": []}
        tried.request(road[3], written(fine))
    return tried


@MANY
@given(
    road=st.sampled_from(ROADS),
    body=CALLS.map(written) | VALUES.map(written) | st.binary(max_size=40),
)
def test_any_request(road: Road, body: bytes) -> None:
    with suppress(RequestError):
        endpoint, sent = translation(road).request(road[3], body)
        assert endpoint.startswith("/v1/")
        assert isinstance(json.loads(sent), dict)


@MANY
@given(
    road=st.sampled_from(ROADS),
    call=CALLS,
    body=ANSWERS.map(written) | VALUES.map(written) | st.binary(max_size=40),
)
def test_any_answer(road: Road, call: dict[str, Any], body: bytes) -> None:
    made = begun(road, call)
    if made.answers:
        with suppress(UpstreamError):
            assert isinstance(json.loads(made.response(body)), dict)


@MANY
@given(
    road=st.sampled_from(ROADS),
    call=CALLS,
    stream=STREAMS,
    cuts=st.lists(st.integers(1, 40), max_size=4),
)
def test_any_stream(road: Road, call: dict[str, Any], stream: list[bytes], cuts: list[int]) -> None:
    asked = begun(road, call)
    if not asked.answers:
        return
    made = asked.stream()
    said = b"".join(stream)
    got: list[bytes] = []
    failed: ProxyError | None = None
    try:
        for cut in cuts:
            got += made.feed(said[:cut])
            said = said[cut:]
        got += made.feed(said)
    except ProxyError as error:
        failed = error
    got += made.finish(failed or UpstreamBrokeOff("cut"))
    assert made.ended
    assert not list(made.finish())
    if road[0] == dates()[0] and made.started:
        assert b"".join(got).endswith(b"data: [DONE]\r\n\r\n")
