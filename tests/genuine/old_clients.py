"""The genuine clients of 2023, unmodified, each installed once, and played where it is installed.

They live in ``.cache/clients``, apart from the project's environment. A directory that is there is
whole: it was renamed into place. So two runs may install at the same time. What many clients have
in common is there once: the libraries that the Python ones need, and one ``node_modules`` in which
every JavaScript SDK has a name of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from plays import FOR_FRAMEWORKS, SCENARIOS, Scenario

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
class Place:
    """A directory in the cache, and how it is filled."""

    name: str
    recipe: str
    """What is in it: a directory from another recipe is not the same place."""
    fill: Callable[[Path], None] = field(compare=False)
    upon: Place | None = None
    """The place that must be there before this one is filled."""

    @property
    def path(self) -> Path:
        return CACHE / self.name


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
    place: Place
    command: tuple[str, ...]
    quirks: Quirks = field(default_factory=Quirks)
    scenarios: tuple[str, ...] = tuple(SCENARIOS)

    def __str__(self) -> str:
        return self.name

    @property
    def speaks_python(self) -> bool:
        return self.name.startswith("py-")

    def plays(self, address: str) -> dict[str, Json]:
        """All that this client is to play."""
        return {
            f"{name}/{method}": SCENARIOS[name].play(method, address, self.quirks.always)
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
class Performance:
    """What came of all plays of one client."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ended: bool = True
    """Whether the process ended, by itself and well."""
    stderr: str = ""


def perform(client: OldClient, plays: Mapping[str, Json]) -> Performance:
    """Let a client, which is installed, play all."""
    try:
        done = subprocess.run(
            client.command,
            input=json.dumps(plays).encode(),
            capture_output=True,
            cwd=client.place.path,
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


def install(clients: Iterable[OldClient]) -> dict[Place, str]:
    """Install what is not there yet, two at a time; returns what went wrong at which place."""
    later = {client.place for client in clients}
    troubles: dict[Place, str] = {}
    with ThreadPoolExecutor(2) as two:
        while later:
            now = {place.upon or place for place in later} - troubles.keys() or set(later)
            # py-libraries takes longest, so it comes first
            order = sorted(now, key=lambda place: place.name, reverse=True)
            troubles |= zip(order, two.map(partial(_try_to_install, troubles), order), strict=True)
            later -= troubles.keys()
    return troubles


def _try_to_install(troubles: Mapping[Place, str], place: Place) -> str:
    """Fill the place unless it is full; returns what went wrong."""
    if place.upon and troubles[place.upon]:
        return troubles[place.upon]
    stamp = f"{place.recipe} for {sys.version} in {sys.base_prefix}\n"
    if _read(place.path / "stamp") == stamp:
        return ""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        try:
            place.fill(new)
        except NotInstalled as error:
            return f"{place.name} cannot be installed: {error}"
        (new / "stamp").write_text(stamp, encoding="utf-8")
        try:
            new.rename(place.path)
        except OSError:  # something is there
            if _read(place.path / "stamp") != stamp:  # and not from a run that was faster
                place.path.rename(old)
                new.rename(place.path)
    return ""


def _read(stamp: Path) -> str | None:
    return stamp.read_text(encoding="utf-8") if stamp.exists() else None


def _libraries(*packages: str) -> Place:
    """An environment in which no client is installed, but all that clients import."""

    def fill(place: Path) -> None:
        _run(sys.executable, "-I", "-m", "venv", str(place))
        _run(*_pip(place), *packages)

    return Place("py-libraries", " ".join(packages), fill)


def _packages(name: str, upon: Place, *packages: str) -> Place:
    """A directory with these packages and nothing else."""

    def fill(place: Path) -> None:
        _run(*_pip(upon.path), "--no-deps", "--target", str(place), *packages)

    return Place(name, " ".join(packages), fill, upon)


def _pip(environment: Path) -> tuple[str, ...]:
    quiet = ("--quiet", "--disable-pip-version-check")
    return (str(_interpreter(environment)), "-I", "-m", "pip", "install", *quiet)


def _interpreter(environment: Path) -> Path:
    inside = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    return environment.joinpath(*inside)


def _modules(name: str, *packages: str) -> Place:
    """A directory with these packages in its ``node_modules``."""

    def fill(place: Path) -> None:
        place.mkdir()
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
        retry = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000")
        peers = "--legacy-peer-deps"  # or all that a framework can work with comes, too
        _run(_tool("npm"), "install", "--prefix", str(place), *quiet, *retry, peers, *packages)
        _tool("node")

    return Place(name, " ".join(packages), fill)


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


# --- the SDKs -------------------------------------------------------------------------------------

LIBRARIES = _libraries("requests", "aiohttp", "httpx", "tokenizers")
"""What the Python SDKs depend on."""

ALL_JAVASCRIPT = ("0.2.3", "0.2.4", "0.3.1", "0.4.0", "0.4.1", "0.4.2", "0.4.3", "0.4.4")
MODULES = _modules("js-sdks", *(f"sdk-{v}@npm:@anthropic-ai/sdk@{v}" for v in ALL_JAVASCRIPT))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _sdk(version: str) -> Place:
    return _packages(f"py-{version}", LIBRARIES, f"anthropic=={version}")


def _python_command(driver: str, place: Place, *more: str) -> tuple[str, ...]:
    return (str(_interpreter(LIBRARIES.path)), "-I", str(HERE / driver), str(place.path), *more)


PYTHON_WHOLES: tuple[str, ...] = ("completion", "acompletion")
PYTHON_STREAMS: tuple[str, ...] = ("completion_stream", "acompletion_stream")


def _python(version: str) -> OldClient:
    numbers, place = _numbers(version), _sdk(version)
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
    command = _python_command("old_client.py", place)
    return OldClient(f"py-{version}", wholes, streams, place, command, quirks)


def _javascript(version: str) -> OldClient:
    numbers = _numbers(version)
    quirks = Quirks(
        hides_last=numbers < (0, 4, 1),
        hides_opening=numbers < (0, 3, 0),
        leaves_by_signal=numbers >= (0, 4, 3),
    )
    command = ("node", str(HERE / "old_client.mjs"), f"sdk-{version}")
    return OldClient(f"js-{version}", ("complete",), ("completeStream",), MODULES, command, quirks)


FRAMEWORKS = _packages(
    "py-frameworks",
    LIBRARIES,
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
    FRAMEWORKS,
    _python_command("old_client.py", FRAMEWORKS, "promptlayer"),
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
    *map(_javascript, ALL_JAVASCRIPT),
)

# --- the frameworks -------------------------------------------------------------------------------

LANGCHAIN_JS = _modules("js-langchain-0.0.96", "langchain@0.0.96", "@anthropic-ai/sdk@0.4.4")
AI = _modules("js-ai", *(f"ai-{version}@npm:ai@{version}" for version in ("2.1.33", "2.2.37")))

OF_FRAMEWORKS = tuple(FOR_FRAMEWORKS)


def _ai(version: str) -> OldClient:
    """Its part is the stream only; the program fetches for itself, and so names the version."""
    june = ("stream_of_june",) if _numbers(version) >= (2, 1, 34) else ()
    methods = ("stream", "stream_of_january", *june)
    command = ("node", str(HERE / "old_ai.mjs"), f"ai-{version}")
    return OldClient(f"js-ai-{version}", (), methods, AI, command, scenarios=OF_FRAMEWORKS)


LANGCHAINS = (
    OldClient(
        "py-langchain-0.0.224",
        ("llm", "llm_async", "chat", "chat_async"),
        ("llm_stream", "llm_async_stream", "chat_stream", "chat_async_stream"),
        FRAMEWORKS,
        _python_command("old_langchain.py", FRAMEWORKS),
        scenarios=OF_FRAMEWORKS,
    ),
    OldClient(
        "js-langchain-0.0.96",
        ("chat",),
        ("chat_stream",),
        LANGCHAIN_JS,
        ("node", str(HERE / "old_langchain.mjs")),
        scenarios=OF_FRAMEWORKS,
    ),
)
AIS = (_ai("2.1.33"), _ai("2.2.37"))

CLIENTS = (*SDKS, *LANGCHAINS, *AIS)
