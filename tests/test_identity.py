"""The names of clients, and the fingerprints that stand for their keys."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.fields import by_name
from proxy.exchange.identity import fingerprint_of, kind_of
from proxy.observe.record import UNKNOWN

AGENT = b"user-agent"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([(b"client", b"anthropic-python/0.2.9"), (AGENT, b"x/1")], "anthropic-python/0.2.9"),
        ([(b"anthropic-sdk", b"anthropic-typescript/0.4.4")], "anthropic-typescript/0.4.4"),
        ([(AGENT, b"Anthropic/Python 0.125.0")], "anthropic-python/0.125.0"),
        ([(AGENT, b"AsyncAnthropic/Python 1.2.3")], "anthropic-python/1.2.3"),
        ([(AGENT, b"Anthropic/JS 0.137.0")], "anthropic-typescript/0.137.0"),
        ([(AGENT, b"python-requests/2.28.1")], "python-requests/2.28.1"),
        ([(AGENT, b"Mozilla/5.0 (X11; Linux x86_64)")], "Mozilla/5.0"),
        ([(AGENT, b"curl")], "curl"),
        ([(AGENT, b"sk-ant-api03-key")], "other"),
        ([(AGENT, b"app-sk-ant-api03-key")], "other"),
        ([(AGENT, b"app/1sk-ant-api03-key")], "other"),
        ([(AGENT, b"Anthropic/Python 1sk-ant-api03-key")], "other"),
        ([(AGENT, b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln")], "other"),
        ([(AGENT, b"tokenizers/0.13.3 token/1.2")], "tokenizers/0.13.3"),
        ([(AGENT, b'{"no": "product"}')], "other"),
        ([(AGENT, b"")], "other"),
        ([], UNKNOWN),
    ],
)
def test_a_client_is_called_as_it_calls_itself(
    fields: list[tuple[bytes, bytes]], kind: str
) -> None:
    assert kind_of(by_name(fields)) == kind


@given(st.binary(max_size=400))
def test_whatever_a_client_says_its_name_is_one_short_word(said: bytes) -> None:
    kind = kind_of({AGENT: [said]})
    assert len(kind) <= 61
    assert kind.isascii()
    assert kind.isprintable()
    assert not kind.split()[1:]


def test_little_is_remembered_of_clients_that_say_a_lot() -> None:
    tracemalloc.start()
    try:
        for number in range(300):
            kind_of({AGENT: [b"%d" % number + b"x" * (32 << 10)]})
        remembered, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert remembered < 1 << 20


def test_a_key_is_known_again_by_its_fingerprint_wherever_it_stands() -> None:
    key = b"sk-ant-one"
    shown = fingerprint_of({b"x-api-key": [key]})
    assert shown == fingerprint_of({b"authorization": [b"Bearer " + key]})
    assert shown == fingerprint_of({b"x-api-key": [b""], b"authorization": [b"Bearer " + key]})
    assert shown == fingerprint_of({b"authorization": [b"bearer  " + key]})
    assert shown != fingerprint_of({b"x-api-key": [b"sk-ant-two"]})
    assert len(shown) == 12
    assert fingerprint_of({b"x-api-key": [b""], b"authorization": [b"Bearer "]}) == UNKNOWN
    assert fingerprint_of({b"authorization": [b"Basic " + key]}) == UNKNOWN
    assert fingerprint_of({}) == UNKNOWN
