"""Plays every case in ``cases``, with its bytes split in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from inspect import isfunction
from pathlib import Path

import pytest

from conformance.case import CASES, KEYS, Case, CaseError, Seen, expanded
from conformance.play import Wire, play_in_process
from proxy.core import errors
from proxy.core.change import VersionChange
from proxy.versions import VERSIONS

FILES = sorted(CASES.rglob("*.yaml"))
HOOKS = [name for name, hook in vars(VersionChange).items() if isfunction(hook)]


@cache
def case_in(file: Path) -> Case:
    return Case.read(file)


def plays() -> Iterator[object]:
    """Each case in each of its plays; a case that cannot be read fails alone."""
    for file in FILES:
        name = file.relative_to(CASES).with_suffix("").as_posix()
        try:
            case = case_in(file)
        except Exception:  # noqa: BLE001  (whatever it is, the test tells it)
            yield pytest.param(file, "whole", id=name)
            continue
        gap = [pytest.mark.xfail(reason=case.gap, strict=True)] if case.gap else []
        for play in case.plays:
            yield pytest.param(file, play, id=f"{name}-{play}", marks=gap)


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    with Wire.up() as up:
        yield up


@pytest.mark.parametrize(("file", "play"), list(plays()))
def test_case(file: Path, play: str, request: pytest.FixtureRequest) -> None:
    case = case_in(file)
    if play == "wire":
        seen = request.getfixturevalue("wire").play(case)
    else:
        seen = play_in_process(case, play)
    if mismatches := list(case.mismatches(seen)):
        told = "\n\n".join((case.about, *mismatches, f"the rule: {case.told['spec']}"))
        pytest.fail(told, pytrace=False)


# That the folder is complete.


@pytest.fixture(scope="session")
def green() -> list[Case]:
    """The cases that are green as things are: only these can miss anything."""
    cases = map(case_in, FILES)
    return [case for case in cases if "whole" in case.plays and not red(case)]


def red(case: Case) -> bool:
    """Whether ``case`` fails when it is played whole."""
    try:
        return any(case.mismatches(play_in_process(case, "whole")))
    except Exception:  # noqa: BLE001  (a crash is red enough)
        return True


CHANGES: list[type[VersionChange]] = [
    change for version in VERSIONS for change in (*version.changes, *version.bridges)
]
STEPS = [(change, hook) for change in CHANGES for hook in HOOKS if hook in vars(change)]


@pytest.mark.parametrize(
    ("change", "hook"), STEPS, ids=[f"{change.__name__}.{hook}" for change, hook in STEPS]
)
def test_every_step_of_every_change_is_missed_by_a_case(
    change: type[VersionChange],
    hook: str,
    green: list[Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change, hook, getattr(VersionChange, hook))
    assert any(map(red, green))


def leaves(of: type[errors.ProxyError]) -> Iterator[type[errors.ProxyError]]:
    for error in of.__subclasses__():
        yield from leaves(error)
    if not of.__subclasses__():
        yield of


ELSEWHERE = {errors.RequestTimeout, errors.ForeignOrigin, errors.ForeignHost}
"""What no exchange of a case provokes, for it needs time, which is skipped here, or a configuration
of its own; see test_door."""


@pytest.mark.parametrize(
    "error",
    [error for error in leaves(errors.ProxyError) if error not in ELSEWHERE],
    ids=lambda error: str(error.__name__),
)
def test_every_error_is_provoked_by_a_case(error: type[errors.ProxyError]) -> None:
    received = [case_in(file).told["client_receives"] for file in FILES]
    told = {(side.get("status"), side["error"]["type"]) for side in received if "error" in side}
    assert (error.status, error.type) in told


# That the runner would tell.

CASE = """
about: A case.
spec: https://docs.anthropic.com/en/api/versioning
client_sends: {method: GET, path: /v1/models, version: 2023-06-01}
upstream_receives: {path: /v1/models}
upstream_answers: {text: "{}"}
client_receives: {status: 200, text: "{}"}
"""


def test_a_true_case_is_green() -> None:
    assert not red(Case.parse("a/case", CASE))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("status: 200", "status: 201"),
        ('200, text: "{}"', '200, text: "{ }"'),
        ("200, text", "200, headers: {x-a: b}, text"),
        ("200, text", "200, headers_missing: [via], text"),
        ("200, text", "200, cut_off: true, text"),
        ("{path: /v1/models}\nup", "{path: /v1/model}\nup"),
        ("{path: /v1/models}\nup", "{method: POST}\nup"),
        ("{path: /v1/models}\nup", "{headers: {anthropic-version: [a, b]}}\nup"),
        ("{path: /v1/models}\nup", "nothing\nup"),
    ],
)
def test_a_false_case_is_red(right: str, wrong: str) -> None:
    text = CASE.replace(right, wrong)
    assert text != CASE
    assert red(Case.parse("a/case", text))


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("upstream_receives", "upstream_recieves", "upstream_receives"),
        ("method: GET", "methode: GET", "method"),
        ("{status: 200", "{statsu: 200", "status"),
        ("{status: 200", "{snapshots: {text: x}, status: 200", "unknown key 'text'"),
        ("{status: 200", "{status: 200, status: 200", "twice"),
        ("about: A case.", "", "about"),
        ("spec: https://docs.anthropic.com/en/api/versioning", "spec: somewhere", "spec"),
        ('{text: "{}"}', "{fails: somehow}", "fails"),
        ("about", "plays: [hole]\nabout", "plays"),
    ],
)
def test_a_key_that_is_not_known_fails_its_case(right: str, wrong: str, told: str) -> None:
    text = CASE.replace(right, wrong)
    assert text != CASE
    with pytest.raises(CaseError, match=told):
        Case.parse("a/case", text)


def test_texts_stand_for_events_to_the_byte() -> None:
    told = {
        "texts": [" H", ' H"\u2028é'],
        "ends": {"stop_reason": "stop_sequence", "stop": "\n\nHuman:"},
        "model": "m",
        "log_id": "l",
    }
    rest = b'"truncated":false,"log_id":"l","model":"m","exception":null}\r\n\r\n'
    assert b"".join(expanded(told)) == b"".join(
        (
            b'data: {"completion":" H","stop":null,"stop_reason":null,' + rest,
            b'data: {"completion":" H\\"\\u2028\xc3\xa9","stop":null,"stop_reason":null,' + rest,
            b'data: {"completion":" H\\"\\u2028\xc3\xa9","stop":"\\n\\nHuman:",'
            b'"stop_reason":"stop_sequence",' + rest,
            b"data: [DONE]\r\n\r\n",
        )
    )


def test_a_cut_response_is_told_from_a_complete_one() -> None:
    case = Case.parse("a/case", CASE)
    seen = play_in_process(case, "whole")
    cut = Seen(seen.asked, seen.status, None, seen.fields, seen.body, complete=False)
    assert list(case.mismatches(cut)) == ["the response is cut off"]


def test_the_readme_lists_every_key() -> None:
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    keys = {key for section in KEYS.values() for key in section.split()}
    assert not [key for key in keys if f"`{key}`" not in readme]
