"""The SDKs of early 2023, unmodified, go on working: on both roads, whole and streaming.

Every client jobs all of its scenarios in one process for each road; the tests look at what its
caller saw. Where a client cannot be installed its tests are skipped, but under ``CI=true`` they
fail. What a version did wrong with any server is one of its ``Quirks``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from genuine.old_clients import CLIENTS, SDKS
from genuine.runs import ROADS, Caller, Run, RunOf, Way, caller, stream_ways, whole_ways
from genuine.scenarios import AFTER, ANSWER, SCENARIOS, THREE_PIECES
from support import COMPLETION_KEYS

Json = dict[str, Any]

pytestmark = pytest.mark.timeout(900)  # for an installation; a client has its own deadlines

GOES_ON = {"stop": None, "stop_reason": None, "truncated": False, "exception": None}
"""What an event says that is not the last."""


WHOLES, STREAMS = whole_ways(SDKS), stream_ways(SDKS)


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=CLIENTS, ids=str)
def client_run(run_of: RunOf, request: pytest.FixtureRequest, road: str) -> Run:
    return run_of(request.param, road)


@pytest.fixture(params=WHOLES, ids=str)
def whole(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=STREAMS, ids=str)
def stream(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=WHOLES + STREAMS, ids=str)
def any_caller(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=[w for w in STREAMS if w.method not in w.client.quirks.reads_ahead], ids=str)
def early_stream(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=[way for way in STREAMS if not way.client.speaks_python], ids=str)
def js_stream(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


# --- the client's process -------------------------------------------------------------------------


def test_a_client_ends_by_itself(client_run: Run) -> None:
    """None waits for ever, and the JavaScript SDK has nothing left to post again."""
    assert client_run.report.ended, client_run.report.stderr


def test_a_client_asks_the_upstream_once_for_each_call(client_run: Run) -> None:
    assert len(client_run.asked) == client_run.jobs


def test_each_road_leads_where_it_says(client_run: Run, road: str) -> None:
    endpoint = {"native": "/v1/complete", "bridge": "/v1/messages"}[road]
    assert set(client_run.asked) == {endpoint}


def test_nothing_stays_open_behind_a_client(client_run: Run) -> None:
    """Not even where it left at the stop reason, or at the first event of a stream that hangs."""
    assert client_run.road.upstream.falls_idle()


# --- answers --------------------------------------------------------------------------------------


def test_the_answer_is_all_that_it_was_in_2023(any_caller: Caller) -> None:
    read = any_caller.read("answer")
    assert list(read) == COMPLETION_KEYS
    assert read["log_id"]
    assert read == {
        "completion": ANSWER,
        "stop": "\n\nHuman:",
        "stop_reason": "stop_sequence",
        "truncated": False,
        "log_id": read["log_id"],
        "model": "claude-v1",
        "exception": None,
    }


def test_the_answer_starts_with_one_blank(any_caller: Caller) -> None:
    text = any_caller.read("answer")["completion"]
    assert len(text) - len(text.lstrip()) == 1
    assert text[0] == " "


def test_unicode_arrives_as_it_was_sent(any_caller: Caller) -> None:
    said = f' Hello! You said: "{SCENARIOS["unicode"].ask}"'
    assert any_caller.read("unicode")["completion"] == said + AFTER


def test_the_last_turn_of_a_conversation_is_answered(any_caller: Caller) -> None:
    said = ' Hello! You said: "Three?"'
    assert any_caller.read("conversation")["completion"] == said + AFTER


def test_an_answer_cut_off_says_max_tokens(any_caller: Caller) -> None:
    read = any_caller.read("max_tokens")
    assert read["completion"] == ' Hello! You said: "Say hello'
    assert (read["stop_reason"], read["stop"]) == ("max_tokens", None)
    assert read["exception"] is None


def test_a_stop_sequence_ends_the_answer_and_is_told(any_caller: Caller) -> None:
    read = any_caller.read("stop_sequences")
    assert read["completion"] == ANSWER.partition("sandbox")[0]
    assert (read["stop_reason"], read["stop"]) == ("stop_sequence", "sandbox")


def test_parameters_of_then_do_no_harm(any_caller: Caller) -> None:
    assert any_caller.read("parameters_of_then")["completion"] == ANSWER


@pytest.mark.parametrize("scenario", ["url_slash", "url_v1", "url_v1_slash"])
def test_any_url_that_worked_then_works(any_caller: Caller, scenario: str) -> None:
    """Each SDK joins URLs its own way: ``//v1/complete``, ``/v1/v1/complete``."""
    assert any_caller.read(scenario)["completion"] == ANSWER


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario", ["answer", "unicode", "max_tokens", "stop_sequences", "error_mid", "cut", "linger"]
)
def test_each_event_repeats_the_text_and_adds_to_it(stream: Caller, scenario: str) -> None:
    """Only the last need not add anything."""
    texts = [event["completion"] for event in stream.stream(scenario)]
    assert len(texts) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert all(len(earlier) < len(later) for earlier, later in pairwise(texts[:-1]))


@pytest.mark.parametrize("scenario", ["answer", "max_tokens", "stop_sequences", "error_mid", "cut"])
def test_every_event_has_all_seven_keys(stream: Caller, scenario: str) -> None:
    events = stream.stream(scenario)
    assert events
    for event in events:
        assert list(event) == COMPLETION_KEYS
        assert (event["model"], event["log_id"]) == ("claude-v1", events[0]["log_id"])


@pytest.mark.parametrize("scenario", ["answer", "max_tokens", "stop_sequences", "error_mid", "cut"])
def test_only_the_last_event_says_how_it_ended(stream: Caller, scenario: str) -> None:
    *before, last = stream.stream(scenario)
    assert before
    assert all(event.items() >= GOES_ON.items() for event in before)
    assert last["stop_reason"] in ("stop_sequence", "max_tokens")


def test_a_stream_comes_to_the_same_as_a_whole_answer(stream: Caller) -> None:
    for scenario in ("answer", "unicode", "max_tokens", "stop_sequences"):
        streamed = stream.read(scenario)
        for method in stream.way.client.wholes:
            at_once = Caller(Way(stream.way.client, stream.way.road, method), stream.report)
            assert streamed | {"log_id": ""} == at_once.read(scenario) | {"log_id": ""}


def test_a_stream_ends_although_the_upstream_lingers(stream: Caller) -> None:
    assert stream.read("linger")["stop_reason"] == "stop_sequence"


def test_an_event_is_seen_before_the_next_one_exists(early_stream: Caller) -> None:
    """The upstream hangs after its first piece; a caller that saw it may leave."""
    seen = early_stream.saw("left")
    assert [event["completion"] for event in seen.events] == [" Hello!"]
    if early_stream.way.client.speaks_python:
        assert seen.error is None
    elif early_stream.way.client.quirks.leaves_by_signal:
        assert seen.error == {"type": "AbortError", "args": ["Caller aborted completeStream"]}
    else:
        assert seen.error == {"type": "Error", "args": ["left"]}


@pytest.mark.parametrize("scenario", ["answer", "max_tokens", "error_mid", "cut"])
def test_javascript_resolves_with_the_last_event(js_stream: Caller, scenario: str) -> None:
    """Up to 0.4.0 that is no update, and brings text only where the upstream ended with some."""
    seen, quirks = js_stream.saw(scenario), js_stream.way.client.quirks
    assert seen.opened == (None if quirks.hides_opening else 200)
    if not quirks.hides_last:
        assert seen.result == seen.events[-1]
    elif (js_stream.way.road, scenario) == ("native", "max_tokens"):
        assert seen.result["completion"] == seen.events[-1]["completion"] + " hello"
    else:
        assert seen.result["completion"] == seen.events[-1]["completion"]


# --- failures -------------------------------------------------------------------------------------


def test_overload_is_told_by_its_status(any_caller: Caller) -> None:
    assert_refused(any_caller, "overloaded", "529 Overloaded", "overloaded_error", "Overloaded")


def test_an_error_as_the_first_event_is_told_by_its_status(any_caller: Caller) -> None:
    assert_refused(any_caller, "error_first", "529 Overloaded", "overloaded_error", "Overloaded")


def test_a_rate_limit_is_told_by_its_status(any_caller: Caller) -> None:
    message = "This request would exceed the rate limit of the sandbox. Please try again later."
    assert_refused(any_caller, "rate_limit", "429 Too Many Requests", "rate_limit_error", message)


def test_a_missing_key_is_told_by_its_status(any_caller: Caller) -> None:
    message = "x-api-key header is required"
    assert_refused(any_caller, "unauthorized", "401 Unauthorized", "authentication_error", message)


def test_a_wrong_parameter_is_told_by_its_name(any_caller: Caller) -> None:
    message = "temperature: range: 0..1"
    assert_refused(any_caller, "invalid", "400 Bad Request", "invalid_request_error", message)


def test_an_unknown_model_is_told_by_its_name(any_caller: Caller) -> None:
    message = "model: claude-0"
    assert_refused(any_caller, "no_such_model", "404 Not Found", "not_found_error", message)


def test_a_page_of_a_gateway_is_told_as_an_error(any_caller: Caller) -> None:
    message = "upstream answered 502"
    assert_refused(any_caller, "html", "502 Bad Gateway", "api_error", message)


@pytest.mark.parametrize("scenario", ["cut", "eof", "nonsense"])
def test_half_an_answer_is_told_as_an_error(whole: Caller, scenario: str) -> None:
    assert_refused(whole, scenario, "502 Bad Gateway", "api_error")


def test_an_error_in_mid_stream_ends_it_with_the_text_so_far(stream: Caller) -> None:
    """No old client can be told of it by an exception, so it is told by ``exception``."""
    read = stream.read("error_mid")
    assert read["completion"] == THREE_PIECES
    assert (read["stop_reason"], read["stop"]) == ("max_tokens", None)
    assert read["exception"] == "overloaded_error: Overloaded"


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("cut", THREE_PIECES),
        ("eof", ' Hello! You said: "Go!"' + AFTER),
        ("nonsense", " Hello! You"),
    ],
)
def test_an_upstream_that_breaks_off_ends_a_stream_with_the_text_so_far(
    stream: Caller, scenario: str, text: str
) -> None:
    read = stream.read(scenario)
    assert read["completion"] == text
    assert (read["stop_reason"], read["stop"]) == ("max_tokens", None)
    assert read["exception"].startswith("api_error: upstream ")


def assert_refused(
    caller: Caller, scenario: str, status: str, type_: str, message: str | None = None
) -> None:
    """The SDK raises its own exception, which shows the HTTP status ("529 Overloaded").

    Python shows the code and the body of the error, in the keys of then; JavaScript shows the code
    and its phrase. The first Python ones show the body only, as if it were the answer.
    """
    seen, quirks = caller.saw(scenario), caller.way.client.quirks
    code, _, phrase = status.partition(" ")
    if quirks.returns_errors:
        assert seen.error is None
        assert seen.events == [seen.result]
        assert_told(seen.result, type_, message)
        return
    assert seen.events == []
    assert seen.result is None
    assert seen.error is not None
    if caller.way.method in quirks.dies_of_errors:
        assert seen.error["type"] == "AttributeError"
    elif caller.way.client.speaks_python:
        told, body = seen.error["args"]
        assert seen.error["type"] == "ApiException"
        assert told == f"post request failed with status code: {code}"
        assert_told(body, type_, message)
    elif caller.way.method == "complete":
        assert seen.error["args"] == [f"Sampling error: {code} {phrase}"]
    else:
        told = f"Failed to open sampling stream, HTTP status code {code}: {phrase}"
        assert seen.error["args"] == [told]


def assert_told(body: Json, type_: str, message: str | None) -> None:
    """An error in the keys of then."""
    assert body["error"].keys() == {"type", "message"}
    assert body == {
        "type": "error",
        "error": {"type": type_, "message": message or body["error"]["message"]},
    }
