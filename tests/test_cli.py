"""The commands, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from proxy.cli.cli import COMMANDS, PACKAGED_CONFIG, main
from proxy.server.listeners import listen
from proxy.versions import VERSIONS
from support import PATIENCE, old_request

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMAND = [sys.executable, "-m", "proxy"]


def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def started(
    *arguments: str, cwd: Path = ROOT, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command that serves; yields its process and the address that it printed."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            address = re.search(r"http://\S+", ready)
            assert address, ready
            yield process, address[0]
        finally:
            if process.poll() is None:
                process.kill()


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Ask a process to stop; returns its exit code and what it logged."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def request_to(address: str, version: str = "2023-01-01", *, stream: bool = True) -> Request:
    """A call of /v1/complete as old clients make it."""
    head, _, body = old_request(stream=stream, tokens=100).partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return Request(  # noqa: S310  (the address is our own)
        f"{address}/v1/complete", body, {**fields, "anthropic-version": version}
    )


def post(address: str, version: str = "2023-01-01", *, stream: bool = True) -> str:
    """Call /v1/complete as an old client does; returns the body."""
    with urlopen(request_to(address, version, stream=stream), timeout=30) as response:  # noqa: S310
        return str(response.read().decode())


def test_the_demo_shows_both_wires_and_the_answer() -> None:
    done = run("demo", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "event: message_start" in done.stdout
    assert "event: content_block_delta" in done.stdout
    assert 'data: {"completion":' in done.stdout
    assert "data: [DONE]" in done.stdout
    assert 'Hello! You said: "Say hello to 2023!"' in done.stdout
    assert done.stderr == ""


def test_serve_answers_an_old_client_and_stops_with_0(tmp_path: Path) -> None:
    del tmp_path
    sandbox = started("sandbox", "--port", "0", "--delay", "0")
    with sandbox as (_, upstream):
        serving = started(
            "serve", "--config", "config/sandbox.yaml", "--port", "0", SANDBOX_URL=upstream
        )
        with serving as (process, address):
            assert post(address).endswith('"exception":null}\r\n\r\ndata: [DONE]\r\n\r\n')
            with pytest.raises(HTTPError) as refused:
                post(address, "2023-1-1")
            assert refused.value.code == 400
            refused.value.close()
            code, errors = stop(process)
    assert code == 0
    assert f"INFO proxy upstream sandbox {upstream} speaks 2023-06-01, 2026-10-21" in errors
    assert "INFO proxy route POST /v1/complete -> sandbox bridge: messages (complete)" in errors
    assert "POST /v1/complete route=complete upstream=sandbox client_version=2023-01-01" in errors
    assert 'error="invalid_version:' in errors
    assert "Traceback" not in errors


def test_workers_share_one_port_and_stop_with_0() -> None:
    with started("sandbox", "--port", "0", "--delay", "0") as (_, upstream):
        arguments = ("--config", "config/sandbox.yaml", "--port", "0", "--workers", "2")
        with started("serve", *arguments, SANDBOX_URL=upstream) as (process, address):
            assert all(post(address, stream=False).startswith('{"completion":" ') for _ in range(8))
            code, errors = stop(process)
    assert code == 0
    assert errors.count("ended=complete") == 8


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_lets_an_open_stream_finish(workers: str) -> None:
    with started("sandbox", "--port", "0", "--delay", "0.05") as (_, upstream):
        arguments = ("--config", "config/sandbox.yaml", "--port", "0", "--workers", workers)
        with started("serve", *arguments, SANDBOX_URL=upstream) as (process, address):
            with urlopen(request_to(address), timeout=30) as response:  # noqa: S310
                first = response.readline()
                assert b'"stop_reason":null' in first
                process.send_signal(signal.SIGTERM)
                rest = response.read().decode()
            _, errors = process.communicate(timeout=30)
    assert rest.endswith('"exception":null}\r\n\r\ndata: [DONE]\r\n\r\n')
    assert process.returncode == 0
    assert "ended=complete" in errors


def test_the_sandbox_fails_as_it_is_told_to() -> None:
    with started("sandbox", "--port", "0", "--fail", "overloaded") as (process, address):
        with pytest.raises(HTTPError, match="529: Overloaded") as refused:
            post(address, "2023-06-01")
        refused.value.close()
        assert stop(process)[0] == 0


@pytest.mark.parametrize("name", ["proxy", "completions", "sandbox"])
def test_check_sums_up_what_is_shipped(name: str) -> None:
    done = run("check", f"config/{name}.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "/v1/complete" in done.stdout


def test_a_key_that_is_not_set_is_asked_for() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    command = [*COMMAND, "serve", "--port", "0", "--config", "config/key.yaml"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "${ANTHROPIC_API_KEY} is not set: set it in the environment" in done.stderr


def test_check_tells_every_problem_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text('upstreams:\n  a: {base_url: "ftp://x", speeks: []}\nroutes: []\n')
    done = run("check", str(file))
    assert done.returncode == 1
    assert done.stdout == ""
    problems = done.stderr.splitlines()
    assert all(re.match(rf"{re.escape(str(file))}:\d+:\d+: \S+", line) for line in problems)
    assert any("did you mean" in line and "speaks" in line for line in problems)
    assert len(problems) >= 3


def test_a_configuration_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    done = run("serve", "--config", str(tmp_path / "missing.yaml"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_without_a_configuration_the_packaged_one_is_served(tmp_path: Path) -> None:
    with started("serve", "--port", "0", cwd=tmp_path) as (process, address):
        with urlopen(f"{address}/-/ready", timeout=30) as ready:  # noqa: S310
            assert ready.status == 200
        assert stop(process)[0] == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_is_taken_is_told_in_one_line(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, "--workers", workers)
    assert done.returncode == 1
    assert done.stderr == (
        f"anthropic-version-proxy: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "take another port, or 0 for any free one\n"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_of_tls_keys_that_cannot_be_written_is_told_in_one_line(workers: str) -> None:
    done = run("serve", "--port", "0", "--workers", workers, SSLKEYLOGFILE="/nowhere/keys")
    assert done.returncode == 1
    assert done.stderr == (
        "anthropic-version-proxy: SSLKEYLOGFILE /nowhere/keys cannot be written: "
        "No such file or directory\n"
    )


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 to listen on")
def test_all_addresses_are_those_of_both_families() -> None:
    with listen("::", 0) as listener:  # IPv6 may have no address here, as in many containers
        assert listener.family == socket.AF_INET6
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), PATIENCE).close()


def test_a_name_that_leads_nowhere_is_told_in_one_line() -> None:
    done = run("serve", "--host", "..", "--port", "0")
    told = "cannot listen on .. port 0: it is no address, and no name of one"
    assert (done.returncode, done.stderr) == (1, f"anthropic-version-proxy: {told}\n")


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        ("os.rmdir(os.getcwd())", "No such file or directory"),
        # As where sudo was used in a home that the new user may not enter; root may enter all.
        ("for deep in 20 * ['x' * 255]: os.mkdir(deep); os.chdir(deep)", "File name too long"),
    ],
)
def test_a_working_directory_out_of_reach_is_told_in_one_line(
    tmp_path: Path, happens: str, why: str
) -> None:
    program = f"import os, sys\n{happens}\nfrom proxy.cli.cli import main\nsys.exit(main())"
    command = [sys.executable, "-Pc", program, "serve", "--port", "0", "--workers", "2"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PROXY_CONFIG": str(PACKAGED_CONFIG)}
    (folder := tmp_path / "folder").mkdir()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    told = f"workers start in the working directory, and it cannot be entered: {why}"
    assert (done.returncode, done.stderr) == (1, f"anthropic-version-proxy: {told}\n")


def test_versions_prints_the_history() -> None:
    printed = run("versions").stdout
    assert [line.split()[0] for line in printed.splitlines() if line[:1] != " "] == [
        version.date for version in VERSIONS
    ]
    assert "data: [DONE]" in printed


@pytest.mark.parametrize(
    "arguments", [[], ["serve", "--port", "70000"], ["sandbox", "--fail", "often"], ["guess"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: anthropic-version-proxy" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: anthropic-version-proxy {command}" in printed
    assert "\nexample" in printed
    assert "exit codes:" in printed
    assert ("NO_COLOR" in printed) == (command in ("check", "demo"))
    for variable in re.findall(r"PROXY_[A-Z_]+", README):
        if command == "serve" and variable not in ("PROXY_CHAOS", "PROXY_RECORDINGS"):
            assert variable in printed


def test_the_help_and_the_readme_name_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in printed
        assert f"\n| `{command}" in README


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--port", "x"], "argument --port: 'x' is not a port, 0 (any free one) to 65535"),
        (["serve", "--host", ""], "argument --host: '' is no address and no host name"),
        (
            ["sandbox", "--host", "\udcff"],
            "argument --host: '\\udcff' is no address and no host name",
        ),
        (["serve", "--workers", "0"], "argument --workers: '0' is not a whole number from 1 to"),
        (["sandbox", "--delay", "nan"], "argument --delay: 'nan' is not a number of seconds from"),
    ],
)
def test_wrong_usage_is_told_with_what_is_right(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_check_takes_several_files_and_tells_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text("admin: 1\n")
    worse.write_text("x: 1\n")
    fine = [str(ROOT / "config" / name) for name in ("sandbox.yaml", "completions.yaml")]
    assert main(["check", str(bad), *fine, str(worse)]) == 1
    printed = capsys.readouterr()
    assert f"{bad}:1:8: admin: is '1': must be a mapping of keys to values" in printed.err
    assert f"{worse}:1:1: x: is not known" in printed.err
    assert all(f"{file}\nlistens on " in printed.out for file in fine)
    assert main(["check", "--quiet", *fine]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_problems_have_colours_on_a_terminal_unless_they_are_unwanted(
    tmp_path: Path, environ: dict[str, str], *, coloured: bool
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("x: 1\n")
    ours, theirs = os.openpty()
    environ = {"TERM": "xterm", "PATH": "", "PYTHONPATH": str(ROOT)} | environ
    subprocess.run([*COMMAND, "check", file], env=environ, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123
        told = terminal.read(1 << 16).decode()
    assert ("\033[" in told) == coloured
    assert f"{file}:1:1: x: is not known: " in re.sub(r"\033\[\d+m", "", told)


def test_a_reader_that_has_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "schema"], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("schema >&-", 0, ""),
        ("explain <&-", 1, "400 invalid_request_error: The request body is not valid JSON"),
        ("check README.md 2>&-", 1, ""),
        ("check README.md 2>/dev/full", 1, ""),
        ("check README.md $'\\xff' >&-", 1, "README.md:"),
    ],
)
def test_a_stream_that_is_closed_changes_no_exit_code(line: str, code: int, told: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m proxy {line}"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.decode().startswith(told)
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_that_nobody_reads_where_it_listens_is_no_reason_not_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "serve", "--port", port]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        assert "INFO proxy upstream" in process.stderr.readline()  # it listens, and soon answers
        with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=30) as response:
            assert response.read() == b"ready\n"
        code, errors = stop(process)
    assert code == 0
    assert "draining" in errors


def test_explain_prints_what_would_go_upstream_and_why() -> None:
    body = {
        "model": "claude-v1",
        "prompt": "Be kind.\n\nHuman: Hi\n\nHuman: there\n\nAssistant: Sure",
        "max_tokens_to_sample": 9,
        "top_k": -1,
        "unheard_of": 1,
    }
    done = subprocess.run(
        [*COMMAND, "explain", "--config", "config/proxy.yaml"],
        cwd=ROOT,
        input=json.dumps(body),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    head, _, rest = done.stdout.partition("\n\n")
    assert head == "POST https://api.anthropic.com/v1/messages\nanthropic-version: 2023-06-01"
    sent, _, why = rest.partition("\n\ndropped:\n")
    assert json.loads(sent) == {
        "model": "claude-haiku-4-5-20251001",
        "max_tokens": 9,
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": "Hi\n\nthere"},
            {"role": "assistant", "content": "Sure"},
        ],
    }
    assert "unheard_of: not a parameter of this endpoint" in why
    assert "top_k: left out, it has no effect" in why
    assert "turns joined to one of the same role before them: 1" in why


def test_explain_refuses_as_the_proxy_would() -> None:
    done = subprocess.run(
        [*COMMAND, "explain"],
        cwd=ROOT,
        input='{"model": "claude-v1", "prompt": "Hi", "max_tokens_to_sample": 9}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("400 invalid_request_error: prompt must start with")


def test_explain_takes_a_path_and_what_cannot_be_laid_out() -> None:
    def explained(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "explain", *arguments],
            cwd=ROOT,
            input=body,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = explained('{"model": "m"}', "--path", "/v1/messages")
    assert done.stdout.startswith("POST https://api.anthropic.com/v1/messages\n")
    done = explained('{"n": 1e999}', "--client-version", "2099-01-01")
    assert (done.returncode, done.stderr) == (0, "")
    assert '{"n": 1e999}' in done.stdout
    assert "the body passes through" in done.stdout
    done = explained("{}", "--path", "/v1/complete?beta=true")
    assert done.returncode == 1
    assert done.stderr.startswith("400 invalid_request_error: path: must be the path")
    done = explained("{}", "--client-version", "\udcff")  # a byte that is no UTF-8
    assert done.returncode == 1
    assert done.stderr.startswith("400 invalid_version: anthropic-version: header is not a date")


def test_explain_lets_no_request_command_a_terminal() -> None:
    body = {"model": "m\x1b[2J", "prompt": "\n\nHuman: \x7f\x9b2J\n\nAssistant:", "\x1b]0;x\a": 1}
    done = subprocess.run(
        [*COMMAND, "explain", "--config", "config/proxy.yaml"],
        cwd=ROOT,
        input=json.dumps(body | {"max_tokens_to_sample": 9}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable()
    assert r'"content": "\u007f\u009b2J"' in done.stdout
    assert r"\u001b]0;x\u0007: not a parameter" in done.stdout


def test_a_log_level_that_is_none_is_told_in_one_line() -> None:
    done = run("serve", "--port", "0", PROXY_LOG_LEVEL="bogus")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_variable_that_is_empty_is_none() -> None:
    done = run("serve", "--config", "none.yaml", PROXY_LOG_LEVEL="", PROXY_LOG_FORMAT="")
    assert "none.yaml" in done.stderr
    assert "PROXY_LOG" not in done.stderr
