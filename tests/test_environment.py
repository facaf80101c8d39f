"""Variables of the environment that are meant for others: the server library reads some."""

from __future__ import annotations

import pytest

from proxy.server.settings import settings_for


@pytest.mark.parametrize("number", ["auto", "4", ""])
def test_how_many_workers_others_are_to_have_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", number)

    async def app(*_: object) -> None:
        raise AssertionError

    assert settings_for(app).workers == 1
