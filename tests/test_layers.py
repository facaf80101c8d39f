"""The architecture: imports point down, the core is pure, every module explains itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

ORDER = [
    "redaction",
    "errors",
    "fields",
    "identity",
    "hosts",
    "jsontext",
    "sse",
    "nudges",
    "change",
    "versions",
    "runs",
    "translation",
    "yamlnodes",
    "yamltext",
    "readers",
    "config",
    "schema",
    "summary",
    "resemblance",
    "routing",
    "negotiation",
    "explain",
    "guard",
    "interruption",
    "offload",
    "observe",
    "logs",
    "sharedmetrics",
    "metrics",
    "exchanges",
    "client",
    "keepalive",
    "sockets",
    "daemonthread",
    "lookup",
    "alarm",
    "coding",
    "answer",
    "http1",
    "pool",
    "upstream",
    "spans",
    "tracing",
    "tally",
    "ledger",
    "ledgerfile",
    "journal",
    "report",
    "streaming",
    "relay",
    "learning",
    "counted",
    "page",
    "play",
    "playground",
    "admin",
    "app",
    "sandbox_rules",
    "sandbox_wire",
    "sandbox",
    "terms",
    "budget",
    "flow",
    "patience",
    "response",
    "protocol",
    "terminal",
    "listeners",
    "process",
    "reload",
    "server",
    "worker",
    "supervisor",
    "probe",
    "demo",
    "arguments",
    "cli",
    "__main__",
]
"""A module imports only from those above it."""

PURE = ORDER[: ORDER.index("yamlnodes")]
IMPURE = {"asyncio", "logging", "os", "random", "socket", "ssl", "threading", "time"}
ROOMS_OF = {
    "aiohappyeyeballs": {"lookup", "pool"},
    "httptools": {"answer", "protocol"},
    "opentelemetry": {"spans", "tracing"},
    "prometheus_client": {"sharedmetrics", "metrics"},
    "uvicorn": {"flow", "protocol", "response", "server"},
    "yaml": {"schema", "yamlnodes", "yamltext"},
}
"""The few modules that import a dependency, so that it can be replaced there."""

ROOT = Path(proxy.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def room(module: Path) -> str:
    """The name in ORDER that a file belongs to."""
    return module.relative_to(ROOT).with_suffix("").parts[0]


def own_imports(module: Path) -> Iterator[str]:
    """The rooms that a file imports."""
    depth = len(module.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] != "proxy", "imports of our own are relative"
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from (
                [node.module.split(".")[0]] if node.module else [name.name for name in node.names]
            )


def foreign_imports(module: Path) -> Iterator[str]:
    """The top-level packages that a file imports from elsewhere."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_a_module_opens_with_its_law(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if module != ROOT / "__init__.py"],
    ids=lambda module: str(module.relative_to(ROOT)),
)
def test_imports_point_down(module: Path) -> None:
    above = ORDER[ORDER.index(room(module)) :]
    assert not [name for name in own_imports(module) if name in above and name != "versions"]


def test_the_map_shows_every_room_in_order() -> None:
    assert proxy.__doc__ is not None
    _, rooms = proxy.__doc__.split("The rooms")
    lines = re.findall(r"^ {4}(.+?) {2,}", rooms, re.MULTILINE)
    assert ", ".join(lines).split(", ") == ORDER


@pytest.mark.parametrize("name", PURE)
def test_the_core_does_not_wait_look_at_the_clock_or_log(name: str) -> None:
    for module in MODULES:
        if room(module) == name:
            assert not IMPURE & set(foreign_imports(module))
            assert not any(
                isinstance(node, ast.Await | ast.AsyncFunctionDef)
                for node in ast.walk(ast.parse(module.read_text()))
            )


@pytest.mark.parametrize(("package", "rooms"), ROOMS_OF.items())
def test_what_is_foreign_stays_in_its_rooms(package: str, rooms: set[str]) -> None:
    users = {room(module) for module in MODULES if package in foreign_imports(module)}
    assert users == rooms
