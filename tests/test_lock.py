"""The lock files of the image: every dependency, by hash, in a version that is allowed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

RUNNING: list[str] = PROJECT["project"]["dependencies"]
BUILDING: list[str] = PROJECT["build-system"]["requires"]


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """The version and the hashes of each package in a lock file."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    parts = [re.fullmatch(r"([a-z0-9-]+)==(\S+)(?: ; [^-]+)?\s+(--hash.*)", line) for line in lines]
    return {
        part[1]: (part[2], re.findall(r"--hash=sha256:[0-9a-f]{64}", part[3]))
        for part in parts
        if part is not None or pytest.fail(f"{name} holds a line that locks nothing")
    }


@pytest.mark.parametrize(
    ("name", "required"),
    [("requirements.lock", RUNNING), ("requirements-build.lock", BUILDING)],
)
def test_all_that_is_required_is_locked_to_a_version_that_fits(
    name: str, required: list[str]
) -> None:
    lock = locked(name)
    for requirement in map(Requirement, required):
        version, _ = lock[requirement.name]
        assert requirement.specifier.contains(version)
    assert all(hashes for _, hashes in lock.values())


def test_the_image_installs_nothing_else() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"(?<!-)\bpip (?!uninstall )[^&\n]*", re.sub(r"(?m)^#.*", "", text))
    assert len(installs) == 4
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)
    assert all("--no-index" in each or "--no-build-isolation" in each for each in installs[2:])
