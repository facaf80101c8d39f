"""Places: directories for packages that tests need and the project's environment must not have.

A place is a directory in ``.cache/clients``. If it exists it is complete, for it is renamed there
only once the installation is done. Each recipe has a place of its own, under each Python. So a
place never changes, and several runs of the tests may need it at the same time.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

CACHE = Path(__file__).parents[2] / ".cache" / "clients"


class Place(NamedTuple):
    """A directory in the cache, and its recipe: what is installed there, and by which tool."""

    name: str
    """Unique among the places of a run."""
    tool: Literal["pip", "npm"]
    arguments: tuple[str, ...]
    """Options and packages."""

    @property
    def path(self) -> Path:
        recipe = repr((*self, sys.version, sys.base_prefix))
        return CACHE / f"{self.name}-{sha256(recipe.encode()).hexdigest()[:8]}"

    def command(self, into: Path) -> tuple[str, ...]:
        """The command that installs it into ``into``, an empty directory."""
        if self.tool == "npm":
            quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
            retry = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000")
            # or npm also installs everything that a framework can be combined with
            peers = "--legacy-peer-deps"
            return ("npm", "install", "--prefix", str(into), *quiet, *retry, peers, *self.arguments)
        pip = (sys.executable, "-I", "-m", "pip", "install", "--target", str(into))
        # what is never imported need not be compiled
        quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
        return (*pip, *quiet, *self.arguments)


def pip(name: str, *arguments: str) -> Place:
    """A directory for Python to import from."""
    return Place(name, "pip", arguments)


def npm(name: str, *arguments: str) -> Place:
    """A directory with ``node_modules``."""
    return Place(name, "npm", arguments)


# Places that several folders of tests use.

PY_LIBRARIES = pip("py-libraries", "requests", "aiohttp", "httpx", "tokenizers")
"""The dependencies of the Python SDKs of 2023, installed once for all of them."""


def py_sdk(version: str) -> Place:
    """A Python SDK, without its dependencies."""
    return pip(f"py-{version}", "--no-deps", f"anthropic=={version}")


def js_sdk(version: str) -> str:
    """The name of a JavaScript SDK in ``JS_SDKS``."""
    return f"sdk-{version}"


JS_2023 = ("0.2.3", "0.2.4", "0.3.1", "0.4.0", "0.4.1", "0.4.2", "0.4.3", "0.4.4")
JS_TODAY = ("0.137.0", "1.12.0")
JS_SDKS = npm("js-sdks", *(f"{js_sdk(v)}@npm:@anthropic-ai/sdk@{v}" for v in (*JS_2023, *JS_TODAY)))
"""All JavaScript SDKs, each under a name of its own."""
