"""Workers that are started: whatever becomes of one, the supervisor goes on."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from functools import partial
from multiprocessing import connection, resource_tracker, spawn
from pathlib import Path
from threading import Thread

import pytest

from proxy.observe import logs
from proxy.server import worker
from proxy.server.crew import SPAWN, Crew
from proxy.server.worker import Command, Common, work
from support import PATIENCE, settings

LONG = "x" * (1 << 20)
"""More than any pipe holds."""


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the log of this process as it is."""
    monkeypatch.setattr(logs, "to_stderr", lambda: None)


def test_a_worker_that_dies_at_its_start_holds_nothing_up_however_large_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings("http://127.0.0.1:9")
    upstreams = {name: replace(each, name=LONG) for name, each in config.upstreams.items()}
    with socket.socket() as unused:
        crew = Crew(replace(config, upstreams=upstreams), Common(unused, None, None))
        resource_tracker.ensure_running()
        monkeypatch.setattr(spawn, "_python_exe", os.fsencode(shutil.which("false") or ""))
        starting = Thread(target=partial(crew.start, ["0"]), daemon=True)
        starting.start()
        starting.join(PATIENCE)
        assert not starting.is_alive()
        while alive := crew.alive():
            assert connection.wait(alive, PATIENCE)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("command", Command)
def test_a_worker_that_is_to_stop_before_it_has_begun_does_not_begin(command: Command) -> None:
    reading, writing = SPAWN.Pipe(duplex=False)
    with reading, writing, socket.socket() as unused:
        writing.send(command)
        work("0", Common(unused, None, None), reading)


@pytest.mark.usefixtures("as_before")
def test_a_fault_that_ends_a_worker_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "App", fail)
    reading, writing = SPAWN.Pipe(duplex=False)
    config = settings("http://127.0.0.1:9")
    with reading, writing, socket.socket() as unused:
        writing.send(replace(config, upstreams=dict(config.upstreams)))
        with pytest.raises(SystemExit, match="1"):
            work("0", Common(unused, None, None), reading)
    assert caplog.messages == ["a fault of ours ends a worker"]


@pytest.mark.usefixtures("as_before")
def test_a_worker_whose_supervisor_died_at_its_start_leaves_no_shared_folder(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    reading, writing = SPAWN.Pipe(duplex=False)
    writing.close()
    with reading, socket.socket() as unused:
        work("0", Common(unused, None, shared), reading)
    assert not shared.exists()
