"""A failed installation is reported to the tests that need it, and none outlives the tests."""

from __future__ import annotations

import socket

import pytest

from packages.installed import installing
from packages.places import pip
from support import PATIENCE

NOWHERE = pip("nowhere", "--no-index", "a-package-that-nobody-has")


def test_what_cannot_be_installed_is_told_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "pip cannot install nowhere: .*a-package-that-nobody-has"
    with installing([NOWHERE]) as installed:
        monkeypatch.setenv("CI", "false")
        with pytest.raises(pytest.skip.Exception, match=told):
            installed.require([NOWHERE])
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match=told):
            installed.require([NOWHERE])


def test_an_installation_ends_with_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as registry:
        registry.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{registry.getsockname()[1]}/"
        with installing([pip("endless", "--index-url", url, "endless")]):
            asked, _ = registry.accept()  # and never answered
        with asked:
            asked.settimeout(PATIENCE)
            while asked.recv(65536):
                pass
