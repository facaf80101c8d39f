"""The SDKs of today and of early 2023, unmodified, against upstreams of every version.

All goes over real sockets. Each upstream speaks one version and refuses any other; each call
has a key of its own, by which the upstream tells what came of it. Where an SDK cannot be installed
its tests are skipped, but under ``CI=true`` they fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import httpx
import pytest

from matrix import stand_ins
from matrix.cells import (
    CELLS,
    COUNT,
    LOST_CELLS,
    MODEL,
    MODELS,
    OLD_CELLS,
    OLD_MODEL,
    SIDE_CELLS,
    Cell,
    jobs,
)
from matrix.sdks import Report, Sdk, Seen, run
from matrix.stand_ins import KEYS, NEWEST, OpenRoad, Received, Road
from packages.installed import Installed, parameters

Json = dict[str, Any]

pytestmark = pytest.mark.timeout(900)  # for an installation; an SDK has its own deadlines

AFTER = (
    " This is the sandbox: no key, no model, not even a café."
    " 日本 and 🙂 show that every byte arrives."
)
ANSWER = 'Hello! You said: "Say hello to 2026!"' + AFTER
TOKENS_IN, TOKENS_OUT = 4, 27
OVERLOADED = (529, "overloaded_error")
LIMITED = (429, "rate_limit_error")
INVALID = (400, "invalid_request_error")
STRANGER = (401, "authentication_error")
THREE_PIECES = "Hello! You said:"
FIVE_PIECES = 'Hello! You said: "Say hello'


@dataclass(frozen=True, slots=True)
class Results:
    """All that happened: every SDK that is asked about has done its jobs on every road."""

    open_roads: dict[Road, OpenRoad]
    reports: dict[Sdk, Report]


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that makes one call of its SDK on one road."""

    cell: Cell
    results: Results

    def saw(self, scenario: str = "answer") -> Seen:
        """What the program saw."""
        report = self.results.reports[self.cell.sdk]
        key = self.cell.key(scenario)
        assert key in report.seen, f"nothing came of it:\n{report.stderr}"
        return report.seen[key]

    def read(self, scenario: str = "answer") -> Seen:
        """What a program saw that nothing was thrown at."""
        seen = self.saw(scenario)
        assert seen.error is None
        return seen

    def arrived(self, scenario: str = "answer") -> list[Received]:
        """What of it the upstream got."""
        return self.results.open_roads[self.cell.road].received[self.cell.key(scenario)]

    def text(self, text: str) -> str:
        """A text as this endpoint gives it: a completion starts with a blank."""
        return " " + text if self.cell.completes else text


@pytest.fixture(scope="session")
def results(installed: Installed, request: pytest.FixtureRequest) -> Iterator[Results]:
    asked = {cell.sdk for cell in parameters(request.session.items) if isinstance(cell, Cell)}
    there = [sdk for sdk in asked if not any(map(installed.trouble, sdk.places))]
    with stand_ins.opened() as open_roads:
        yield Results(open_roads, run({sdk: jobs(sdk, open_roads) for sdk in there}))


CallerOf = Callable[[Cell], Caller]


@pytest.fixture
def caller_of(results: Results, installed: Installed) -> CallerOf:
    def caller(cell: Cell) -> Caller:
        installed.require(cell.places)
        return Caller(cell, results)

    return caller


@pytest.fixture(params=CELLS, ids=str)
def caller(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


@pytest.fixture(params=[cell for cell in CELLS if cell.streams], ids=str)
def stream(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


@pytest.fixture(params=[cell for cell in CELLS if not cell.streams], ids=str)
def whole(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


@pytest.fixture(params=[cell for cell in CELLS if cell.sdk.sampling], ids=str)
def sampling(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


# --- answers --------------------------------------------------------------------------------------


def test_the_answer_is_what_the_upstream_said(caller: Caller) -> None:
    read = caller.read()
    assert read.text == caller.text(ANSWER)
    if caller.cell.completes:
        assert (read.stop_reason, read.stop) == ("stop_sequence", "\n\nHuman:")
        assert read.model == OLD_MODEL
    else:
        assert (read.stop_reason, read.stop) == ("end_turn", None)
        assert read.model == MODEL


def test_a_message_tells_what_it_cost(caller: Caller) -> None:
    assert caller.read().usage == ([] if caller.cell.completes else [TOKENS_IN, TOKENS_OUT])


def test_a_stop_sequence_ends_the_answer_and_is_told(caller: Caller) -> None:
    read = caller.read("stop_sequences")
    assert read.text == caller.text(ANSWER.partition("sandbox")[0])
    assert (read.stop_reason, read.stop) == ("stop_sequence", "sandbox")


def test_an_answer_cut_off_says_max_tokens(caller: Caller) -> None:
    read = caller.read("max_tokens")
    assert read.text == caller.text(FIVE_PIECES)
    assert (read.stop_reason, read.stop) == ("max_tokens", None)


def test_a_stream_brings_the_text_in_increments(stream: Caller) -> None:
    """As many as the upstream has: none waits for another, none repeats what was there before."""
    read = stream.read()
    assert "".join(read.pieces) == read.text
    assert len([piece for piece in read.pieces if piece]) == TOKENS_OUT


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.call.endswith("create+stream")], ids=str
)
def test_a_stream_has_the_events_of_its_endpoint(caller_of: CallerOf, cell: Cell) -> None:
    kinds = [kind for kind, _ in groupby(caller_of(cell).read().events)]
    if cell.completes:
        assert kinds == ["completion"]
    else:
        assert kinds == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


# --- what the upstream receives -------------------------------------------------------------------


def test_the_upstream_is_asked_once_in_its_own_version(caller: Caller) -> None:
    [arrived] = caller.arrived()
    assert arrived.versions == [caller.cell.road.version]
    asks_complete = caller.cell.completes and not caller.cell.road.bridge
    assert arrived.path == ("/v1/complete" if asks_complete else "/v1/messages")


def test_the_key_arrives_once_in_the_form_that_the_upstream_reads(caller: Caller) -> None:
    cell = caller.cell
    [arrived] = caller.arrived()
    if cell.sdk.sends == "x-api-key" or cell.road.credentials == "x-api-key":
        assert arrived.credentials == {"x-api-key": [cell.key("answer")]}
    else:
        assert arrived.credentials == {"authorization": [f"Bearer {cell.key('answer')}"]}


def test_the_answer_says_between_which_versions_it_was_translated(caller: Caller) -> None:
    client, upstream = caller.cell.sdk.version, caller.cell.road.version
    headers = caller.read().headers
    if client == upstream and not caller.cell.translated:
        assert "x-proxy-version" not in headers
    else:
        assert headers["x-proxy-version"] == f"{client}, upstream={upstream}"


def test_the_answer_of_another_model_names_it(caller: Caller) -> None:
    """The body names the one that was asked for."""
    over_the_bridge = caller.cell.completes and caller.cell.road.bridge
    assert caller.read().headers.get("x-proxy-model") == (MODEL if over_the_bridge else None)


def test_a_temperature_is_left_out_where_it_is_gone_and_named(sampling: Caller) -> None:
    read = sampling.read("temperature")
    assert read.text == sampling.text(ANSWER)
    [arrived] = sampling.arrived("temperature")
    assert arrived.body is not None
    if sampling.cell.road is NEWEST:
        assert "temperature" not in arrived.body
        assert read.headers["x-proxy-dropped"] == "temperature"
    else:
        assert arrived.body["temperature"] == 0.5
        assert "x-proxy-dropped" not in read.headers


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.road is NEWEST and not cell.sdk.sampling], ids=str
)
def test_a_program_of_today_is_told_what_is_gone(caller_of: CallerOf, cell: Cell) -> None:
    """It speaks the upstream's version: nothing is mended for it."""
    error = caller_of(cell).saw("gone").error
    assert error is not None
    assert error["type"] == "BadRequestError"
    assert "temperature: Extra inputs are not permitted" in error["message"]


# --- calls without text ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [cell for cell in SIDE_CELLS if cell.call == COUNT], ids=str)
def test_tokens_are_counted(caller_of: CallerOf, cell: Cell) -> None:
    caller = caller_of(cell)
    assert caller.read().usage == [TOKENS_IN, None]
    [arrived] = caller.arrived()
    assert (arrived.path, arrived.versions) == ("/v1/messages/count_tokens", [cell.road.version])


@pytest.mark.parametrize("cell", [cell for cell in SIDE_CELLS if cell.call == MODELS], ids=str)
def test_what_needs_no_translation_passes_as_it_is(caller_of: CallerOf, cell: Cell) -> None:
    """Byte for byte what the upstream says to someone who asks it without a proxy."""
    caller = caller_of(cell)
    read = caller.read()
    headers = {"x-api-key": f"{KEYS}directly", "anthropic-version": cell.road.version}
    upstream = caller.results.open_roads[cell.road].upstream
    direct = httpx.get(f"{upstream}/v1/models", headers=headers, trust_env=False)
    assert direct.status_code == 200
    assert read.text == direct.text
    assert read.headers["request-id"] == direct.headers["request-id"]
    [arrived] = caller.arrived()
    assert (arrived.path, arrived.versions) == ("/v1/models", [cell.road.version])


# --- failures -------------------------------------------------------------------------------------


def test_overload_is_the_exception_for_529(caller: Caller) -> None:
    assert_raised(caller, "overloaded", caller.cell.sdk.raises.overloaded, OVERLOADED, "Overloaded")


def test_a_rate_limit_is_the_exception_for_429(caller: Caller) -> None:
    assert_raised(caller, "rate_limit", "RateLimitError", LIMITED, "exceed")


def test_a_wrong_parameter_is_the_exception_for_400(caller: Caller) -> None:
    """It is named as the program called it."""
    name = "max_tokens_to_sample" if caller.cell.completes else "max_tokens"
    assert_raised(caller, "invalid", "BadRequestError", INVALID, f"{name}: ")


def test_a_wrong_key_is_the_exception_for_401(caller: Caller) -> None:
    assert_raised(caller, "unauthorized", "AuthenticationError", STRANGER, "invalid x-api-key")


def test_an_error_in_mid_stream_is_an_exception_after_the_text_so_far(stream: Caller) -> None:
    seen = stream.saw("error_mid")
    assert "".join(seen.pieces) == stream.text(THREE_PIECES)
    assert seen.stop_reason is None
    assert seen.error is not None
    assert seen.error["type"] == stream.cell.sdk.raises.broken
    assert seen.error["body"]["error"]["type"] == "overloaded_error"
    assert seen.error["body"]["error"]["message"] == "Overloaded"


def test_an_answer_that_fails_in_the_middle_is_the_exception_for_529(whole: Caller) -> None:
    assert_raised(whole, "error_mid", whole.cell.sdk.raises.overloaded, OVERLOADED, "Overloaded")


def test_an_sdk_that_tries_again_gets_its_answer(caller: Caller) -> None:
    """And how long it is to wait before, or this test would take long."""
    read = caller.read("again")
    assert read.text is not None
    assert read.text.startswith(caller.text(THREE_PIECES))
    assert len(caller.arrived("again")) == 2


@pytest.mark.parametrize("cell", LOST_CELLS, ids=str)
def test_messages_of_a_service_that_has_none_are_a_bad_request(
    caller_of: CallerOf, cell: Cell
) -> None:
    """Not a lost path, which would send people looking. A Bearer it does not even read."""
    caller = caller_of(cell)
    if cell.sdk.sends == "bearer":
        assert_raised(caller, "answer", "AuthenticationError", STRANGER, "invalid x-api-key")
    else:
        assert_raised(caller, "answer", "BadRequestError", INVALID, "has completions only")


def assert_raised(
    caller: Caller, scenario: str, raised: str, error: tuple[int, str], words: str
) -> None:
    """The SDK raises its own exception for the status, with the upstream's own words."""
    status, type_ = error
    seen = caller.saw(scenario).error
    assert seen is not None
    assert (seen["type"], seen["status"]) == (raised, status)
    assert seen["body"]["type"] == "error"
    assert seen["body"]["error"]["type"] == type_
    assert words in seen["body"]["error"]["message"]
    assert caller.saw(scenario).pieces == []
    assert len(caller.arrived(scenario)) <= 1  # nothing was tried again


# --- the SDKs of early 2023 -----------------------------------------------------------------------


@pytest.fixture(params=OLD_CELLS, ids=str)
def old(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


@pytest.fixture(params=[cell for cell in OLD_CELLS if cell.streams], ids=str)
def old_stream(caller_of: CallerOf, request: pytest.FixtureRequest) -> Caller:
    return caller_of(request.param)


def test_an_old_program_gets_the_answer_of_any_upstream(old: Caller) -> None:
    """Whatever it sends along: each upstream is asked only for what it takes."""
    for scenario in ("answer", "of_2023"):
        read = old.read(scenario)
        assert read.text == old.text(ANSWER)
        assert (read.stop_reason, read.stop) == ("stop_sequence", "\n\nHuman:")
        assert (read.model, read.exception) == (OLD_MODEL, None)


def test_each_upstream_is_asked_once_in_its_own_version_for_an_old_program(old: Caller) -> None:
    for scenario in ("answer", "of_2023"):
        [arrived] = old.arrived(scenario)
        assert arrived.versions == [old.cell.road.version]
        assert arrived.path == ("/v1/messages" if old.cell.road.bridge else "/v1/complete")
        assert arrived.credentials == {"x-api-key": [old.cell.key(scenario)]}


def test_an_old_temperature_arrives_unless_it_is_gone(old: Caller) -> None:
    [arrived] = old.arrived("of_2023")
    assert arrived.body is not None
    assert ("temperature" in arrived.body) == (old.cell.road is not NEWEST)


def test_an_old_stream_repeats_the_text_so_far(old_stream: Caller) -> None:
    pieces = old_stream.read().pieces
    assert len(pieces) >= TOKENS_OUT - 1  # JavaScript's last is the answer itself
    assert all(later.startswith(earlier) for earlier, later in pairwise(pieces))


def test_an_old_stream_that_fails_ends_with_the_text_so_far(old_stream: Caller) -> None:
    read = old_stream.read("error_mid")
    assert read.text == old_stream.text(THREE_PIECES)
    assert (read.stop_reason, read.stop) == ("max_tokens", None)
    assert read.exception == "overloaded_error: Overloaded"


def test_an_old_program_is_told_of_overload_by_the_status(old: Caller) -> None:
    seen = old.saw("overloaded")
    assert seen.text is None
    assert seen.error is not None
    assert "529" in seen.error["message"]
