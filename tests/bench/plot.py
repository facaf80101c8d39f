"""Plots CPU time against length. Both axes are logarithmic: a slope shows the order of growth.

The SVG is written by hand, because a plotting library is a heavy dependency for one picture. Its
colours follow the reader's light or dark theme. Each line is labelled at its end, so that no reader
has to match the colours of a legend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .report import shown

_WIDTH, _HEIGHT = 820, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 240, 56, 60
_BELOW = "deltas in the completion (log), every snapshot sent"
_GAP = 17
"""The least distance of two names, in pixels."""

_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .paper { fill: #ffffff; }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
  .s0 { stroke: #bc4c00; } .d0 { fill: #bc4c00; }
  .s1 { stroke: #0969da; } .d1 { fill: #0969da; }
  .s2 { stroke: #8250df; stroke-dasharray: 7 4; } .d2 { fill: #8250df; }
  .s3 { stroke: #59636e; stroke-dasharray: 2 4; } .d3 { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .grid { stroke: #3d444d; }
    .paper { fill: #0d1117; }
    .s0 { stroke: #f0883e; } .d0 { fill: #f0883e; }
    .s1 { stroke: #58a6ff; } .d1 { fill: #58a6ff; }
    .s2 { stroke: #bc8cff; } .d2 { fill: #bc8cff; }
    .s3 { stroke: #9198a1; } .d3 { fill: #9198a1; }
  }
"""

Lines = Mapping[str, Mapping[int, float]]


class Scale:
    """A logarithmic axis: values from ``low`` to ``high`` on pixels from ``begin`` to ``end``."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self._low = math.log10(low)
        self._per_decade = (end - begin) / (math.log10(high) - self._low)
        self._begin = begin

    def __call__(self, value: float) -> float:
        return self._begin + (math.log10(value) - self._low) * self._per_decade


def svg(lines: Lines) -> str:
    """The picture. Each line needs a value, and all together more than one length."""
    values = [value for line in lines.values() for value in line.values()]
    lengths = sorted({length for line in lines.values() for length in line})
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    across = Scale(lengths[0], lengths[-1], _LEFT, _WIDTH - _RIGHT)
    up = Scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        "<title>CPU time per completion against its number of deltas</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
        *_frame(lengths, low, high, across, up),
        *_curves(lines, across, up),
        *_names(lines, across, up),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(lengths: Sequence[int], low: float, high: float, across: Scale, up: Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<text class="title" x="{_LEFT}" y="26">What one streamed completion costs</text>',
        f'<text x="{_LEFT}" y="{_TOP - 12}">CPU time, ms (log)</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{_BELOW}</text>',
    ]
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        value = 10.0**exponent
        y = up(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    for length in lengths:
        x = across(length)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{length:,}</text>')
    return parts


def _curves(lines: Lines, across: Scale, up: Scale) -> list[str]:
    parts = []
    for number, line in enumerate(lines.values()):
        points = [(across(length), up(value)) for length, value in sorted(line.items())]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line s{number}" d="M{path}"/>')
        parts += [f'<circle class="d{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
    return parts


def _names(lines: Lines, across: Scale, up: Scale) -> list[str]:
    """Each line's name beside its end, pushed apart where two would touch."""
    ends = sorted(
        (up(line[max(line)]), across(max(line)), number, name, line[max(line)])
        for number, (name, line) in enumerate(lines.items())
    )
    parts = []
    free = float(_TOP)
    for y, x, number, name, value in ends:
        place = max(y, free)
        free = place + _GAP
        parts.append(
            f'<circle class="d{number}" cx="{x + 14:.1f}" cy="{place:.1f}" r="4"/>'
            f'<text x="{x + 23:.1f}" y="{place + 4:.1f}">{name}, {shown(value)} ms</text>'
        )
    return parts
