"""The sandbox answers as today's API does, byte for byte where the API's bytes are known.

Over real sockets, except where only the ASGI interface can show that nothing is left open.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from proxy.sandbox import generating, sandbox, wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Message, Scope

Json = dict[str, Any]

HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
EVENT = re.compile(rb"event: (\w+)\ndata: (\{.*\})\n\n")
PADDING = re.compile(rb"[^ ] {0,15}\}$")
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
TOLD_BY = {"messages": "content_block_delta", "complete": "completion"}


@contextmanager
def serving(**switches: Any) -> Iterator[httpx.Client]:
    """A client of a sandbox on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        sandbox.build(**{"delay": 0.0} | switches), ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, headers=HEADERS, timeout=5) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
    assert not thread.is_alive(), "an exchange outlived its client"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving() as client:
        yield client


def message(said: str = "Hi", **changed: Any) -> Json:
    turns = [{"role": "user", "content": said}]
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": turns} | changed


def completion(said: str = "Hi", **changed: Any) -> Json:
    prompt = f"\n\nHuman: {said}\n\nAssistant:"
    return {"model": "claude-2.1", "max_tokens_to_sample": 100, "prompt": prompt} | changed


REQUESTS = {"messages": message, "complete": completion}
BOTH = pytest.mark.parametrize("endpoint", REQUESTS)


def post(client: httpx.Client, endpoint: str, said: str = "Hi", **changed: Any) -> httpx.Response:
    return client.post(f"/v1/{endpoint}", json=REQUESTS[endpoint](said, **changed))


def stream(client: httpx.Client, endpoint: str, said: str = "Hi", **changed: Any) -> list[Json]:
    return events(post(client, endpoint, said, stream=True, **changed))


def events(answer: httpx.Response) -> list[Json]:
    return [json.loads(data) for _, data in raw_events(answer.content)]


def raw_events(body: bytes) -> list[tuple[str, bytes]]:
    """Names and data; that nothing else was sent is checked on the way."""
    body = body.replace(b"\r\n", b"\n")
    found = EVENT.findall(body)
    assert body == b"".join(b"event: %b\ndata: %b\n\n" % event for event in found)
    return [(name.decode(), data) for name, data in found]


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert list(body) == ["type", "error", "request_id"]
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"]
    assert list(body["error"]) == ["type", "message"]
    return answer.status_code, body["error"]["type"], body["error"]["message"]


def texts(told: list[Json]) -> list[str]:
    """The pieces of text of either endpoint's stream."""
    deltas = [event["delta"]["text"] for event in told if event["type"] == "content_block_delta"]
    return deltas or [event["completion"] for event in told if event["type"] == "completion"]


# --- the wire of /v1/messages ---------------------------------------------------------------------


def test_a_message_stream_has_the_order_of_the_api(client: httpx.Client) -> None:
    names = [event["type"] for event in stream(client, "messages")]

    deltas = names.count("content_block_delta")
    assert 15 <= deltas <= 30
    assert names == [
        *("message_start", "content_block_start", "ping"),
        *["content_block_delta"] * deltas,
        *("content_block_stop", "message_delta", "message_stop"),
    ]


def test_message_events_are_named_by_their_type_with_lf_ends(client: httpx.Client) -> None:
    answer = post(client, "messages", stream=True)

    assert b"\r" not in answer.content
    assert all(name == json.loads(data)["type"] for name, data in raw_events(answer.content))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert re.fullmatch(r"req_01\w{22}", answer.headers["request-id"])


@BOTH
def test_events_are_padded_before_the_last_brace_and_pings_are_not(
    client: httpx.Client, endpoint: str
) -> None:
    body = post(client, endpoint, stream=True).content.replace(b"\r\n", b"\n")

    assert body.count(PING) == 1
    data = [data for name, data in raw_events(body) if name != "ping"]
    assert all(PADDING.search(line) for line in data)
    assert len({len(line) - len(re.sub(rb" *\}$", b"}", line)) for line in data}) > 5
    for line in data:
        compact = json.dumps(json.loads(line), ensure_ascii=False, separators=(",", ":"))
        assert re.sub(rb" *\}$", b"}", line) == compact.encode()


@BOTH
def test_the_same_request_gives_the_same_bytes(client: httpx.Client, endpoint: str) -> None:
    one, same, other = (post(client, endpoint, said, stream=True) for said in ("a", "a", "b"))

    assert one.content == same.content
    assert one.content != other.content


@BOTH
def test_text_is_raw_utf_8_with_characters_of_two_three_and_four_bytes(
    client: httpx.Client, endpoint: str
) -> None:
    for streamed in (True, False):
        body = post(client, endpoint, stream=streamed).content
        assert b"\\u" not in body
        assert all(character in body.decode() for character in ("é", "日本", "🙂"))


def test_a_message_has_the_keys_of_the_api_in_its_order(client: httpx.Client) -> None:
    answer = post(client, "messages")

    body = answer.json()
    assert list(body) == [
        *("model", "id", "type", "role", "content"),
        *("stop_reason", "stop_sequence", "stop_details", "usage"),
    ]
    assert body["model"] == "claude-haiku-4-5-20251001"
    assert re.fullmatch(r"msg_01\w{22}", body["id"])
    assert body["content"][0]["text"].startswith('Hello! You said: "Hi"')
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert answer.content == wire.compact(body)
    assert answer.headers["content-type"] == "application/json"


def test_a_message_is_the_same_streamed_or_whole(client: httpx.Client) -> None:
    whole = post(client, "messages").json()
    told = stream(client, "messages")

    assert list(told[0]["message"]) == list(whole)
    assert told[0]["message"]["content"] == []
    assert "".join(texts(told)) == whole["content"][0]["text"]
    ending = told[-2]
    assert ending["delta"]["stop_reason"] == whole["stop_reason"]
    assert ending["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == len(texts(told))


# --- the wire of /v1/complete ---------------------------------------------------------------------


def test_a_completion_stream_is_incremental_with_crlf_ends(client: httpx.Client) -> None:
    answer = post(client, "complete", stream=True)

    assert answer.content.count(b"\n") == answer.content.count(b"\r\n")
    told = events(answer)
    assert [event["type"] for event in told[:4]] == [
        "completion",
        "completion",
        "ping",
        "completion",
    ]
    assert {event["type"] for event in told[3:]} == {"completion"}
    assert texts(told)[:2] == [" Hello!", " You"]
    assert all(piece for piece in texts(told)[:-1])


def test_a_completion_has_the_keys_of_the_api_in_its_order(client: httpx.Client) -> None:
    keys = ["type", "id", "completion", "stop_reason", "model", "stop", "log_id"]
    body = post(client, "complete").json()
    told = [event for event in stream(client, "complete") if event["type"] == "completion"]

    assert list(body) == keys
    assert all(list(event) == keys for event in told)
    assert re.fullmatch(r"compl_01\w{22}", body["id"])
    assert body["log_id"] == body["id"]
    assert body["completion"] == "".join(texts(told))
    assert all(event["stop_reason"] is event["stop"] is None for event in told[:-1])


def test_a_completion_ends_with_an_empty_text_at_the_next_turn(client: httpx.Client) -> None:
    last = stream(client, "complete")[-1]

    assert last["completion"] == ""
    assert (last["stop_reason"], last["stop"]) == ("stop_sequence", "\n\nHuman:")


def test_a_completion_that_is_cut_off_ends_with_its_last_piece(client: httpx.Client) -> None:
    last = stream(client, "complete", max_tokens_to_sample=3)[-1]

    assert last["completion"] == " said:"
    assert (last["stop_reason"], last["stop"]) == ("max_tokens", None)


# --- what is answered -----------------------------------------------------------------------------


def test_max_tokens_counts_pieces(client: httpx.Client) -> None:
    told = stream(client, "messages", max_tokens=2)

    assert texts(told) == ["Hello!", " You"]
    assert told[-2]["delta"]["stop_reason"] == "max_tokens"
    assert told[-2]["usage"]["output_tokens"] == 2


@BOTH
def test_a_stop_sequence_ends_the_text_before_its_hit(client: httpx.Client, endpoint: str) -> None:
    body = post(client, endpoint, stop_sequences=["nowhere", "ou sa", "said"]).json()

    assert body["stop_reason"] == "stop_sequence"
    assert body.get("stop_sequence", body.get("stop")) == "ou sa"
    assert json.dumps(body).count("Hello! Y") == 1
    assert "said" not in json.dumps(body)


def test_a_stop_sequence_at_once_leaves_a_message_without_blocks(client: httpx.Client) -> None:
    names = [event["type"] for event in stream(client, "messages", stop_sequences=["Hello"])]

    assert names == ["message_start", "message_delta", "message_stop"]
    assert post(client, "messages", stop_sequences=["Hello"]).json()["content"] == []


def turns(*contents: Any) -> list[Json]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": said} for role, said in zip(roles, contents, strict=False)]


PREFILLED: dict[str, Json] = {
    "messages": {"messages": turns("Greet me", "Hello! You")},
    "complete": {"prompt": "\n\nHuman: Greet me\n\nAssistant: Hello! You"},
}


@BOTH
def test_an_answer_goes_on_from_a_prefill(client: httpx.Client, endpoint: str) -> None:
    text = "".join(texts(stream(client, endpoint, **PREFILLED[endpoint])))

    assert text.startswith(" — ")
    assert "Greet me" in text
    assert "Hello" not in text


def test_a_long_question_is_quoted_in_part(client: httpx.Client) -> None:
    text = "".join(texts(stream(client, "messages", "one two three four five six seven eight")))

    assert '"one two three four five six seven…"' in text


# --- the rules ------------------------------------------------------------------------------------


def test_a_key_is_needed_and_a_bearer_will_do(client: httpx.Client) -> None:
    del (bare := httpx.Headers(client.headers))["x-api-key"]
    ask = httpx.Request("POST", client.base_url.join("/v1/messages"), headers=bare, json=message())
    assert refused(client.send(ask)) == (
        401,
        "authentication_error",
        "x-api-key header is required",
    )

    ask.headers["authorization"] = "Bearer any"
    assert client.send(ask).status_code == 200


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ([], "anthropic-version: header is required"),
        (["2023-01-01"], 'anthropic-version: "2023-01-01" is not a valid version'),
        (["2024-10-22"], 'anthropic-version: "2024-10-22" is not a valid version'),
        (
            ["2023-06-01", "2023-06-01"],
            'anthropic-version: "2023-06-01, 2023-06-01" is not a valid version',
        ),
    ],
)
@BOTH
def test_one_version_of_today_is_needed(
    client: httpx.Client, endpoint: str, versions: list[str], message: str
) -> None:
    sent = [("x-api-key", "any"), *(("anthropic-version", version) for version in versions)]
    answer = httpx.post(
        client.base_url.join(f"/v1/{endpoint}"), headers=sent, json=REQUESTS[endpoint]()
    )

    assert refused(answer) == (400, "invalid_request_error", message)


def test_the_newest_version_knows_messages_but_neither_completions_nor_sampling(
    client: httpx.Client,
) -> None:
    newest = {"anthropic-version": "2026-10-21"}

    def ask(endpoint: str, **changed: Any) -> httpx.Response:
        return client.post(f"/v1/{endpoint}", headers=newest, json=REQUESTS[endpoint](**changed))

    assert ask("messages").status_code == 200
    assert refused(ask("messages", temperature=1))[2] == (
        "temperature: Extra inputs are not permitted"
    )
    assert refused(ask("complete"))[2] == ('anthropic-version: "2026-10-21" is not a valid version')


TOO_MANY = (
    "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens "
    "for claude-haiku-4-5-20251001"
)
ONE_OF_TWO = (
    "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
)
NO_PREFILL = (
    "This model does not support assistant message prefill. "
    "The conversation must end with a user message."
)
BLANK = "messages: text content blocks must contain non-whitespace text"
STOPS = "stop_sequences: each stop sequence must contain non-whitespace"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"foo": 1}, "foo: Extra inputs are not permitted"),
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 0}, "max_tokens: must be greater than or equal to 1"),
        (
            {"max_tokens": 64001},
            TOO_MANY,
        ),
        ({"model": 1}, "model: Input should be a valid string"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"temperature": None}, "temperature: Input should be a valid number"),
        ({"temperature": 1.1}, "temperature: range: 0..1"),
        ({"top_p": -1}, "top_p: range: 0..1"),
        (
            {"temperature": 1, "top_p": 1},
            ONE_OF_TWO,
        ),
        (
            {"model": "claude-opus-4-8", "temperature": 1},
            "`temperature` is deprecated for this model.",
        ),
        ({"stop_sequences": None}, "stop_sequences: Input should be a valid array"),
        ({"stop_sequences": ["x", 1]}, "stop_sequences.1: Input should be a valid string"),
        ({"stop_sequences": ["x", "\n\n"]}, STOPS),
        ({"stop_sequences": [""]}, STOPS),
        ({"metadata": {"foo": 1}}, "metadata.foo: Extra inputs are not permitted"),
        ({"system": " \n"}, "system: text content blocks must contain non-whitespace text"),
        ({"messages": "Hi"}, "messages: Input should be a valid array"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["Hi"]}, "messages.0: Input should be an object"),
        (
            {"messages": turns("Hi", "x", "")},
            "messages.2: user messages must have non-empty content",
        ),
        ({"messages": turns([])}, "messages.0: user messages must have non-empty content"),
        ({"messages": turns(" ")}, BLANK),
        ({"messages": turns([{"type": "text", "text": "\n"}])}, BLANK),
        (
            {"messages": turns([{"type": "text", "text": ""}])},
            "messages: text content blocks must be non-empty",
        ),
        (
            {"messages": turns("Hi", "So ")},
            "messages: final assistant content cannot end with trailing whitespace",
        ),
        (
            {"messages": turns("Hi", "So"), "model": "claude-opus-4-8"},
            NO_PREFILL,
        ),
        (
            {"messages": [{"role": "system", "content": "Hi"}]},
            "messages.0.role: Input should be 'user' or 'assistant'",
        ),
    ],
)
def test_messages_refuses(client: httpx.Client, changed: Json, message: str) -> None:
    assert refused(post(client, "messages", **changed)) == (400, "invalid_request_error", message)


@pytest.mark.parametrize("name", ["claude-1", "claude-instant-1.2", "claude-2.1", "claude-9"])
def test_messages_does_not_know_retired_models(client: httpx.Client, name: str) -> None:
    answer = post(client, "messages", model=name)

    assert refused(answer) == (404, "not_found_error", f"model: {name}")


MUST_START = 'prompt must start with "\n\nHuman:" turn after an optional system prompt'
MUST_END = 'prompt must end with "\n\nAssistant:" turn'


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tags": {}}, "tags: Extra inputs are not permitted"),
        ({"disable_checks": True}, "disable_checks: Extra inputs are not permitted"),
        ({"top_k": -1}, "top_k: must be greater than or equal to 0"),
        ({"top_p": -1}, "top_p: range: 0..1"),
        ({"stop_sequences": None}, "stop_sequences: Input should be a valid array"),
        ({"prompt": "Hi"}, MUST_START),
        ({"prompt": "\n\nAssistant: x\n\nHuman: Hi\n\nAssistant:"}, MUST_START),
        ({"prompt": "\n\nHuman: Hi"}, MUST_END),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant: x\n\nHuman: Hi"}, MUST_END),
        ({"prompt": "\n\nHuman: Hi\nAssistant:"}, MUST_END),
        (
            {"model": "claude-haiku-4-5"},
            '"claude-haiku-4-5" is not supported on this API. Please use the Messages API instead.',
        ),
    ],
)
def test_complete_refuses(client: httpx.Client, changed: Json, message: str) -> None:
    assert refused(post(client, "complete", **changed)) == (400, "invalid_request_error", message)


@pytest.mark.parametrize("name", ["claude-v1.3-100k", "claude-1", "claude-instant-v1", "claude-2"])
def test_complete_knows_only_the_models_of_its_time(client: httpx.Client, name: str) -> None:
    assert post(client, "complete", model=name).status_code == 200
    assert refused(post(client, "complete", model=f"x{name}"))[2] == f"model: x{name}"


def test_complete_takes_a_system_prompt_and_a_prompt_that_opens_with_human(
    client: httpx.Client,
) -> None:
    for prompt in ("Be kind.\n\nHuman: Hi\n\nAssistant: ", "Human: Hi\n\nAssistant:"):
        assert '"Hi"' in post(client, "complete", prompt=prompt).json()["completion"]


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_a_missing_field_is_named_before_anything_else(client: httpx.Client, missing: str) -> None:
    body = message(temperature=9, foo=1)
    del body[missing]

    assert refused(client.post("/v1/messages", json=body))[2] == f"{missing}: Field required"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"\\ud800"', b"\xff", b'{"model":NaN}'])
def test_a_body_must_be_a_json_object(client: httpx.Client, body: bytes) -> None:
    for endpoint in ("messages", "complete", "messages/count_tokens"):
        answer = client.post(f"/v1/{endpoint}", content=body)
        assert refused(answer)[:2] == (400, "invalid_request_error")


def test_a_body_is_as_large_as_the_api_takes_and_no_larger(client: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(33):
            yield bytes(1 << 20)

    answer = client.post("/v1/messages", content=parts())
    told = "Request exceeds the maximum size"
    assert refused(answer) == (413, "request_too_large", told)


@pytest.mark.parametrize("path", ["/", "/v1/messages/", "//v1/complete", "/v1/nothing"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.post(f"{client.base_url}".rstrip("/") + path)

    assert refused(answer) == (404, "not_found_error", "Not found")


def test_a_wrong_method_is_told_the_right_one(client: httpx.Client) -> None:
    answer = client.get("/v1/messages")

    assert refused(answer)[:2] == (405, "invalid_request_error")
    assert answer.headers["allow"] == "POST"


# --- the other endpoints --------------------------------------------------------------------------


def test_tokens_are_counted(client: httpx.Client) -> None:
    body = message("one two three", system="four")
    del body["max_tokens"]

    assert client.post("/v1/messages/count_tokens", json=body).json() == {"input_tokens": 4}


def test_models_are_listed_and_looked_up(client: httpx.Client) -> None:
    page = client.get("/v1/models").json()
    first = page["data"][0]

    assert list(page) == ["data", "has_more", "first_id", "last_id"]
    assert page["first_id"] == first["id"]
    assert client.get(f"/v1/models/{first['id']}").json() == first
    assert client.get("/v1/models/claude-haiku-4-5").json()["display_name"] == "Claude Haiku 4.5"
    assert refused(client.get("/v1/models/claude-2"))[2] == "model: claude-2"


# --- failures -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("streamed", [True, False])
def test_overloaded_and_rate_limited_are_refusals(
    client: httpx.Client, endpoint: str, *, streamed: bool
) -> None:
    overloaded = post(client, endpoint, "[sandbox:fail=overloaded]", stream=streamed)
    limited = post(client, endpoint, "[sandbox:fail=rate_limit]", stream=streamed)

    assert refused(overloaded) == (529, "overloaded_error", "Overloaded")
    assert refused(limited)[:2] == (429, "rate_limit_error")
    assert limited.headers["retry-after"] == "2"


@BOTH
def test_an_error_can_be_the_only_event(client: httpx.Client, endpoint: str) -> None:
    answer = post(client, endpoint, "[sandbox:fail=error_first]", stream=True)

    assert answer.status_code == 200
    assert [name for name, _ in raw_events(answer.content)] == ["error"]
    error = events(answer)[0]["error"]
    assert error == {"details": None, "type": "overloaded_error", "message": "Overloaded"}
    assert next(iter(error)) == "details"


@BOTH
def test_an_error_can_come_after_some_text(client: httpx.Client, endpoint: str) -> None:
    told = stream(client, endpoint, "[sandbox:fail=error_mid]")

    assert len(texts(told)) == 3
    assert told[-1]["type"] == "error"


@BOTH
@pytest.mark.parametrize("failure", ["error_first", "error_mid"])
def test_an_error_event_is_a_status_where_nothing_is_streamed(
    client: httpx.Client, endpoint: str, failure: str
) -> None:
    assert refused(post(client, endpoint, f"[sandbox:fail={failure}]"))[0] == 529


@BOTH
@pytest.mark.parametrize("streamed", [True, False])
def test_cut_breaks_the_connection_within_the_answer(
    client: httpx.Client, endpoint: str, *, streamed: bool
) -> None:
    body = REQUESTS[endpoint]("[sandbox:fail=cut]", stream=streamed)
    with client.stream("POST", f"/v1/{endpoint}", json=body) as answer:
        assert answer.status_code == 200
        arrived = answer.iter_raw()
        assert next(arrived)
        with pytest.raises(httpx.RemoteProtocolError):
            list(arrived)


@BOTH
def test_eof_ends_the_body_before_the_answer_ends(client: httpx.Client, endpoint: str) -> None:
    told = stream(client, endpoint, "[sandbox:fail=eof]")

    assert texts(told)[-1] == " arrives."
    assert not {"message_delta", "message_stop"} & {event["type"] for event in told}
    assert all(event.get("stop_reason") is None for event in told)
    with pytest.raises(json.JSONDecodeError):
        post(client, endpoint, "[sandbox:fail=eof]").json()


@BOTH
@pytest.mark.parametrize("streamed", [True, False])
def test_hang_sends_the_beginning_and_then_nothing(
    client: httpx.Client, endpoint: str, *, streamed: bool
) -> None:
    body = REQUESTS[endpoint]("[sandbox:fail=hang]", stream=streamed)
    with client.stream("POST", f"/v1/{endpoint}", json=body, timeout=0.2) as answer:
        arrived = answer.iter_raw()
        assert next(arrived)
        with pytest.raises(httpx.ReadTimeout):
            list(arrived)


def test_slow_head_sends_nothing_at_all(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/messages", json=message("[sandbox:fail=slow_head]"), timeout=0.2)


def test_html_comes_as_from_a_gateway(client: httpx.Client) -> None:
    answer = post(client, "messages", "[sandbox:fail=html]")

    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert "request-id" not in answer.headers


@BOTH
def test_nonsense_is_not_json(client: httpx.Client, endpoint: str) -> None:
    whole = post(client, endpoint, "[sandbox:fail=nonsense]")
    streamed = post(client, endpoint, "[sandbox:fail=nonsense]", stream=True)

    assert (whole.status_code, streamed.status_code) == (200, 200)
    assert whole.content == generating.NONSENSE
    assert f"event: {TOLD_BY[endpoint]}" in streamed.text
    assert f"data: {generating.NONSENSE.decode()}" in streamed.text


@BOTH
@pytest.mark.parametrize("failure", ["error_first", "error_mid", "eof"])
def test_a_failure_never_ends_well_even_where_the_answer_is_one_piece(
    client: httpx.Client, endpoint: str, failure: str
) -> None:
    limit = {"messages": "max_tokens", "complete": "max_tokens_to_sample"}[endpoint]
    marker = f"[sandbox:fail={failure}]"
    answer = post(client, endpoint, marker, **{"stream": True, limit: 1})

    assert b"message_stop" not in answer.content
    assert b'"stop_reason":"' not in answer.content


def test_a_marker_wins_over_the_switch() -> None:
    with serving(fail="overloaded", delay=60.0) as client:
        assert post(client, "messages").status_code == 529
        assert post(client, "messages", "[sandbox:fail=html]").status_code == 502
        marked = post(client, "messages", "[sandbox:delay=0] [sandbox:fail=error_mid]", stream=True)
        assert events(marked)[-1]["type"] == "error"


def test_markers_that_never_end_take_no_time(client: httpx.Client) -> None:
    assert post(client, "messages", "[sandbox:fail=" * 10_000).status_code == 200


@pytest.mark.parametrize(
    "marker", ["fail=fire", "delay=long", "delay=-1", "delay=inf", "delay=nan"]
)
def test_a_marker_that_means_nothing_is_refused(client: httpx.Client, marker: str) -> None:
    assert refused(post(client, "messages", f"[sandbox:{marker}]"))[0] == 400


def test_a_switch_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot fail by 'fire'"):
        sandbox.build(fail="fire")


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marker", ["delay=3600", "fail=hang", "fail=slow_head", "delay=3600] [sandbox:fail=cut"]
)
@pytest.mark.parametrize("streamed", [True, False])
def test_nothing_is_left_when_the_client_leaves(marker: str, *, streamed: bool) -> None:
    body = json.dumps(message(f"[sandbox:{marker}]", stream=streamed)).encode()
    arriving: list[Message] = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
    sent = iter(arriving)
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/messages",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    }

    async def receive() -> Message:
        return next(sent)

    async def send(_message: Message) -> None:
        pass

    async def exchange() -> list[asyncio.Task[Any]]:
        await asyncio.wait_for(sandbox.build()(scope, receive, send), timeout=5)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(exchange()) == []


@pytest.mark.parametrize(
    ("role", "block", "told"),
    [
        ("assistant", {"type": "document", "source": {}}, "document blocks are not taken"),
        ("user", {"type": "text", "text": "Hi", "citations": [{}]}, "Extra inputs are not"),
    ],
)
def test_the_newest_version_refuses_what_the_one_before_took(
    client: httpx.Client, role: str, block: Json, told: str
) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": role, "content": [block, {"type": "text", "text": "there"}]},
        {"role": "user", "content": "Go on"},
    ]
    body = message(messages=turns)
    before = client.post("/v1/messages", json=body)
    assert before.status_code == 200
    since = client.post("/v1/messages", json=body, headers={"anthropic-version": "2026-10-21"})
    assert refused(since)[:2] == (400, "invalid_request_error")
    assert told in refused(since)[2]
