"""No path leads out of the route and upstream it matches, in whatever way servers read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.config import parse
from proxy.core.errors import NoRoute
from proxy.exchange.resemblance import beginnings
from proxy.exchange.routing import Routes

ROUTES = Routes(
    parse(
        """
upstreams: {api: {base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"]}}
routes:
  - {path: "/files/{name}.json", upstream: api, upstream_path: "/inner/{name}/content"}
  - {path: "/public/{rest:path}", upstream: api, upstream_path: "/public/{rest}"}
  - {path: "/{rest:path}", upstream: api}
""",
        "proxy.yaml",
        {},
    ).routes
)
BASE = "/base/api"
SLASHES = ("/", "/", "/", "//", "%2f", "%5C", "\\")
SEGMENTS = (
    "..",
    "..",
    "..;x",
    "%2e.",
    "%2E%3bx",
    ";x",
    ".",
    "%2E",
    "a",
    "-",
    "public",
    "files",
    "...json",
)
MEANT = {"%2f": "/", "%5c": "/", "%2e": ".", "%3b": ";", "\\": "/"}
PATHS = st.lists(
    st.tuples(st.sampled_from(SLASHES), st.sampled_from(SEGMENTS)).map("".join), max_size=6
).map(lambda parts: "/" + "".join(parts).lstrip("/"))


def resolved(path: str) -> str:
    """``path`` without segments of dots, by RFC 3986 §5.2.4."""
    while re.search(r"/\.(/|$)", path):
        path = re.sub(r"/\.(/|$)", "/", path)
    while re.search(r"/\.\.(/|$)", path):
        path = re.sub(r"(^|/[^/]*)/\.\.(/|$)", "/", path, count=1)
    return path


def readings(path: str) -> Iterator[str]:
    """What servers may take ``path`` for: each decodes, merges and resolves in its own way."""
    for *decoded, cut, merged in product([False, True], repeat=7):
        read = path
        for (spelling, meant), so in zip(MEANT.items(), decoded, strict=True):
            read = re.sub(re.escape(spelling), meant, read, flags=re.IGNORECASE) if so else read
        read = re.sub(";[^/]*", "", read) if cut else read
        yield resolved(re.sub("/+", "/", read) if merged else read)


@example("/public/./../a")
@given(PATHS)
def test_no_reading_of_a_path_leads_elsewhere(path: str) -> None:
    try:
        match = ROUTES.find("GET", path)
    except NoRoute:
        return
    configured = BASE + (match.route.upstream_path or "/").partition("{")[0]
    for reading in readings(BASE + match.path):
        assert reading.startswith(configured)
    meant = resolved(re.sub("%2e", ".", path, flags=re.IGNORECASE))
    assert ROUTES.find("GET", meant).route is match.route
    assert path.startswith("/-/") or not meant.startswith("/-/")


@pytest.mark.parametrize("path", ["/public/.", "/public/a/..", "/public/a/../b"])
def test_dots_that_lead_nowhere_else_stay_as_they_are(path: str) -> None:
    assert ROUTES.find("GET", path).path == path


@pytest.mark.parametrize(
    "path",
    [
        "/%252e%252e/a",
        "/..%252fa",
        "/..%255ca",
        "/..%3fa",
        "/..%23",
        "/%u002e./a",
        "/..%253b/a",
        "/%25252e./a",
    ],
)
def test_no_dots_lead_out_that_are_encoded_twice_or_end_in_a_query(path: str) -> None:
    with pytest.raises(NoRoute):
        ROUTES.find("GET", path)


SPLIT = Routes(
    parse(
        """
upstreams:
  own: {base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"]}
  keyed: {base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"], credentials: {bearer: ours}}
routes:
  - {path: "/v1/models/{name}", upstream: own}
  - {path: "/v1/complete", methods: [POST], upstream: own}
  - {path: "/v1/organizations/{rest:path}", upstream: own}
  - {path: "/v1/B%C3%BCcher/{a}%3A{b}%3B", upstream: own}
  - {path: "/v1/b%C3%BCcher/a", upstream: own}
  - {path: "/v1/one/{name}", methods: [GET], upstream: own}
  - {path: "/v1/{name}", upstream: keyed, methods: [POST]}
  - {path: "/{rest:path}", upstream: keyed}
""",
        "proxy.yaml",
        {},
    ).routes
)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%6frganizations/keys",
        "/v1/%6Frganizations/%ff",
        "/v1/organizations%2Fkeys",
        "/%761/complete",
        "//v1/%63omplete",
        "/v1/files/%2e%2e/%6frganizations/keys",
        "/v1/%6frganizations/keys%0a",
        "/v1/%6dodels/a%2fb",
        "/v1/%6dodels/a%2Fb",
        "/v1/b%c3%bccher/a",
        "/v1/%62%C3%BCcher/a",
        "/v1/B%c3%bccher/1:2;",
        "/%2fv1/organizations/keys",
        "/v1//organizations/keys",
        "/v1/organizations;x/keys",
        "/v1/organizations%3bx/keys",
        "/v1/organizations%5ckeys",
        "/v1%2fcomplete;a%2fb",
        "/v1/organizations\\keys",
        "/v1/%256frganizations/keys",
        "/v1/%25256frganizations/keys",
        "/v1/%U006frganizations/keys",
        "/v1%ff/organizations/keys",
        "/v1/Organizations/keys",
        "/v1/%4frganizations/keys",
        "/v1/organ%C4%B0zations/keys",
        "/v1/Models/a\\b",
        "/v1/Complete",
        "/v1/complete/",
        "/v1/complete%20",
        "/v1/complete.json",
        "/v1/models/",
        "/v1/complete;/x",
        "/v1/complete%3b/x",
        "/v1/complete%3f/x",
        "/v1/complete%23/x",
        "//host/v1/complete",
        "///host/v1/organizations/keys",
        "/\\host/v1/organizations/keys",
        "/v1/files/%252e%252e/organizations/keys",
        "/v1%2fmodels/a%252fb",
        "/v1%2fmodels/a%5cb",
        "/v1%2fmodels/a%u002fb",
        "/v1%2fmodels/%u0061%u002fb%%36b",
        "/v1%5cmodels/a%2fb",
        "/v1\\models/a%5cb",
        "/v1/%6dodels/a%25%32%66b",
        "/v1/%6dodels/a%2%66b",
        "/v1/%6dodels/a%EF%BC%8Fb",
        "/v1/%6dodels/%E2%84%80",
        "/v1;x/models/%3bx",
        "/v1;x/models/a;b%3fc/d",
        "/v1/organ%C4%B1zations/keys",
        "/v1/b%C3%BCcher/c",
        "/v1/100%",
        "/v1/complete%00/x",
        "/v1/complete.%0a",
        "/v1/%6dodels/a%0ab",
        "/v1%c0%aforganizations/keys",
        "/v1///organizations/keys",
        "//host//v1/organizations/keys",
    ],
)
def test_no_spelling_of_a_path_slips_past_its_route(path: str) -> None:
    with pytest.raises(NoRoute):
        SPLIT.find("POST", path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/a%2Fb",
        "/v1/models/%61",
        "/v1/organizations/a%20%2f%6f",
        "/v1/%66iles/a%2fb",
        "/v1/files",
        "/v1/files/100%256f%",
        "/v1/files/b%C3%BCcher/c%20.txt",
        "/v1/files/a;v=1/b//c\\d",
        "/v1/my%20files/a/b%2fc",
        "/v1/complete/a",
        "/v1/models/a/b",
        "/v1/models.json/a/b",
        "/v1/completed",
        "/v1/Organizations",
    ],
)
def test_what_is_encoded_within_a_route_stays_as_it_is(path: str) -> None:
    assert SPLIT.find("POST", path).path == path


def test_routes_that_differ_by_capitals_are_kept_apart_whatever_they_call_a_parameter() -> None:
    routes = behind("/v1/keys/{name}", "/v1/Keys/{id}")
    assert routes.find("GET", "/v1/Keys/a").path == "/v1/Keys/a"


def test_a_path_that_a_later_route_names_to_the_letter_slips_past_none() -> None:
    routes = behind("/v1/keys/{name}", "/v1/Keys/a%2fb")
    assert routes.find("GET", "/v1/Keys/a%2fb").path == "/v1/Keys/a%2fb"


def test_routes_that_differ_only_to_strict_servers_are_kept_apart() -> None:
    routes = with_methods(
        ("/v1/files", None),
        ("/v1/files/", None),
        ("/v1/files.json", None),
        ("/v1/a/{name}", None),
        ("/v1/A/{name}", None),
        ("/{rest:path}", None),
    )
    for path in ("/v1/files/", "/v1/files.json", "/v1/A/b"):
        assert routes.find("GET", path).path == path


def test_one_upstream_has_no_route_that_a_path_could_avoid() -> None:
    """It is asked with the same key, and takes the path for what it does without the proxy."""
    routes = with_methods(("/v1/complete", "POST"), ("/{rest:path}", None))
    for path in ("/v1/%63omplete", "/V1/complete", "/v1/complete;x", "/v1//complete/"):
        assert routes.find("POST", path).path == path


def test_no_spelling_of_a_path_slips_past_what_a_route_makes_of_it() -> None:
    routes = Routes(
        parse(
            """
upstreams: {api: {base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"]}}
routes:
  - {path: "/v1/secret/{name}", upstream: api, upstream_path: "/v1/none/{name}"}
  - {path: "/{rest:path}", upstream: api}
""",
            "proxy.yaml",
            {},
        ).routes
    )
    with pytest.raises(NoRoute):
        routes.find("GET", "/v1/%73ecret/a")
    assert routes.find("GET", "/v1/secre/a").path == "/v1/secre/a"


def test_an_earlier_route_for_other_methods_is_none_that_a_path_avoids() -> None:
    with pytest.raises(NoRoute):
        SPLIT.find("GET", "/v1/%6fne/a")
    assert SPLIT.find("POST", "/v1/%6fne/a").path == "/v1/%6fne/a"


@pytest.mark.parametrize("name", ["{name}.json", "{a}-{b}.json"])
def test_a_suffix_behind_a_parameter_tells_paths_apart(name: str) -> None:
    routes = behind(f"/v1/{name}")
    for like in (
        "x-1.jsonx.json%20",
        "x-1.JSON",
        "x-1.json.gz/",
        "x-1.json/",
        "x-1.json.a-b",
        "-.JSON",
    ):
        with pytest.raises(NoRoute):
            routes.find("GET", f"/v1/{like}")
    for path in ("/v1/x-1.jsonx", "/v1/x-1.js%20on", "/v1/x-1.json/a", f"/v1/x{'.jsonx' * 9_000}"):
        assert routes.find("GET", path).path == path


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/files", "/v1/files/"), ("/v1/files/", "/v1/files"), ("/v1/files/{name}", "/v1/files/")],
)
def test_a_slash_at_the_end_tells_no_paths_apart(path: str, asked: str) -> None:
    with pytest.raises(NoRoute):
        behind(path).find("GET", asked)


@pytest.mark.parametrize("path", ["/v1/files{rest:path}", "/v1/{name}s{rest:path}"])
def test_a_rest_that_begins_within_a_segment_is_told_apart_by_what_stands_before(path: str) -> None:
    routes = behind(path)
    for other in ("/v1/complete", "/v1/batch/a", "/v1", "/v1/"):
        assert routes.find("GET", other).path == other
    for like in ("/v1/fileS", "/v1/file%53/a", "/V1/files-a", "/v1%2ffiles", "/v1//files/a"):
        with pytest.raises(NoRoute):
            routes.find("GET", like)


@pytest.mark.parametrize(
    ("path", "read", "other"),
    [
        ("/v1/models/meta%2Fllama", "/v1/models/meta/llama", "/v1/models/meta"),
        ("/v1/models/meta%5cllama", "/v1/models/meta/llama", "/v1/models/llama"),
        ("/v1//models", "/v1/models", "/models"),
        ("/v1/{name}%2fkeys", "/v1/a/keys", "/v1/a/key"),
        ("/v1/a;b", "/v1/a", "/v1/b"),
        ("/v1/a%3Fb", "/v1/a", "/v1/b"),
        ("/v1/a%2562", "/v1/ab", "/v1/b"),
        ("/v1/a%3Bb", "/v1/a", "/v1/b"),
        ("/v1/a%23b", "/v1/a", "/v1/b"),
        ("/v1/a\\b", "/v1/a/b", "/v1/b"),
        ("/v1/%41.b", "/v1/a.b", "/v1/acb"),
        ("/v1/{name}/keys", "/v1//keys", "/v1/keys"),
    ],
)
def test_what_is_encoded_in_a_route_may_be_read_otherwise(path: str, read: str, other: str) -> None:
    routes = behind(path)
    assert routes.find("GET", path.replace("{name}", "a")).route.upstream == "own"
    assert routes.find("GET", other).route.upstream == "keyed"
    with pytest.raises(NoRoute):
        routes.find("GET", read)


@pytest.mark.parametrize(
    "path", ["//v1/messages", "/v1//messages", "///v1//messages//a", "//", "//host", "//host//"]
)
def test_doubled_slashes_pass_that_avoid_no_route(path: str) -> None:
    routes = behind("/v1/organizations/{rest:path}")
    assert routes.find("GET", path).path == path


def test_no_more_of_a_path_is_read_than_tells_routes_apart() -> None:
    """All of it, in all readings, took a quarter of a second for 64 KB."""
    path = f"//{'%41/' * 16_000}"
    assert {len(known) for known, _ in beginnings(path, 4)} == {3}
    routes = behind("/v1/organizations")
    for other in (path, "/v1/organizations/a/b"):
        assert routes.find("GET", other).path == other


def behind(path: str, later: str = "/{rest:path}") -> Routes:
    """A route, and behind it another to another upstream, which may take all that is left."""
    return Routes(
        parse(
            f"""
upstreams:
  own: {{base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"]}}
  keyed: {{base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"], credentials: {{bearer: ours}}}}
routes:
  - {{path: '{path}', upstream: own}}
  - {{path: '{later}', upstream: keyed}}
""",
            "proxy.yaml",
            {},
        ).routes
    )


def with_methods(*routes: tuple[str, str | None]) -> Routes:
    lines = [
        f"  - {{path: '{path}', upstream: api{f', methods: [{method}]' if method else ''}}}"
        for path, method in routes
    ]
    upstream = 'upstreams: {api: {base_url: "http://127.0.0.1:9", speaks: ["2023-06-01"]}}'
    return Routes(parse("\n".join((upstream, "routes:", *lines)), "proxy.yaml", {}).routes)


@pytest.mark.parametrize("path", ["//v1/complete", "/v1/v1/complete", "///v1//v1/complete"])
@pytest.mark.parametrize("before", ["/complete", "/{name}"])
def test_what_sdks_of_2023_join_is_the_plain_path_by_any_route(path: str, before: str) -> None:
    routes = with_methods((before, None), ("/{rest:path}", None))
    assert routes.find("POST", path).path == "/v1/complete"


def test_a_route_may_name_to_the_letter_what_sdks_of_2023_join() -> None:
    routes = with_methods(("/v1/complete", None), ("/v1/v1/complete", None))
    assert routes.find("POST", "/v1/v1/complete").path == "/v1/v1/complete"
    assert routes.find("POST", "//v1/complete").path == "/v1/complete"
