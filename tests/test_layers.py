"""The architecture: imports point down, the core is pure, every module explains itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
PURE = ("core", "formats", "bridge", "versions", "translation")
IMPURE = {"asyncio", "logging", "os", "random", "socket", "ssl", "threading", "time"}
ROOMS_OF = {
    "aiohappyeyeballs": {"upstream.addresses", "upstream.lookup", "upstream.pool"},
    "httptools": {"upstream.response", "connection.protocol"},
    "opentelemetry": {"observe.spans", "observe.tracing"},
    "prometheus_client": {"observe.sharedmetrics", "observe.metrics"},
    "uvicorn": {
        "connection.flow",
        "connection.protocol",
        "connection.response",
        "server.server",
        "server.settings",
    },
    "yaml": {"config.yamlnodes", "config.yamltext"},
}
"""The few modules that import a dependency, so that it can be replaced there."""


def room(module: Path) -> str:
    """The name of a module below ``proxy``; a package's own is the package's."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def listed(package: Path) -> list[str]:
    """What ``package`` lists in its docstring: each imports only from those before it."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    _, _, rooms = docstring.rpartition("The rooms")
    lines = re.findall(r"^ *(\w+(?:, \w+)*) {2,}", rooms, re.MULTILINE)
    return ", ".join(lines).split(", ")


def in_order() -> Iterator[str]:
    """All rooms, each package behind its modules.

    The version changes are one room, ``versions``: it lists none, so that adding one is enough.
    """
    for name in listed(ROOT):
        if name != "versions" and (ROOT / name).is_dir():
            yield from (f"{name}.{module}" for module in listed(ROOT / name))
        yield name


ORDER = list(in_order())


def own_imports(module: Path) -> Iterator[str]:
    """The rooms that a file imports."""
    package = module.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        assert (node.module or "").split(".")[0] != "proxy", "imports of our own are relative"
        if node.level:
            start = package[: len(package) + 1 - node.level]
            path = (*start, *(node.module.split(".") if node.module else ()))
            for name in node.names:
                whole = (*path, name.name)
                prefixes = (".".join(whole[:length]) for length in range(len(whole), 0, -1))
                yield next(prefix for prefix in prefixes if prefix in ORDER)


def foreign_imports(module: Path) -> Iterator[str]:
    """The top-level packages that a file imports from elsewhere."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def named(module: Path) -> str:
    return str(module.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_a_module_opens_with_its_law(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_the_lists_show_every_room_once() -> None:
    rooms = {room(module) for module in MODULES if module != ROOT / "__init__.py"}
    assert sorted(ORDER) == sorted(name for name in rooms if not name.startswith("versions."))


@pytest.mark.parametrize("module", [m for m in MODULES if m != ROOT / "__init__.py"], ids=named)
def test_imports_point_down(module: Path) -> None:
    own = "versions" if module.parent == ROOT / "versions" else room(module)
    above = ORDER[ORDER.index(own) :]
    if room(module) == "versions":
        above.remove("versions")  # the history knows its changes, and no change knows another
    assert not set(above) & set(own_imports(module))


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_the_core_does_not_wait_look_at_the_clock_or_log(module: Path) -> None:
    if room(module).split(".")[0] in PURE:
        assert not IMPURE & set(foreign_imports(module))
        assert not any(
            isinstance(node, ast.Await | ast.AsyncFunctionDef)
            for node in ast.walk(ast.parse(module.read_text()))
        )


@pytest.mark.parametrize(("package", "rooms"), ROOMS_OF.items())
def test_what_is_foreign_stays_in_its_rooms(package: str, rooms: set[str]) -> None:
    users = {room(module) for module in MODULES if package in foreign_imports(module)}
    assert users == rooms
