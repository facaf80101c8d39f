"""The Dockerfile and the Compose file, as they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import config
from proxy.server.settings import longest_stop

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(name: str) -> list[str]:
    """What the Dockerfile says after each instruction of this name."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{name} ")]


# --- the image ------------------------------------------------------------------------------------


@pytest.mark.skipif(not HADOLINT.exists(), reason="there is no hadolint for this platform")
def test_the_dockerfile_is_linted() -> None:
    done = subprocess.run(
        [HADOLINT, "--no-color", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_stage_stands_on_bytes_that_are_named() -> None:
    stages = {line.split(" AS ")[1] for line in instructions("FROM") if " AS " in line}
    bases = {line.split()[0] for line in instructions("FROM")} - stages
    assert bases
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}", base) for base in bases)


def test_all_that_is_copied_is_let_through_to_the_build() -> None:
    ignored, *let = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line != "**/__pycache__"
    ]
    assert ignored == "*"
    copied = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    for source in (name for names in copied for name in names):
        assert f"!{source}" in let
    assert all(list(ROOT.glob(name.removeprefix("!"))) for name in let)


def test_the_process_is_not_root_and_gets_signals_itself() -> None:
    (user,) = instructions("USER")
    assert all(int(number) > 0 for number in user.split(":"))
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["anthropic-version-proxy"]
    assert json.loads(command)[0] == "serve"
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_no_pip_is_left_that_a_scanner_would_find_faults_in() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "\nRUN pip uninstall --yes " in last_stage


def test_the_folder_that_the_readme_keeps_the_ledger_in_is_writable_for_that_user() -> None:
    named = re.search(r"ledger: {file: (\S+)/ledger\.jsonl", (ROOT / "README.md").read_text())
    assert named
    user, group = instructions("USER")[0].split(":")
    assert f"install -d -o {user} -g {group} {named[1]}" in instructions("RUN")


def test_its_health_is_asked_for_by_the_probe() -> None:
    (check,) = instructions("HEALTHCHECK")
    assert json.loads(check.partition(" CMD ")[2]) == ["python", "-I", "-m", "proxy.probe"]


def test_its_labels_say_what_the_package_says() -> None:
    (label,) = instructions("LABEL")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', label))
    assert labels == {
        "title": PROJECT["name"],
        "description": PROJECT["description"],
        "version": PROJECT["version"],
        "licenses": PROJECT["license"],
    }


# --- Compose --------------------------------------------------------------------------------------


def listens_on(service: dict[str, Any]) -> int:
    """The port inside the container."""
    words = service.get("command", [])
    given = words[words.index("--port") + 1] if "--port" in words else None
    return int(given or service.get("environment", {}).get("PORT", 8080))


def test_without_a_word_it_is_the_proxy_in_front_of_the_sandbox() -> None:
    usual = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert usual == {"proxy", "sandbox"}
    assert SERVICES["proxy"]["depends_on"] == {"sandbox": {"condition": "service_healthy"}}
    url = SERVICES["proxy"]["environment"]["SANDBOX_URL"]
    assert url == f"http://sandbox:{listens_on(SERVICES['sandbox'])}"


def test_nothing_that_is_not_set_keeps_a_service_that_does_not_need_it_from_starting() -> None:
    assert not re.search(r"\$\{\w+:?\?", (ROOT / "docker-compose.yml").read_text())


def test_every_service_has_a_port_of_its_own_and_shows_it_to_this_machine_only() -> None:
    ports = {name: listens_on(service) for name, service in SERVICES.items()}
    assert len(set(ports.values())) == len(ports)
    for name, service in SERVICES.items():
        assert service.get("ports", []) in ([], [f"127.0.0.1:{ports[name]}:{ports[name]}"])


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_service_has_no_rights_and_time_to_drain(service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    default = config.parse((ROOT / "config" / "proxy.yaml").read_bytes(), "proxy.yaml", {})
    assert int(service["stop_grace_period"].removesuffix("s")) >= longest_stop(default)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_configuration_that_is_named_is_in_the_image(service: dict[str, Any]) -> None:
    file = service.get("environment", {}).get("PROXY_CONFIG", "config/proxy.yaml")
    assert any(fnmatch(file, line.split()[0]) for line in instructions("COPY"))
    assert (ROOT / file).exists()
