"""The frameworks of 2023, unmodified, which show pieces of text where an SDK shows completions.

LangChain stands upon an SDK. Vercel's ``ai`` reads the stream of a request that the program made;
from 2.1.34 on it takes an event that repeats a text for one that adds it, so only version
2023-06-01 is left to it: no form of the old one suits it and the SDKs both.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from genuine.old_clients import AIS, LANGCHAINS
from genuine.runs import Caller, RunOf, Way, caller, stream_ways, whole_ways
from genuine.scenarios import AFTER, SCENARIOS

pytestmark = pytest.mark.timeout(900)  # for an installation; a client has its own deadlines

OF_AI = stream_ways(AIS)
READS_JUNE = [way for way in OF_AI if way.method == "stream_of_june"]
DOUBLES = [way for way in OF_AI if way.client is AIS[1] and way not in READS_JUNE]
READS_JANUARY = [way for way in OF_AI if way.client is AIS[0]]

WHOLES = whole_ways(LANGCHAINS)
STREAMS = [*stream_ways(LANGCHAINS), *READS_JANUARY]
QUESTIONS = {name: SCENARIOS[name].ask for name in ("answer", "unicode")} | {
    "conversation": "Three?"
}


@pytest.fixture(params=WHOLES, ids=str)
def whole(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=STREAMS, ids=str)
def stream(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=[*WHOLES, *STREAMS], ids=str)
def any_caller(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=READS_JUNE, ids=str)
def june(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=[*WHOLES, *STREAMS, *READS_JUNE], ids=str)
def right(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


@pytest.fixture(params=DOUBLES, ids=str)
def doubling(run_of: RunOf, request: pytest.FixtureRequest) -> Caller:
    return caller(run_of, request.param)


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", QUESTIONS)
def test_the_answer_is_right(right: Caller, scenario: str) -> None:
    assert right.read(scenario) == opening(right.way) + f' "{QUESTIONS[scenario]}"' + AFTER


def test_an_answer_cut_off_is_as_long_as_was_asked_for(right: Caller) -> None:
    assert right.read("max_tokens") == opening(right.way) + ' "Say hello'


def test_an_answer_ends_before_a_stop_sequence(right: Caller) -> None:
    assert right.read("stop_sequences") == (
        opening(right.way) + ' "Say hello to 2023!" This is the '
    )


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["answer", "unicode", "conversation", "stop_sequences"])
def test_the_pieces_are_the_answer(stream: Caller, scenario: str) -> None:
    pieces = stream.saw(scenario).events
    assert len(pieces) > 3
    assert "".join(pieces) == stream.read(scenario)


def test_the_last_piece_is_shown_unless_the_framework_hides_it(stream: Caller) -> None:
    """LangChain.js shows no text of an event that has a stop reason; its result has all."""
    shown, text = "".join(stream.saw("max_tokens").events), stream.read("max_tokens")
    if stream.way.client.name.startswith("js-langchain") and stream.way.road == "native":
        assert shown + " hello" == text
    else:
        assert shown == text


@pytest.mark.parametrize("scenario", ["answer", "unicode", "error_mid", "cut"])
def test_only_the_last_piece_may_be_empty(stream: Caller, scenario: str) -> None:
    assert all(stream.saw(scenario).events[:-1])


def test_nothing_is_shown_piece_by_piece_unless_streamed(whole: Caller) -> None:
    assert whole.saw("answer").events == []


# --- failures -------------------------------------------------------------------------------------


def test_overload_is_told(any_caller: Caller) -> None:
    assert_refused(any_caller, "overloaded", "529 Overloaded", "overloaded_error", "Overloaded")


def test_an_unknown_model_is_told(any_caller: Caller) -> None:
    message = "model: claude-0"
    assert_refused(any_caller, "no_such_model", "404 Not Found", "not_found_error", message)


def test_half_an_answer_is_told_as_an_error(whole: Caller) -> None:
    upstream = {"native": "completions", "bridge": "anthropic"}[whole.way.road]
    message = f"upstream {upstream} broke off its answer"
    assert_refused(whole, "cut", "502 Bad Gateway", "api_error", message)


@pytest.mark.parametrize("scenario", ["error_mid", "cut"])
def test_a_stream_that_fails_ends_with_the_text_so_far(stream: Caller, scenario: str) -> None:
    assert stream.read(scenario) == "".join(stream.saw(scenario).events) == opening(stream.way)


# --- "ai" from 2.1.34 on --------------------------------------------------------------------------


def test_an_error_in_mid_stream_is_told_to_who_names_the_version_of_june(june: Caller) -> None:
    error = june.saw("error_mid").error
    assert error == {"type": "Error", "args": ["overloaded_error: Overloaded"]}


@pytest.mark.parametrize("scenario", QUESTIONS)
def test_who_does_not_name_it_gets_the_answer_twice(doubling: Caller, scenario: str) -> None:
    """The last event repeats the text, as it did in 2023; this is known, and cannot be helped."""
    answer = opening(doubling.way) + f' "{QUESTIONS[scenario]}"' + AFTER
    assert doubling.read(scenario) == answer + answer


# --- what clients say -----------------------------------------------------------------------------


def opening(way: Way) -> str:
    """How the sandbox begins; LangChain's LLM writes the beginning of the answer itself."""
    return " — you said:" if way.method.startswith("llm") else " Hello! You said:"


def assert_refused(caller: Caller, scenario: str, status: str, type_: str, message: str) -> None:
    """What is raised shows all that the SDK shows, or the body as it came."""
    seen = caller.saw(scenario)
    body: dict[str, Any] = {"type": "error", "error": {"type": type_, "message": message}}
    code = status.partition(" ")[0]
    assert seen.events == []
    assert seen.result is None
    assert seen.error is not None
    if caller.way.client.speaks_python:
        told = f"post request failed with status code: {code}"
        assert seen.error == {"type": "ApiException", "args": [told, body]}
    elif caller.way.client in AIS:
        (told,) = seen.error["args"]
        assert json.loads(told.removeprefix("Response error: ")) == body
    else:
        refused = "Failed to open sampling stream, HTTP status code " + status.replace(" ", ": ", 1)
        told = f"Sampling error: {status}" if caller.way.method == "chat" else refused
        assert seen.error["args"] == [told]
