"""The command line of the benchmark: which figures to take, and where to write them.

Exit codes: 0 if every target that could be measured is met, 1 if one is missed or our proxy could
not be measured, 2 for wrong usage. In a quick run no target counts as missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import plot
from .figures import FIGURES, Bench
from .report import Report, Row, machine, say
from .targets import CACHE, Cores, Stage, Unavailable

_NICER = -10
_NOTICEABLE = 0.1
"""From this share of the measured core on, the use by other processes is reported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    options = _parser().parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("the bench needs two cores: one for the load, one for what is measured", aside=True)
        return 2
    _prepare(Cores(load=cores[0], alone=cores[1]))
    began = time.monotonic()
    try:
        report = _measure(options, Cores(load=cores[0], alone=cores[1]))
    except Unavailable as error:
        say(f"the mock upstream: {error}", aside=True)
        return 1
    except KeyboardInterrupt:
        say("interrupted; every process was stopped", aside=True)
        return 130
    _tell(report, options, time.monotonic() - began)
    if any(row.ours is None for row in report.rows):
        return 1
    return 1 if any(row.met is False for row in report.rows) and not options.quick else 0


def _prepare(cores: Cores) -> None:
    """Take the core, descriptors and priority that its children shall inherit."""
    os.sched_setaffinity(0, {cores.load})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICER)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _measure(options: argparse.Namespace, cores: Cores) -> Report:
    rounds = options.rounds or (1 if options.quick else 3)
    rows: list[Row] = []
    say(machine(), aside=True)
    with Stage(cores, quick=options.quick, litellm=options.litellm) as stage:
        bench = Bench(stage, rounds, quick=options.quick)
        for name in options.only or FIGURES:
            say(f"{name}: {FIGURES[name].__doc__}", aside=True)
            rows += bench.take(name)
        return Report(
            rows, bench.lengths, stage.versions, rounds, options.quick, round(bench.foreign, 3)
        )


def _tell(report: Report, options: argparse.Namespace, seconds: float) -> None:
    say(report.table())
    if report.lengths:
        say("\n" + report.length_table())
    for reason in report.missing():
        say(f"not measured: {reason}")
    say(f"\n{report.about()} {seconds:.0f} s.")
    if options.quick:
        say("This was a smoke test: it shows that everything runs, not how fast.")
    if report.foreign > _NOTICEABLE:
        say(f"Others took up to {report.foreign:.0%} of the measured core; do not trust latencies.")
    _write(options.json or CACHE / "bench.json", report.json())
    if options.markdown:
        _write(options.markdown, report.markdown())
    if options.plot and report.lengths:
        _write(options.plot, plot.svg(report.lengths))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    say(f"wrote {file}", aside=True)


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:<10}{figure.__doc__}" for name, figure in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures the proxy beside its peers, on this machine, in the same minutes:\n"
        "mock upstream and clients on one core, what is measured alone on another.",
        epilog=f"figures:\n{names}\n\npeers: nginx, where it is on the PATH; fastapi-proxy-lib,"
        " installed below .cache/bench\nat the first run; a naive translator of our own; LiteLLM"
        " where asked for.\nNeeds Linux and two cores that are otherwise idle.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(FIGURES),
        metavar="FIGURE",
        help="take this figure alone; may be repeated",
    )
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds of each figure (3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test in under a minute: one round, few streams",
    )
    parser.add_argument(
        "--litellm", action="store_true", help="compare with LiteLLM too; installs it, some 750 MB"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="write all figures there (.cache/bench/bench.json)",
    )
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the tables there")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw cost against length there, as SVG"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 99:
        raise argparse.ArgumentTypeError("must be between 1 and 99")
    return number


if __name__ == "__main__":
    sys.exit(main())
