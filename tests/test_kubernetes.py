"""The manifests are valid, agree with the proxy, and hold a valid configuration."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import config
from proxy.server.settings import longest_stop
from support import PATIENCE, connect
from support.processes import served, write_config

Json = dict[str, Any]

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "config" / "kubernetes").glob("*.yaml"))
FOR_EACH = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
EXAMPLE = config.parse((ROOT / "config" / "proxy.yaml").read_bytes(), "proxy.yaml", {})


def manifests(file: Path, kind: str) -> list[Json]:
    """All objects of a kind in a file."""
    return [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] == kind]


def pod(file: Path) -> Json:
    """What the one Deployment in a file makes Pods of."""
    (deployment,) = manifests(file, "Deployment")
    spec: Json = deployment["spec"]["template"]["spec"]
    return spec


def containers(file: Path) -> Iterator[Json]:
    """All containers, sidecars first."""
    spec = pod(file)
    yield from (*spec.get("initContainers", []), *spec["containers"])


def proxy_in(file: Path) -> Json:
    """The container of ours."""
    (ours,) = (each for each in containers(file) if "version-proxy" in each["image"])
    return ours


def configured(file: Path) -> config.Config:
    """The configuration in a file's ConfigMap, read as the proxy reads it."""
    (held,) = manifests(file, "ConfigMap")
    return config.parse(held["data"]["proxy.yaml"], file.name, {"ANTHROPIC_API_KEY": "k"})


def test_there_is_one_for_each_use() -> None:
    assert [file.stem for file in FILES] == ["shared", "sidecar"]


@pytest.mark.parametrize("release", ["1.28", "1.33"])
def test_they_are_valid(release: str) -> None:
    tool = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [tool, "--strict", "-k", release, *FILES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@FOR_EACH
def test_the_configuration_serves_what_the_example_serves(file: Path) -> None:
    read = configured(file)
    assert (read.routes, read.models) == (EXAMPLE.routes, EXAMPLE.models)
    (ours,), (shown,) = read.upstreams.values(), EXAMPLE.upstreams.values()
    assert (ours.name, ours.base_url, ours.speaks) == (shown.name, shown.base_url, shown.speaks)


@FOR_EACH
def test_a_pod_has_time_to_drain(file: Path) -> None:
    sleep = proxy_in(file).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    before = int(sleep[1]) if sleep else 0
    assert sleep in (None, ["sleep", str(before)])
    assert pod(file)["terminationGracePeriodSeconds"] >= before + longest_stop(configured(file))


@FOR_EACH
def test_the_proxy_finds_its_configuration_in_a_directory_that_is_kept_up_to_date(
    file: Path,
) -> None:
    ours, (held,) = proxy_in(file), manifests(file, "ConfigMap")
    workdir = re.search(r"^WORKDIR (/etc/.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert workdir
    mounted = {"name": "config", "mountPath": f"{workdir[1]}/config", "readOnly": True}
    assert ours["volumeMounts"] == [mounted]  # and no subPath
    name = held["metadata"]["name"]
    assert pod(file)["volumes"] == [{"name": "config", "configMap": {"name": name}}]
    assert ours["args"] == ["serve"]  # and no --host, so that the file's counts


@FOR_EACH
def test_every_variable_that_the_configuration_needs_is_a_secrets(file: Path) -> None:
    (held,) = manifests(file, "ConfigMap")
    needed = set(re.findall(r"\$\{(\w+)\}", held["data"]["proxy.yaml"]))
    given = {each["name"] for each in proxy_in(file).get("env", []) if "valueFrom" in each}
    assert needed == given
    assert "sk-ant" not in file.read_text()


@FOR_EACH
def test_the_image_is_of_this_version(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert proxy_in(file)["image"] == f"{project['name']}:{project['version']}"


@FOR_EACH
def test_no_container_has_rights_or_memory_without_bounds(file: Path) -> None:
    shared = pod(file)["securityContext"]
    assert shared == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod(file)["automountServiceAccountToken"] is False
    for container in containers(file):
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}


@FOR_EACH
def test_the_memory_is_enough_for_all_that_is_said_to_be_let_in(file: Path) -> None:
    measured = re.search(r"up to (\d+) MB, and the\s+# .* can add (\d+) MB", file.read_text())
    assert measured
    limit = proxy_in(file)["resources"]["limits"]["memory"]
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    allowed = int(limit[:-2]) * units[limit[-2:]]
    assert sum(map(int, measured.groups())) * 1_000_000 <= allowed * 0.9  # the kernel's, and probes


# --- the sidecar ----------------------------------------------------------------------------------

SIDECAR = ROOT / "config" / "kubernetes" / "sidecar.yaml"
SHARED = ROOT / "config" / "kubernetes" / "shared.yaml"


def test_the_sidecar_starts_before_the_program_and_outlives_it() -> None:
    assert proxy_in(SIDECAR) in pod(SIDECAR)["initContainers"]
    assert proxy_in(SIDECAR)["restartPolicy"] == "Always"
    assert "startupProbe" in proxy_in(SIDECAR)


def test_the_program_reaches_the_sidecar_and_nobody_else_does() -> None:
    server = configured(SIDECAR).server
    assert server.host == "127.0.0.1"
    (program,) = pod(SIDECAR)["containers"]
    urls = [each["value"] for each in program["env"] if each["name"] == "ANTHROPIC_API_URL"]
    assert urls == [f"http://127.0.0.1:{server.port}"]


def test_the_sidecar_is_probed_from_inside() -> None:
    probes = {
        name: proxy_in(SIDECAR)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")
    }
    paths = {"startup": "/-/ready", "liveness": "/-/healthy", "readiness": "/-/ready"}
    for name, probe in probes.items():
        command = ["python", "-I", "-m", "proxy.probe", paths[name]]
        assert probe["exec"] == {"command": command}
        assert probe["timeoutSeconds"] > 1
    assert configured(SIDECAR).server.port == 8080  # which the probe asks if nothing is said


# --- the shared one -------------------------------------------------------------------------------


def test_the_shared_one_is_probed_where_it_listens() -> None:
    ours, server = proxy_in(SHARED), configured(SHARED).server
    assert server.host == "0.0.0.0"  # noqa: S104  (what is asked for)
    assert ours["ports"] == [{"name": "http", "containerPort": server.port}]
    (service,) = manifests(SHARED, "Service")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    for name, path in (("startup", "ready"), ("liveness", "healthy"), ("readiness", "ready")):
        assert ours[f"{name}Probe"]["httpGet"] == {"path": f"/-/{path}", "port": "http"}


def test_all_that_is_shared_is_about_the_same_pods() -> None:
    (deployment,) = manifests(SHARED, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,), (budget,) = manifests(SHARED, "Service"), manifests(SHARED, "PodDisruptionBudget")
    (policy,) = manifests(SHARED, "NetworkPolicy")
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    (scaler,) = manifests(SHARED, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # or each apply would undo the scaler's
    assert scaler["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]


# --- what they say of a ConfigMap that changes ----------------------------------------------------


@pytest.mark.anyio
async def test_a_file_that_is_exchanged_as_the_kubelet_does_is_read_at_sighup(
    tmp_path: Path,
) -> None:
    """It writes a new directory, and turns a symbolic link to it."""
    for name, enabled in (("..old", True), ("..new", False)):
        (tmp_path / name).mkdir()
        write_config(
            tmp_path / name / "proxy.yaml", "http://127.0.0.1:9", admin={"enabled": enabled}
        )
    (tmp_path / "..data").symlink_to("..old")
    (tmp_path / "proxy.yaml").symlink_to("..data/proxy.yaml")
    async with served("serve", "--config", str(tmp_path / "proxy.yaml")) as proxy:
        assert await _asked(proxy.url) == b"HTTP/1.1 200 OK\r\n"
        (tmp_path / "..data_tmp").symlink_to("..new")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        proxy.signal(signal.SIGHUP)
        await proxy.logged("reloaded")
        assert await _asked(proxy.url) == b"HTTP/1.1 404 Not Found\r\n"
        assert await proxy.stopped() == 0


async def _asked(url: str) -> bytes:
    """The status line of the answer to a probe."""
    async with await connect(url) as client:
        await client.say(b"GET /-/ready HTTP/1.1\r\nhost: proxy\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            return await client.reader.readline()
