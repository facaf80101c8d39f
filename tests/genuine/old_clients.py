"""The genuine SDKs of 2023, each installed once into an environment of its own, and played there.

They live in ``.cache/clients``, apart from the project's environment. A directory that is there is
whole: it was renamed into place. So two runs may install at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "clients"

INSTALL_WITHIN = 240
"""Seconds that each command of an installation may take."""

PLAY_WITHIN = 30
"""Seconds in which a client must have played all and ended by itself."""


class NotInstalled(Exception):
    """A client could not be installed, and why."""


@dataclass(frozen=True, slots=True)
class OldClient:
    """One SDK in one version, and the methods of it that programs called."""

    name: str
    wholes: tuple[str, ...]
    streams: tuple[str, ...]
    install: Callable[[Path], None]
    command: Callable[[Path], list[str]]

    def __str__(self) -> str:
        return self.name

    @property
    def speaks_python(self) -> bool:
        return self.name.startswith("py-")


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the caller of an SDK saw of one call."""

    events: list[Json]
    result: Json | None
    error: Json | None
    """The exception: its ``type`` and ``args``."""
    opened: int | None = None
    """The status that JavaScript's ``onOpen`` was given."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What came of all plays of one client."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ended: bool = True
    """Whether the process ended, by itself and well."""
    stderr: str = ""


def perform(client: OldClient, plays: Mapping[str, Json]) -> Performance:
    """Let a client play all; raises NotInstalled."""
    place = _installed(client)
    try:
        done = subprocess.run(
            client.command(place),
            input=json.dumps(plays).encode(),
            capture_output=True,
            cwd=place,
            env=_only("PATH", "SYSTEMROOT", "TEMP", "TMPDIR"),
            timeout=PLAY_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return _performance(late.stdout or b"", late.stderr or b"", ended=False)
    return _performance(done.stdout, done.stderr, ended=done.returncode == 0)


def _performance(stdout: bytes, stderr: bytes, *, ended: bool) -> Performance:
    told = json.loads(stdout) if stdout else {}
    outcomes = {name: Outcome(**outcome) for name, outcome in told.items()}
    return Performance(outcomes, ended, stderr.decode(errors="replace"))


# --- installing -----------------------------------------------------------------------------------


def _installed(client: OldClient) -> Path:
    """Where the client is installed, from now on at the latest."""
    trouble = _try_to_install(client)
    if trouble:
        raise NotInstalled(f"{client} cannot be installed: {trouble}")
    return CACHE / client.name


@cache
def _try_to_install(client: OldClient) -> str:
    """Install the client unless it is there; returns what went wrong, once for all."""
    place = CACHE / client.name
    stamp = f"{client} for {sys.version} in {sys.base_prefix}\n"
    if _read(place / "stamp") == stamp:
        return ""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        try:
            client.install(new)
        except NotInstalled as error:
            return str(error)
        (new / "stamp").write_text(stamp, encoding="utf-8")
        try:
            new.rename(place)
        except OSError:  # something is there
            if _read(place / "stamp") != stamp:  # and not from a run that was faster
                place.rename(old)
                new.rename(place)
    return ""


def _read(stamp: Path) -> str | None:
    return stamp.read_text(encoding="utf-8") if stamp.exists() else None


def _python(version: str) -> OldClient:
    def install(place: Path) -> None:
        _run(sys.executable, "-I", "-m", "venv", str(place))
        pip = (str(_interpreter(place)), "-I", "-m", "pip", "install", "--quiet")
        _run(*pip, "--disable-pip-version-check", f"anthropic=={version}")

    def command(place: Path) -> list[str]:
        return [str(_interpreter(place)), "-I", str(HERE / "old_client.py")]

    wholes, streams = ("completion", "acompletion"), ("completion_stream", "acompletion_stream")
    return OldClient(f"py-{version}", wholes, streams, install, command)


def _interpreter(place: Path) -> Path:
    inside = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    return place.joinpath(*inside)


def _javascript(version: str) -> OldClient:
    def install(place: Path) -> None:
        place.mkdir()
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retry-maxtimeout=10000")
        package = f"@anthropic-ai/sdk@{version}"
        _run(_tool("npm"), "install", "--prefix", str(place), *quiet, package)
        _tool("node")

    def command(_place: Path) -> list[str]:
        return [_tool("node"), str(HERE / "old_client.mjs")]

    return OldClient(f"js-{version}", ("complete",), ("completeStream",), install, command)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"there is no {name} on this machine")
    return found


def _run(*command: str) -> None:
    foreign = ("PYTHON", "NODE_PATH", "VIRTUAL_ENV")  # they would let other environments in
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    try:
        subprocess.run(
            command, capture_output=True, env=environ, timeout=INSTALL_WITHIN, check=True
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{Path(command[0]).name} took over {INSTALL_WITHIN} s") from None
    except subprocess.CalledProcessError as failed:
        told = failed.stderr.decode(errors="replace").strip().splitlines()
        raise NotInstalled(f"{Path(command[0]).name}: {' '.join(told[-2:])}") from None


def _only(*names: str) -> dict[str, str]:
    """Of the environment what a program cannot do without: above all no proxy and no path."""
    return {name: os.environ[name] for name in names if name in os.environ}


CLIENTS = (
    _python("0.2.8"),  # names no version, and takes nothing of a URL but its host
    _python("0.2.10"),
    _javascript("0.4.4"),
)
