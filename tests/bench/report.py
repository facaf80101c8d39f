"""Rows as a table for the terminal, as Markdown for the README, and as JSON for programs.

A row says what could not be measured, and why, so that a missing figure never looks like a met
target.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

HEADINGS = ("figure", "ours", "peer", "ratio", "target", "met?")


@dataclass(frozen=True, slots=True)
class Bound:
    """A target: for the ratio, or with ``absolute`` for our own figure."""

    sense: Literal["≤", "≥"]
    value: float
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value <= self.value if self.sense == "≤" else value >= self.value


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of ours and perhaps of a peer. ``why`` says what could not be measured, and why."""

    figure: str
    unit: str
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    bound: Bound | None = None
    why: Sequence[str] = ()

    @property
    def met(self) -> bool | None:
        if self.bound is None:
            return None
        value = self.ours if self.bound.absolute else self.ratio
        return None if value is None else self.bound.met(value)

    def cells(self) -> tuple[str, ...]:
        theirs = f" {shown(self.theirs)} {self.unit}" if self.theirs is not None else ""
        return (
            self.figure,
            f"{shown(self.ours)} {self.unit}" if self.ours is not None else "-",
            self.peer + theirs or "-",
            f"{shown(self.ratio)} x" if self.ratio is not None else "-",
            self._wanted(),
            self._verdict(),
        )

    def _wanted(self) -> str:
        if self.bound is None:
            return "-"
        unit = self.unit if self.bound.absolute else "x"
        return f"{self.bound.sense} {self.bound.value:.3g} {unit}"

    def _verdict(self) -> str:
        if self.why:
            return "not measured"
        return {True: "yes", False: "NO", None: "-"}[self.met]


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run of the bench found. ``lengths`` holds milliseconds by deltas, by series."""

    rows: Sequence[Row]
    lengths: Mapping[str, Mapping[int, float]]
    versions: Mapping[str, str]
    rounds: int
    quick: bool
    foreign: float

    def table(self) -> str:
        return _aligned([HEADINGS, *(row.cells() for row in self.rows)])

    def missing(self) -> Sequence[str]:
        """What was not measured and why, each told once."""
        return tuple(dict.fromkeys(reason for row in self.rows for reason in row.why))

    def length_table(self) -> str:
        return _aligned(self._lengths())

    def markdown(self) -> str:
        parts = [_markdown([HEADINGS, *(row.cells() for row in self.rows)])]
        if self.lengths:
            parts.append(_markdown(self._lengths()))
        parts.append(self.about())
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        rows: list[dict[str, Any]] = [{**asdict(row), "met": row.met} for row in self.rows]
        found = {
            "machine": machine(),
            "versions": self.versions,
            "rounds": self.rounds,
            "quick": self.quick,
            "foreign_load": self.foreign,
            "rows": rows,
            "lengths_ms": self.lengths,
        }
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"

    def about(self) -> str:
        """Where the figures come from, in a sentence or two."""
        peers = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        kind = "a quick run, which is no measurement" if self.quick else "medians"
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        return f"{machine()}; {peers or 'no peers'}; {rounds}, {kind}."

    def _lengths(self) -> list[tuple[str, ...]]:
        points = sorted({point for values in self.lengths.values() for point in values})
        lines = [("CPU ms per completion of", *(f"{point:,} deltas" for point in points))]
        for name, values in self.lengths.items():
            cells = (shown(values[point]) if point in values else "-" for point in points)
            lines.append((name, *cells))
        return lines


def machine() -> str:
    """The machine in a few words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    python = platform.python_version()
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {python}"


def shown(value: float | None) -> str:
    """A number with as many digits as mean something."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or not size else 4
    return f"{value:,.{digits}f}"


def say(text: str, *, aside: bool = False) -> None:
    """Print at once: progress goes to standard error, so that the result can be piped."""
    print(text, file=sys.stderr if aside else sys.stdout, flush=True)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    heading, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join((heading, "|" + "---|" * len(lines[0]), *rest))
