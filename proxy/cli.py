"""The command line: what each command prints, and with which code it exits.

0 fine, 1 refused or failed with a message on standard error, 2 used wrongly.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from . import config, demo, sandbox, schema, server, versions, workers
from .errors import ConfigError, ProxyError
from .explain import explain
from .summary import summary

DEFAULT_CONFIG = Path("config/proxy.yaml")
PACKAGED_CONFIG = Path(__file__).with_name("default.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except ProxyError as error:
        print(f"{error.status} {error.type}: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"anthropic-version-proxy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return code


def _serve(options: argparse.Namespace) -> int:
    load = partial(_load, _config_file(options), options.host, options.port)
    workers.serve(load, options.workers)
    return 0


def _demo(options: argparse.Namespace) -> int:
    return demo.run(keep=options.keep)


def _sandbox(options: argparse.Namespace) -> int:
    app = sandbox.build(delay=options.delay, fail=options.fail)
    server.serve_app(app, options.host, options.port)
    return 0


def _check(options: argparse.Namespace) -> int:
    print(summary(config.load(options.file)))
    return 0


def _explain(options: argparse.Namespace) -> int:
    loaded = config.load(_config_file(options))
    body = sys.stdin.buffer.read()
    print(explain(loaded, body, options.route, options.client_version, options.path))
    return 0


def _versions(_: argparse.Namespace) -> int:
    for entry in versions.VERSIONS:
        print(f"{entry.date}  {entry.about}")
        for change in entry.changes:
            print(f"  {_first_line(change)} ({', '.join(change.endpoints)})")
        for bridge in entry.bridges:
            print(f"  {_first_line(bridge)} (where a route says so)")
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(schema.text(), end="")
    return 0


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _config_file(options: argparse.Namespace) -> Path:
    """The file named, else $PROXY_CONFIG, else the one in the working directory, else ours."""
    if options.config is not None:
        return Path(options.config)
    if named := os.environ.get("PROXY_CONFIG"):
        return Path(named)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else PACKAGED_CONFIG


def _load(file: Path, host: str | None, port: int | None) -> config.Config:
    loaded = config.load(file)
    listening = replace(
        loaded.server,
        host=loaded.server.host if host is None else host,
        port=loaded.server.port if port is None else port,
    )
    return replace(loaded, server=listening)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anthropic-version-proxy",
        description="Keeps clients of old Anthropic API versions working against the API of today.",
        epilog="Try it without a key and without a network: anthropic-version-proxy demo",
    )
    parser.add_argument("--version", action="version", version=version("anthropic-version-proxy"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the proxy")
    command.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration; else $PROXY_CONFIG, else config/proxy.yaml, else the packaged one",
    )
    command.add_argument("--host", help="listen on this address instead of the file's")
    command.add_argument("--port", type=_port, help="listen on this port instead of the file's")
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes to serve with (1)"
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "demo", help="play an old client against the sandbox and show both wires"
    )
    command.add_argument("--keep", action="store_true", help="stay up and print a line to try")
    command.set_defaults(run=_demo)

    command = commands.add_parser("sandbox", help="run the stand-in for today's API alone")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=_port, default=8081, help="port to listen on (8081)")
    command.add_argument(
        "--delay", type=_delay, default=0.02, metavar="S", help="seconds between deltas (0.02)"
    )
    command.add_argument(
        "--fail", choices=sorted(sandbox.FAILURES), metavar="KIND", help=_failures()
    )
    command.set_defaults(run=_sandbox)

    command = commands.add_parser("check", help="validate a configuration")
    command.add_argument("file", metavar="FILE")
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "explain",
        help="print what would go upstream for a request read from standard input; send nothing",
    )
    command.add_argument("--config", metavar="FILE", help="the configuration, as for serve")
    command.add_argument("--route", metavar="NAME", help="the route; else the first that matches")
    command.add_argument(
        "--path", default="/v1/complete", help="the path that is called (/v1/complete)"
    )
    command.add_argument(
        "--client-version",
        metavar="DATE",
        default=versions.dates()[0],
        help=f"the version that the client speaks ({versions.dates()[0]})",
    )
    command.set_defaults(run=_explain)

    command = commands.add_parser("versions", help="list the versions and what changed in each")
    command.set_defaults(run=_versions)

    command = commands.add_parser(
        "schema", help="print the JSON Schema of a configuration, for editors"
    )
    command.set_defaults(run=_schema)
    return parser


def _failures() -> str:
    kinds = "; ".join(f"{kind}: {about}" for kind, about in sandbox.FAILURES.items())
    return f"fail every call in one way ({kinds})".replace("%", "%%")


def _port(text: str) -> int:
    return _between(int(text), 0, 65_535)


def _count(text: str) -> int:
    return _between(int(text), 1, 1_024)


def _delay(text: str) -> float:
    delay = float(text)
    if not 0 <= delay <= 3_600:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("must be between 0 and 3600 seconds")
    return delay


def _between(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"must be between {low} and {high}")
    return number
