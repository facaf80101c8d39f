"""What looks like a key is hidden, and ordinary text is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.redaction import beginning, without_keys

LONG = "0123456789abcdef"

HIDDEN = {
    "/v1/models/sk-ant-api03-x_y": "/v1/models/[key]",
    "/sk-ant-x/v1/models": "/[key]/v1/models",
    "/a%2Fsk%2Dant%2Dx": "/a%2F[key]",
    "/SK-ANT-X": "/[key]",
    f"/x_sk-ant-{LONG}": "/x_[key]",
    f"/sk-{LONG}": "/[key]",
    f"/sk-proj-{LONG}": "/[key]",
    "/Bearer abc/x": "/Bearer [key]",
    "/bearer%20abc": "/bearer%20[key]",
    "authorization: Bearer sk-ant-x, and more": "authorization: Bearer [key], and more",
    "/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "/[key]",
    f"/x;api_key={LONG}/y": "/x;api_key=[key]/y",
    f"/x-api-key/{LONG}": "/x-api-key/[key]",
    f"/token%3D{LONG}": "/token%3D[key]",
    f"/a/{'b' * 80}/c": "/a/[key]/c",
    "two: sk-ant-a sk-ant-b": "two: [key] [key]",
    "/s%6b-ant-x": "/[key]",
    "/%73%6B%2Dant-x": "/[key]",
    f"/a%2fs%6b-{LONG}": "/a%2f[key]",
    "/%2573k-ant-x": "/[key]",
    f"/a%252Fsk-{LONG}": "/a%2F[key]",
    f"/token%253D{LONG}": "/token%3D[key]",
    f"/a%20%62/{'%62' * 80}": "/a%20b/[key]",
}

SHOWN = [
    "/v1/complete",
    "/v1/messages/count_tokens",
    "/v1/messages/batches/msgbatch_01HkcTjaV5uDC8jWR4ZsDV6F/results",
    "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/content",
    "/v1/organizations/api_keys/apikey_01Rj2N8SVvo6BePZj99NhmiT",
    "/v1/models/claude-opus-4-5-20251101",
    "/v1/key",
    "/monkey/0123456789abcdefghij",
    "/desk-of-a-very-long-name-indeed",
    "/risk-ante",
    "no route for /bearer",
    "/ta%73k-0123456789abcdefghij",
    "/a%20%62%2Fc%",
    "/100%25/%E4%BD%A0",
    "",
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN.items())
def test_what_looks_like_a_key_is_hidden(text: str, shown: str) -> None:
    assert without_keys(text) == shown


@pytest.mark.parametrize("text", SHOWN)
def test_what_does_not_stays_readable(text: str) -> None:
    assert without_keys(text) == text


MARKS = ["sk-ant-", "sk-", "eyJhbGciOiJIUzI1NiJ9.", "Bearer ", "x-api-key=", "token/", "password:"]


def spelled(text: str) -> st.SearchStrategy[str]:
    """``text`` with any of its letters encoded, once or twice."""
    spellings = [
        st.sampled_from(
            [letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}", f"%25{ord(letter):x}"]
        )
        if letter.isalnum() or letter == "-"
        else st.just(letter)
        for letter in text
    ]
    return st.tuples(*spellings).map("".join)


@given(st.sampled_from(MARKS).flatmap(spelled))
def test_a_key_is_hidden_however_its_beginning_is_spelled(mark: str) -> None:
    assert "hunter2" not in without_keys(f"/v1/models/{mark}hunter2-{LONG}")


@pytest.mark.parametrize("before", range(280, 300))
def test_a_key_at_the_cut_is_known(before: int) -> None:
    key = "sk-" + "a1b2" * 10
    shown = beginning("/" * before + key, 300)
    assert len(shown) <= 300
    assert "a1b2" not in shown


@pytest.mark.parametrize("before", range(560, 680))
def test_a_key_at_the_cut_is_not_shown_where_another_made_room_for_it(before: int) -> None:
    hidden = f"sk-ant-{'x' * (before - 8)}/"
    for key in ("sk-" + "a1b2" * 10, "a1b2" * 25, f"token={'a1b2' * 10}"):
        assert "a1b2" not in beginning(hidden + key, 300)
