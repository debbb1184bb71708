"""Charts as SVG, with nothing but text: bars in groups, and lines. Readable on white and on black."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLORS = ("#3b7dd8", "#e07b39", "#3f9b5f", "#a05195", "#8c8c8c", "#c2b034")
INK = "#808080"
WIDTH = 720
LEFT, RIGHT = 150, 70
BAR, GAP = 14, 10
PLOT_HEIGHT = 260


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of a chart that is as wide as the chart: its elements, drawn from y = 0, and how high it is."""

    elements: tuple[str, ...]
    height: int


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{INK}">{html.escape(words)}</text>'


def number_text(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> Panel:
    """A group of bars for each key, in it a bar for each series; series have the same color in every group."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((value for group in groups.values() for value in group.values()), default=0) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    out, y = [text(10, 18, f"{title} ({unit})", size=14), *legend(names, 38)], 54
    for label, group in groups.items():
        out.append(text(LEFT - 10, y + len(group) * BAR / 2 + 4, label, "end"))
        for name, value in group.items():
            color = COLORS[names.index(name) % len(COLORS)]
            length = max(1.0, value * scale)
            out.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{color}"/>')
            out.append(text(LEFT + length + 4, y + BAR - 4, number_text(value), size=10))
            y += BAR
        y += GAP
    return Panel(tuple(out), y + GAP)


def lines(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]], log: bool = False
) -> Panel:
    """A line through the points of each series, from zero up; ``log`` makes both axes logarithmic."""
    points = [point for each in series.values() for point in each]
    top, bottom = 50, 50 + PLOT_HEIGHT
    across = axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log)
    upward = axis([y for _, y in points], bottom, top, log)
    out = [text(10, 18, title, size=14), *legend(list(series), 38)]
    out.append(f'<path d="M{LEFT},{top} V{bottom} H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>')
    for value, y in upward.ticks():
        out.append(text(LEFT - 6, y + 4, number_text(value), "end", 10))
        out.append(f'<path d="M{LEFT},{y:.1f} H{WIDTH - RIGHT}" stroke="{INK}" stroke-opacity=".25"/>')
    out += [text(x, bottom + 14, number_text(value), "middle", 10) for value, x in across.ticks()]
    out.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 32, x_label, "middle"))
    out.append(text(10, top - 2, y_label))
    for number, each in enumerate(series.values()):
        color = COLORS[number % len(COLORS)]
        places = [(across.place(x), upward.place(y)) for x, y in each]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return Panel(tuple(out), bottom + 50)


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from ``low`` to ``high`` along pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.log else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, float]]:
        """Round values, and where they lie."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            values = [10.0**power for power in range(first, last + 1)]
        else:
            step = round_step((self.high - self.low) / 5)
            values = [step * number for number in range(round(self.high / step) + 1)]
        return [(value, self.place(value)) for value in values]


def axis(values: Sequence[float], start: float, end: float, log: bool) -> Axis:
    """From zero, or in powers of ten, to a round value that takes in all."""
    if log:
        positive = [value for value in values if value > 0] or [1.0]
        low = 10.0 ** math.floor(math.log10(min(positive)))
        return Axis(low, max(10.0 ** math.ceil(math.log10(max(positive))), 10 * low), start, end, True)
    most = max([*values, 0.0]) or 1.0
    step = round_step(most / 5)
    return Axis(0.0, step * math.ceil(most / step), start, end, False)


def round_step(value: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``value``."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.999)


def legend(names: Sequence[str], y: int) -> list[str]:
    out, x = [], 10.0
    for number, name in enumerate(names):
        out.append(f'<rect x="{x:.0f}" y="{y - 9}" width="10" height="10" fill="{COLORS[number % len(COLORS)]}"/>')
        out.append(text(x + 14, y, name))
        x += 30 + 7.2 * len(name)
    return out if len(names) > 1 else []


def page(panels: Sequence[Panel]) -> str:
    """The panels below one another, as a whole SVG file."""
    height = sum(panel.height for panel in panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif">'
    ]
    y = 0
    for panel in panels:
        out += [f'<g transform="translate(0,{y})">', *panel.elements, "</g>"]
        y += panel.height
    return "\n".join([*out, "</svg>", ""])
