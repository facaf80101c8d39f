"""What looks like a key is hidden, and what is read every day stays as it is."""

from __future__ import annotations

import pytest

from proxy.redaction import without_keys

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
    "",
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN.items())
def test_what_looks_like_a_key_is_hidden(text: str, shown: str) -> None:
    assert without_keys(text) == shown


@pytest.mark.parametrize("text", SHOWN)
def test_what_does_not_stays_readable(text: str) -> None:
    assert without_keys(text) == text
