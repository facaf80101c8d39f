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
from pathlib import Path

from .. import config, versions
from ..config import schema
from ..config.summary import summary
from ..core.errors import ConfigError, ProxyError
from ..exchange.explain import explain
from ..sandbox import sandbox
from ..server import server, supervisor
from . import demo
from .arguments import parser
from .terminal import BOLD, RED, escaped, open_streams, paint, print_line, silence

DEFAULT_CONFIG = Path("config/proxy.yaml")
PACKAGED_CONFIG = Path(__file__).parents[1] / "default.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    open_streams()
    options = parser(COMMANDS).parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        _print_problems(error)
        return 1
    except ProxyError as error:
        print_line(escaped(f"{error.status} {error.type}: {error.message}"), sys.stderr)
        return 1
    except BrokenPipeError:  # who reads has enough
        silence(sys.stdout)
        return 0
    except OSError as error:
        print_line(f"anthropic-version-proxy: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return code


def _serve(options: argparse.Namespace) -> int:
    load = partial(_load, _config_file(options), options.host, options.port)
    supervisor.serve(load, options.workers)
    return 0


def _demo(options: argparse.Namespace) -> int:
    return demo.run(keep=options.keep)


def _sandbox(options: argparse.Namespace) -> int:
    app = sandbox.build(delay=options.delay, fail=options.fail)
    server.serve_app(app, options.host, options.port)
    return 0


def _check(options: argparse.Namespace) -> int:
    fine: list[str] = []
    for file in options.files:
        try:
            text = summary(config.load(file))
        except ConfigError as error:
            _print_problems(error)
        else:
            several = len(options.files) > 1
            fine.append(f"{paint(file, BOLD, sys.stdout)}\n{text}" if several else text)
    if fine and not options.quiet:
        print("\n\n".join(fine))
    return int(len(fine) < len(options.files))


def _print_problems(error: ConfigError) -> None:
    """Print all problems of a file; the text is the same with and without colours."""
    for problem in error.problems:
        place = paint(f"{error.file}:{problem.line}:{problem.column}:", BOLD, sys.stderr)
        what = paint(problem.what, RED, sys.stderr)
        print_line(f"{place} {problem.where}: {what}: {problem.rule}", sys.stderr)


def _explain(options: argparse.Namespace) -> int:
    loaded = config.load(_config_file(options))
    if sys.stdin.isatty():
        print("type a request in JSON, and end it with Ctrl-D:", file=sys.stderr)
    body = sys.stdin.buffer.read()
    explanation = explain(loaded, options.path, options.client_version, body, route=options.route)
    print(escaped(str(explanation)))
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


COMMANDS = {
    "serve": _serve,
    "demo": _demo,
    "sandbox": _sandbox,
    "check": _check,
    "explain": _explain,
    "versions": _versions,
    "schema": _schema,
}
