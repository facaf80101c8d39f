"""The SDKs of today and of early 2023, run where ``packages.places`` installs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packages.places import JS_SDKS, PY_LIBRARIES, Place, js_sdk, pip, py_sdk

Json = dict[str, Any]

HERE = Path(__file__).parent

LIBRARIES = pip(
    "py-libraries-of-today",
    *("anyio", "distro", "docstring-parser", "httpx", "httpx2", "jiter", "opentelemetry-api"),
    *("pydantic", "sniffio", "typing-extensions"),
)
"""What the Python SDKs of today depend on: once for all of them."""

DONE_WITHIN = 60
"""Seconds in which an SDK must have done all its jobs and ended by itself."""


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
    def places(self) -> tuple[Place, ...]:
        """What it is run from; the SDK itself is in the first."""
        if self.language == "js":
            return (JS_SDKS,)
        if self.version == "2023-01-01":
            return (py_sdk(self.release), PY_LIBRARIES)
        return (py_sdk(self.release), LIBRARIES)


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
class Report:
    """What came of all jobs of one SDK."""

    seen: dict[str, Seen] = field(default_factory=dict)
    stderr: str = ""


def run(jobs: Mapping[Sdk, Mapping[str, Json]]) -> dict[Sdk, Report]:
    """Let each SDK do all of its jobs, all SDKs at once."""
    with ThreadPoolExecutor(max(len(jobs), 1)) as threads:
        reports = threads.map(_run, jobs.keys(), jobs.values())
        return dict(zip(jobs, reports, strict=True))


def _run(sdk: Sdk, jobs: Mapping[str, Json]) -> Report:
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    directory, found = sdk.places[0].path, os.pathsep.join(str(each.path) for each in sdk.places)
    try:
        done = subprocess.run(
            _command(sdk),
            input=json.dumps(jobs).encode(),
            capture_output=True,
            cwd=directory,
            env=kept | {"HOME": str(directory), "PYTHONPATH": found},
            timeout=DONE_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return Report(stderr=f"did not end in {DONE_WITHIN} s\n{late.stderr!r}")
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    seen = {name: Seen(**outcome) for name, outcome in told.items()}
    return Report(seen, done.stderr.decode(errors="replace"))


def _command(sdk: Sdk) -> list[str]:
    """What runs the SDK; Python sees none of the packages that the project has."""
    if sdk.language == "js":
        return ["node", str(HERE / "sdk.mjs"), js_sdk(sdk.release)]
    return [sys.executable, "-P", "-S", "-s", str(HERE / "sdk.py")]
