"""Drawing: curves over time as an SVG, in small panels of two columns, for light and dark pages."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH = 980
_PANEL = 170  # height, with title and labels
_HEAD = 70
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 26  # of a panel, around its curves
_TICKS = 4

_ATTRIBUTES = (
    'role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="15"'
)
_STYLE = """
    .page { fill: #ffffff; }
    text { fill: #1f2328; }
    .small { font-size: 13px; fill: #59636e; }
    .head { font-size: 16px; font-weight: 600; }
    .grid { stroke: #d1d9e0; stroke-width: 1; }
    .line-0 { fill: none; stroke: #0969da; stroke-width: 2; }
    .line-1 { fill: none; stroke: #bc4c00; stroke-width: 2; stroke-dasharray: 5 3; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      text { fill: #f0f6fc; }
      .small { fill: #9198a1; }
      .grid { stroke: #3d444d; }
      .line-0 { stroke: #58a6ff; }
      .line-1 { stroke: #f0883e; }
    }
"""


@dataclass(frozen=True)
class Panel:
    """One quantity over time: a curve for each name of the drawing, in the same order."""

    title: str
    curves: Sequence[Sequence[Point]]


def draw(
    title: str,
    description: str,
    names: Sequence[str],
    panels: Sequence[Panel],
    *,
    end: float,
    unit: str,
) -> str:
    """Return an SVG.

    Args:
        title: its heading.
        description: the same as the curves, for readers who do not see them.
        names: those of the curves, at most two.
        panels: the quantities; a panel without points stays empty.
        end: the time at which all curves end; they begin at 0.
        unit: that of the time.
    """
    rows = math.ceil(len(panels) / 2)
    height = _HEAD + rows * _PANEL + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {_ATTRIBUTES}>',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(description)}</desc>',
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="page" width="{WIDTH}" height="{height}"/>',
        f'  <text class="head" x="16" y="28">{escape(title)}</text>',
    ]
    for number, name in enumerate(names):
        x = 16 + 170 * number
        parts.append(f'  <path class="line-{number}" d="M{x} 50H{x + 34}"/>')
        parts.append(f'  <text x="{x + 42}" y="55">{escape(name)}</text>')
    for place, panel in enumerate(panels):
        x, y = place % 2 * WIDTH // 2, _HEAD + place // 2 * _PANEL
        parts.append(f'  <g transform="translate({x} {y})">')
        parts += [f"    {line}" for line in _panel(panel, end, unit)]
        parts.append("  </g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, end: float, unit: str) -> list[str]:
    highest = max((y for curve in panel.curves for _, y in curve), default=0.0)
    right, bottom = WIDTH / 2 - _RIGHT, _PANEL - _BOTTOM
    ups, overs = ticks(highest), [one for one in ticks(end) if one <= end]

    def over(x: float) -> float:
        return _LEFT + x / end * (right - _LEFT)

    def up(y: float) -> float:
        return bottom - y / ups[-1] * (bottom - _TOP)

    lines = [f'<text x="{_LEFT}" y="22">{escape(panel.title)}</text>']
    for tick in ups:
        y = up(tick)
        lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right:g}"/>')
        lines.append(
            f'<text class="small" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{tick:,g}</text>"
        )
    for tick in overs:
        anchor = "end" if tick > 0.9 * end else "middle"
        label = f"{tick:g} {unit}" if tick == overs[-1] else f"{tick:g}"
        lines.append(
            f'<text class="small" x="{over(tick):.1f}" y="{bottom + 18}" text-anchor="{anchor}">'
            f"{label}</text>"
        )
    for number, curve in enumerate(panel.curves):
        points = " ".join(f"{over(x):.1f},{up(y):.1f}" for x, y in curve)
        lines.append(f'<polyline class="line-{number}" points="{points}"/>')
    return lines


def ticks(highest: float) -> list[float]:
    """Return round numbers from 0 on; the last one is at least `highest`."""
    rough = (highest or 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough * (1 - 1e-9))
    count = math.ceil(highest / step - 1e-9) or 1
    return [round(step * number, 10) for number in range(count + 1)]


def thinned(
    points: Sequence[Point], width: float, by: Callable[[list[float]], float]
) -> list[Point]:
    """Return one point for each interval of that width: its middle, and its values put together."""
    intervals: dict[int, list[float]] = {}
    for x, y in points:
        intervals.setdefault(int(x // width), []).append(y)
    return [((place + 0.5) * width, by(intervals[place])) for place in sorted(intervals)]
