"""The SDKs of today and of early 2023, each installed once, apart from all else, and played there.

They live in ``.cache/clients``. A directory that is there is whole: it was renamed into place. So
two runs may install at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "clients"

INSTALL_WITHIN = 240
"""Seconds that an installation may take."""

PLAY_WITHIN = 60
"""Seconds in which an SDK must have played all and ended by itself."""


class NotInstalled(Exception):
    """An SDK could not be installed, and why."""


class Raised(NamedTuple):
    """The exceptions in which SDKs differ."""

    overloaded: str
    """For a status of 529."""
    broken: str
    """For an error in mid-stream."""


@dataclass(frozen=True, slots=True)
class Sdk:
    """One SDK in one release: what it says of itself, has, and raises."""

    language: Literal["py", "js"]
    release: str
    version: str
    """What it sends as ``anthropic-version``."""
    sends: Literal["x-api-key", "bearer"]
    """The form of its credentials."""
    raises: Raised
    completions: bool = False

    def __str__(self) -> str:
        return f"{self.language}-{self.release}"

    @property
    def sampling(self) -> bool:
        """Whether its version has ``temperature``."""
        return self.version < "2026-10-21"

    @property
    def names_sampling(self) -> bool:
        """Whether its methods have it; those of 1.17.0 have not, though its version has."""
        return self.release.startswith("0.")

    @property
    def place(self) -> Path:
        """Where it is installed."""
        return CACHE / f"matrix-{self}"


PYTHON = Raised(overloaded="OverloadedError", broken="APIStatusError")
JAVASCRIPT_0 = Raised(overloaded="InternalServerError", broken="APIError")
JAVASCRIPT = Raised(overloaded="OverloadedError", broken="APIError")
NOTHING = Raised(overloaded="", broken="")

SDKS = (
    Sdk("py", "0.125.0", "2023-06-01", "x-api-key", PYTHON, completions=True),
    Sdk("py", "1.17.0", "2023-06-01", "x-api-key", PYTHON),
    Sdk("py", "2.12.0", "2026-10-21", "bearer", PYTHON),
    Sdk("js", "0.137.0", "2023-06-01", "x-api-key", JAVASCRIPT_0, completions=True),
    Sdk("js", "1.12.0", "2026-10-21", "bearer", JAVASCRIPT),
)
"""Those of today."""

OLD_SDKS = (
    Sdk("py", "0.2.10", "2023-01-01", "x-api-key", NOTHING),
    Sdk("js", "0.4.4", "2023-01-01", "x-api-key", NOTHING),
)
"""Those of early 2023."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the caller of an SDK saw of one call."""

    pieces: list[str]
    """The texts of a stream, one for each event that had one."""
    events: list[str]
    """The types of a stream's events."""
    text: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop: str | None = None
    """The stop sequence."""
    usage: list[int | None] = field(default_factory=list)
    """Tokens in and out."""
    headers: dict[str, str] = field(default_factory=dict)
    exception: str | None = None
    """How an answer of early 2023 failed."""
    error: Json | None = None
    """The exception: its ``type``, ``status``, ``body`` and ``message``."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What came of all plays of one SDK."""

    seen: dict[str, Seen] = field(default_factory=dict)
    stderr: str = ""
    missing: str = ""
    """Why the SDK is not installed, where it is not."""


def perform(plays: Mapping[Sdk, Mapping[str, Json]]) -> dict[Sdk, Performance]:
    """Let each SDK play all of its plays, all SDKs at once."""
    with ThreadPoolExecutor(len(plays)) as threads:
        performances = threads.map(_perform, plays.keys(), plays.values())
        return dict(zip(plays, performances, strict=True))


def _perform(sdk: Sdk, plays: Mapping[str, Json]) -> Performance:
    try:
        _install(sdk)
        command = _command(sdk)
    except NotInstalled as error:
        return Performance(missing=f"{sdk} cannot be installed: {error}")
    kept = {
        name: os.environ[name]
        for name in ("PATH", "SYSTEMROOT", "TEMP", "TMPDIR")
        if name in os.environ
    }
    try:
        done = subprocess.run(
            command,
            input=json.dumps(plays).encode(),
            capture_output=True,
            cwd=sdk.place,
            env=kept | {"HOME": str(sdk.place), "PYTHONPATH": str(sdk.place)},
            timeout=PLAY_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return Performance(stderr=f"did not end in {PLAY_WITHIN} s\n{late.stderr!r}")
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    seen = {name: Seen(**outcome) for name, outcome in told.items()}
    return Performance(seen, done.stderr.decode(errors="replace"))


def _command(sdk: Sdk) -> list[str]:
    """What runs the SDK; Python sees none of the packages that the project has."""
    if sdk.language == "js":
        return [_tool("node"), str(HERE / "sdk.mjs"), "@anthropic-ai/sdk"]
    return [sys.executable, "-P", "-S", "-s", str(HERE / "sdk.py")]


# --- installing -----------------------------------------------------------------------------------


def _install(sdk: Sdk) -> None:
    """Install the SDK unless it is there; raises NotInstalled."""
    stamp = f"{sdk} for {sys.version} in {sys.base_prefix}\n"
    if _read(sdk.place / "stamp") == stamp:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        _run(_javascript(sdk, new) if sdk.language == "js" else _python(sdk, new))
        (new / "stamp").write_text(stamp, encoding="utf-8")
        try:
            new.rename(sdk.place)
        except OSError:  # something is there
            if _read(sdk.place / "stamp") != stamp:  # and not from a run that was faster
                sdk.place.rename(old)
                new.rename(sdk.place)


def _python(sdk: Sdk, place: Path) -> list[str]:
    pip = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [*pip, "--target", str(place), f"anthropic=={sdk.release}"]


def _javascript(sdk: Sdk, place: Path) -> list[str]:
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retry-maxtimeout=10000"]
    package = f"@anthropic-ai/sdk@{sdk.release}"
    return [_tool("npm"), "install", "--prefix", str(place), *quiet, package]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"there is no {name} on this machine")
    return found


def _run(command: Iterable[str]) -> None:
    name, *rest = command
    foreign = ("PYTHON", "NODE_PATH", "VIRTUAL_ENV")  # they would let other environments in
    environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    tool = Path(name).name
    try:
        subprocess.run(
            [name, *rest], capture_output=True, env=environ, timeout=INSTALL_WITHIN, check=True
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{tool} took over {INSTALL_WITHIN} s") from None
    except subprocess.CalledProcessError as failed:
        told = failed.stderr.decode(errors="replace").strip().splitlines()
        raise NotInstalled(f"{tool}: {' '.join(told[-2:])}") from None


def _read(stamp: Path) -> str | None:
    return stamp.read_text(encoding="utf-8") if stamp.exists() else None
