"""The genuine clients of 2023, unmodified, each run where ``packages.places`` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genuine.scenarios import FOR_FRAMEWORKS, SCENARIOS, Scenario
from packages.places import JS_2023, JS_SDKS, PY_LIBRARIES, Place, js_sdk, npm, pip, py_sdk

Json = dict[str, Any]

HERE = Path(__file__).parent

DONE_WITHIN = 30
"""Seconds in which a client must have done all its jobs and ended by itself."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """What one version does, with any server, that others do not."""

    returns_errors: bool = False
    """An HTTP error is not raised; its body is handed out as if it were an answer."""
    dies_of_errors: tuple[str, ...] = ()
    """Methods that fail to raise an HTTP error by a mistake of their own."""
    reads_ahead: tuple[str, ...] = ()
    """Methods that show nothing of a stream before its end."""
    hides_last: bool = False
    """The last event of a stream is its result only, and no update."""
    hides_opening: bool = False
    """There is no callback for the beginning of a stream."""
    leaves_by_signal: bool = True
    """A stream is left by an AbortSignal; else by a callback that rejects."""
    always: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Parameters that every call must have."""


@dataclass(frozen=True, slots=True)
class OldClient:
    """One client in one version, and the methods of it that programs called."""

    name: str
    wholes: tuple[str, ...]
    streams: tuple[str, ...]
    places: tuple[Place, ...]
    """What it is run from; the client itself is in the first."""
    command: tuple[str, ...]
    quirks: Quirks = field(default_factory=Quirks)
    scenarios: tuple[str, ...] = tuple(SCENARIOS)

    def __str__(self) -> str:
        return self.name

    @property
    def speaks_python(self) -> bool:
        return self.name.startswith("py-")

    def jobs(self, address: str) -> dict[str, Json]:
        """All that this client is to do."""
        return {
            f"{name}/{method}": SCENARIOS[name].job(method, address, self.quirks.always)
            for name in self.scenarios
            for method in self._methods(SCENARIOS[name])
        }

    def _methods(self, scenario: Scenario) -> tuple[str, ...]:
        if scenario.leave:  # at the first event
            return tuple(name for name in self.streams if name not in self.quirks.reads_ahead)
        return self.streams if scenario.stream_only else (*self.wholes, *self.streams)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the caller of a client saw of one call."""

    events: list[Any]
    """Of an SDK the completions, of a framework the new pieces of text."""
    result: Any
    """Of an SDK the completion, of a framework the text."""
    error: Json | None
    """The exception: its ``type`` and ``args``."""
    opened: int | None = None
    """The status that JavaScript's ``onOpen`` was given."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all jobs of one client."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ended: bool = True
    """Whether the process ended, by itself and well."""
    stderr: str = ""


def run(client: OldClient, jobs: Mapping[str, Json]) -> Report:
    """Let a client, which is installed, do all jobs."""
    try:
        done = subprocess.run(
            client.command,
            input=json.dumps(jobs).encode(),
            capture_output=True,
            cwd=client.places[0].path,
            env=_environment(client),
            timeout=DONE_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return _report(late.stdout or b"", late.stderr or b"", ended=False)
    return _report(done.stdout, done.stderr, ended=done.returncode == 0)


def _environment(client: OldClient) -> dict[str, str]:
    """What a program cannot do without, above all no proxy; and where Python finds the client."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(str(place.path) for place in client.places)}


def _report(stdout: bytes, stderr: bytes, *, ended: bool) -> Report:
    told = json.loads(stdout) if stdout else {}
    outcomes = {name: Outcome(**outcome) for name, outcome in told.items()}
    return Report(outcomes, ended, stderr.decode(errors="replace"))


# --- the SDKs -------------------------------------------------------------------------------------

PYTHON = (sys.executable, "-P", "-S", "-s")
"""It sees none of the packages that the project has."""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


PYTHON_WHOLES: tuple[str, ...] = ("completion", "acompletion")
PYTHON_STREAMS: tuple[str, ...] = ("completion_stream", "acompletion_stream")


def _python(version: str) -> OldClient:
    numbers, places = _numbers(version), (py_sdk(version), PY_LIBRARIES)
    wholes, streams = PYTHON_WHOLES, PYTHON_STREAMS
    if numbers < (0, 2, 4):  # not asynchronous yet
        wholes, streams = wholes[:1], streams[:1]
    if numbers == (
        0,
        2,
        5,
    ):  # it reads the body to look for an error, then there is no more to read
        streams = streams[:1]
    asynchronous = tuple(name for name in (*wholes, *streams) if name.startswith("a"))
    quirks = Quirks(
        returns_errors=numbers < (0, 2, 4),
        dies_of_errors=asynchronous if numbers == (0, 2, 4) else (),
        reads_ahead=("completion_stream",) if numbers == (0, 2, 5) else (),
        # or they would download a tokenizer to count the prompt
        always={"disable_checks": True} if (0, 2, 4) <= numbers < (0, 2, 8) else {},
    )
    command = (*PYTHON, str(HERE / "old_client.py"))
    return OldClient(f"py-{version}", wholes, streams, places, command, quirks)


def _javascript(version: str) -> OldClient:
    numbers = _numbers(version)
    quirks = Quirks(
        hides_last=numbers < (0, 4, 1),
        hides_opening=numbers < (0, 3, 0),
        leaves_by_signal=numbers >= (0, 4, 3),
    )
    command = ("node", str(HERE / "old_client.mjs"), js_sdk(version))
    methods = ("complete",), ("completeStream",)
    return OldClient(f"js-{version}", *methods, (JS_SDKS,), command, quirks)


FRAMEWORKS = pip(
    "py-frameworks",
    "--no-deps",
    "anthropic==0.2.10",
    "langchain==0.0.224",
    "promptlayer==0.1.90",
    # what they depend on, as far as it is not among the libraries
    "dataclasses-json<0.6",
    "langchainplus-sdk==0.0.20",
    "marshmallow<4",
    "mypy-extensions",
    "numexpr",
    "numpy",
    "openapi-schema-pydantic<2",
    "packaging",
    "pydantic<2",
    "PyYAML",
    "SQLAlchemy<3",
    "tenacity<9",
    "typing-extensions",
    "typing-inspect",
)
PROMPTLAYER = OldClient(
    "py-promptlayer-0.1.90",
    PYTHON_WHOLES,
    PYTHON_STREAMS,
    (FRAMEWORKS, PY_LIBRARIES),
    (*PYTHON, str(HERE / "old_client.py"), "promptlayer"),
)
"""It stands in for the SDK, whatever is called, and logs what came of it elsewhere."""

SDKS = (
    _python("0.2.2"),  # the first, which does not look at the HTTP status
    _python("0.2.3"),
    _python("0.2.4"),  # the first that is asynchronous
    _python("0.2.5"),  # reads ahead
    _python("0.2.6"),
    _python("0.2.7"),
    _python("0.2.8"),  # the last that takes nothing of a URL but its host
    _python("0.2.9"),  # the last that names no version
    _python("0.2.10"),
    PROMPTLAYER,
    *map(_javascript, JS_2023),
)

# --- the frameworks -------------------------------------------------------------------------------

LANGCHAIN_JS = npm("js-langchain-0.0.96", "langchain@0.0.96", "@anthropic-ai/sdk@0.4.4")
AI = npm("js-ai", *(f"ai-{version}@npm:ai@{version}" for version in ("2.1.33", "2.2.37")))

OF_FRAMEWORKS = tuple(FOR_FRAMEWORKS)


def _ai(version: str) -> OldClient:
    """Its part is the stream only; the program fetches for itself, and so names the version."""
    june = ("stream_of_june",) if _numbers(version) >= (2, 1, 34) else ()
    methods = ("stream", "stream_of_january", *june)
    command = ("node", str(HERE / "old_ai.mjs"), f"ai-{version}")
    return OldClient(f"js-ai-{version}", (), methods, (AI,), command, scenarios=OF_FRAMEWORKS)


LANGCHAINS = (
    OldClient(
        "py-langchain-0.0.224",
        ("llm", "llm_async", "chat", "chat_async"),
        ("llm_stream", "llm_async_stream", "chat_stream", "chat_async_stream"),
        (FRAMEWORKS, PY_LIBRARIES),
        (*PYTHON, str(HERE / "old_langchain.py")),
        scenarios=OF_FRAMEWORKS,
    ),
    OldClient(
        "js-langchain-0.0.96",
        ("chat",),
        ("chat_stream",),
        (LANGCHAIN_JS,),
        ("node", str(HERE / "old_langchain.mjs")),
        scenarios=OF_FRAMEWORKS,
    ),
)
AIS = (_ai("2.1.33"), _ai("2.2.37"))

CLIENTS = (*SDKS, *LANGCHAINS, *AIS)
