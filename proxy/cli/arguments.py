"""The commands and options of the command line, and their help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version

from .. import versions
from ..sandbox.generating import FAILURES

Run = Callable[[argparse.Namespace], int]

PROGRAM = "anthropic-version-proxy"

EXIT_CODES = """\
exit codes:
  0  fine
  1  refused or failed, with a message on standard error
  2  used wrongly"""

CONFIG_VARIABLES = """\
  PROXY_CONFIG      the configuration file, without --config
  NAME              any variable that the configuration uses as ${NAME}"""

LOG_VARIABLES = """\
  PROXY_LOG_LEVEL   DEBUG, INFO (default), WARNING (failures only) or ERROR
  PROXY_LOG_FORMAT  text (default) or json (one object per line)"""

COLOUR_VARIABLES = """\
  NO_COLOR  if set, no colours"""

SERVE = f"""\
examples:
  {PROGRAM} serve
  {PROGRAM} serve --config proxy.yaml --port 9000 --workers 4

signals:
  SIGTERM, SIGINT   let open exchanges finish, then stop; a second one stops at once
  SIGHUP            reload the configuration; open exchanges go on

environment:
{CONFIG_VARIABLES}
{LOG_VARIABLES}
  OTEL_...          OpenTelemetry's own, for traces; needs the extra otel"""

DEMO = f"""\
examples:
  {PROGRAM} demo
  {PROGRAM} demo --keep

environment:
{COLOUR_VARIABLES}"""

SANDBOX = f"""\
example, with the proxy in front of it:
  {PROGRAM} sandbox --port 8081 &
  SANDBOX_URL=http://127.0.0.1:8081 {PROGRAM} serve --config config/sandbox.yaml

environment:
{LOG_VARIABLES}"""

CHECK = f"""\
examples:
  {PROGRAM} check config/proxy.yaml
  {PROGRAM} check --quiet config/*.yaml

Problems go to standard error, each as FILE:LINE:COLUMN: where: what: the rule.

environment:
{COLOUR_VARIABLES}
  NAME      any variable that a configuration uses as ${{NAME}}"""

EXPLAIN = f"""\
examples:
  {PROGRAM} explain < request.json
  {PROGRAM} explain --path /v1/messages --client-version 2023-06-01 < request.json

environment:
{CONFIG_VARIABLES}"""

VERSIONS = f"""\
example:
  {PROGRAM} versions"""

SCHEMA = f"""\
example:
  {PROGRAM} schema > proxy.schema.json

Editors find it by the first line of a configuration:
  # yaml-language-server: $schema=proxy.schema.json"""


def parser(commands: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser of the command line; its result's ``run`` is the function of the command."""
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
    """Add a command; ``about`` is one line, ``more`` stands below its options."""
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
    command.add_argument("--host", type=_host, help="overrides server.host")
    command.add_argument("--port", type=_port, help="overrides server.port")
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="number of processes (1)"
    )
    return command


def _demo(add: Add) -> argparse.ArgumentParser:
    command = add("play an old client against the sandbox and show both wires", DEMO)
    command.add_argument("--keep", action="store_true", help="keep running and print what to try")
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
    command.add_argument("--fail", choices=sorted(FAILURES), metavar="KIND", help=_failures())
    return command


def _check(add: Add) -> argparse.ArgumentParser:
    command = add("validate configurations", CHECK)
    command.add_argument("--quiet", action="store_true", help="print problems only, no summary")
    command.add_argument("files", metavar="FILE", nargs="+", help="a configuration")
    return command


def _explain(add: Add) -> argparse.ArgumentParser:
    about = "print what would be sent upstream for a request on standard input; send nothing"
    command = add(about, EXPLAIN)
    _add_config(command)
    command.add_argument("--route", metavar="NAME", help="use this route, not the first match")
    command.add_argument(
        "--path", default="/v1/complete", help="the path of the request (/v1/complete)"
    )
    command.add_argument(
        "--client-version",
        metavar="DATE",
        default=versions.dates()[0],
        help=f"the version of the request ({versions.dates()[0]})",
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
        help="the configuration file; without it $PROXY_CONFIG, else config/proxy.yaml, "
        "else the packaged default",
    )


def _failures() -> str:
    kinds = "; ".join(f"{kind}: {about}" for kind, about in FAILURES.items())
    return f"answer every call with this failure ({kinds})".replace("%", "%%")


def _host(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):  # an empty one would be every address
        raise argparse.ArgumentTypeError(f"{text!r} is no address and no host name")
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
