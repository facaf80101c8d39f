"""What can be written on the command line, and the help that says so."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version

from . import sandbox, versions

Run = Callable[[argparse.Namespace], int]

PROGRAM = "anthropic-version-proxy"

EXIT_CODES = """\
exit codes:
  0  fine
  1  refused or failed, with a message on standard error
  2  used wrongly"""

OF_THE_CONFIGURATION = """\
  PROXY_CONFIG      the configuration, where --config does not name one
  NAME              whatever the configuration refers to as ${NAME}"""

OF_THE_LOG = """\
  PROXY_LOG_LEVEL   DEBUG, INFO (as it is), WARNING (failures only) or ERROR
  PROXY_LOG_FORMAT  text (as it is) or json, one object a line"""

OF_COLOURS = """\
  NO_COLOR  no colours, on a terminal either"""

SERVE = f"""\
examples:
  {PROGRAM} serve
  {PROGRAM} serve --config proxy.yaml --port 9000 --workers 4

signals:
  SIGTERM, SIGINT   finish open exchanges, then stop; once more: stop at once
  SIGHUP            read the configuration anew, without a cut

environment:
{OF_THE_CONFIGURATION}
{OF_THE_LOG}
  OTEL_...          OpenTelemetry's own, for traces, with the extra otel"""

DEMO = f"""\
examples:
  {PROGRAM} demo
  {PROGRAM} demo --keep

environment:
{OF_COLOURS}"""

SANDBOX = f"""\
example, with the proxy in front of it:
  {PROGRAM} sandbox --port 8081 &
  SANDBOX_URL=http://127.0.0.1:8081 {PROGRAM} serve --config config/sandbox.yaml

environment:
{OF_THE_LOG}"""

CHECK = f"""\
examples:
  {PROGRAM} check config/proxy.yaml
  {PROGRAM} check --quiet config/*.yaml

Problems go to standard error, each as FILE:LINE:COLUMN: where: what: the rule.

environment:
{OF_COLOURS}
  NAME      whatever a configuration refers to as ${{NAME}}"""

EXPLAIN = f"""\
examples:
  {PROGRAM} explain < request.json
  {PROGRAM} explain --path /v1/messages --client-version 2023-06-01 < request.json

environment:
{OF_THE_CONFIGURATION}"""

VERSIONS = f"""\
example:
  {PROGRAM} versions"""

SCHEMA = f"""\
example:
  {PROGRAM} schema > proxy.schema.json

An editor finds it by the first line of a configuration:
  # yaml-language-server: $schema=proxy.schema.json"""


def parser(commands: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser of the whole line; ``run`` of what it parses is the function of the command."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Keeps clients of old Anthropic API versions working against the API of today.",
        epilog=f"Try it without a key and without a network: {PROGRAM} demo\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=version(PROGRAM))
    place = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, add in _COMMANDS.items():
        add(partial(_command, place, name)).set_defaults(run=commands[name])
    return whole


def _command(
    place: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    more: str = "",
) -> argparse.ArgumentParser:
    """A command; ``about`` is one line, ``more`` stands under its options."""
    return place.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="\n\n".join(part for part in (more, EXIT_CODES) if part),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


Add = Callable[..., argparse.ArgumentParser]


def _serve(add: Add) -> argparse.ArgumentParser:
    command = add("run the proxy", SERVE)
    _add_config(command)
    command.add_argument("--host", type=_host, help="listen on this address instead of the file's")
    command.add_argument("--port", type=_port, help="listen on this port instead of the file's")
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes to serve with (1)"
    )
    return command


def _demo(add: Add) -> argparse.ArgumentParser:
    command = add("play an old client against the sandbox and show both wires", DEMO)
    command.add_argument("--keep", action="store_true", help="stay up and print what to try")
    return command


def _sandbox(add: Add) -> argparse.ArgumentParser:
    command = add("run the stand-in for today's API alone", SANDBOX)
    command.add_argument(
        "--host", type=_host, default="127.0.0.1", help="address to listen on (127.0.0.1)"
    )
    command.add_argument("--port", type=_port, default=8081, help="port to listen on (8081)")
    command.add_argument(
        "--delay", type=_delay, default=0.02, metavar="S", help="seconds between deltas (0.02)"
    )
    command.add_argument(
        "--fail", choices=sorted(sandbox.FAILURES), metavar="KIND", help=_failures()
    )
    return command


def _check(add: Add) -> argparse.ArgumentParser:
    command = add("validate configurations", CHECK)
    command.add_argument("--quiet", action="store_true", help="print problems only, no summary")
    command.add_argument("files", metavar="FILE", nargs="+", help="a configuration")
    return command


def _explain(add: Add) -> argparse.ArgumentParser:
    about = "print what would go upstream for a request read from standard input; send nothing"
    command = add(about, EXPLAIN)
    _add_config(command)
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
    return command


def _versions(add: Add) -> argparse.ArgumentParser:
    return add("list the versions and what changed in each", VERSIONS)


def _schema(add: Add) -> argparse.ArgumentParser:
    return add("print the JSON Schema of a configuration, for editors", SCHEMA)


_COMMANDS: dict[str, Callable[[Add], argparse.ArgumentParser]] = {
    "serve": _serve,
    "demo": _demo,
    "sandbox": _sandbox,
    "check": _check,
    "explain": _explain,
    "versions": _versions,
    "schema": _schema,
}


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration; else $PROXY_CONFIG, else config/proxy.yaml, else the packaged one",
    )


def _failures() -> str:
    kinds = "; ".join(f"{kind}: {about}" for kind, about in sandbox.FAILURES.items())
    return f"fail every call in one way ({kinds})".replace("%", "%%")


def _host(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):  # an empty one would be every address
        raise argparse.ArgumentTypeError(f"{text!r} is no address and no name of a host")
    return text


def _port(text: str) -> int:
    return int(_number(text, 0, 65_535, "a port, 0 (any free one) to 65535"))


def _count(text: str) -> int:
    return int(_number(text, 1, 1_024, "a whole number from 1 to 1024"))


def _delay(text: str) -> float:
    return _number(text, 0, 3_600, "a number of seconds from 0 to 3600", whole=False)


def _number(text: str, low: int, high: int, what: str, *, whole: bool = True) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = -1
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number
