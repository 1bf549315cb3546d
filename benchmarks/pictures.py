"""Curves as SVG: a few lines of our own, since a library that draws is 60 MB for five pictures."""

import math
from collections.abc import Iterable
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d")
GREY = "#808080"  # reads on white and on black


def curves_svg(title: str, x: str, y: str, lines: dict[str, list[Point]]) -> str:
    """Lines with their points; x by its logarithm, y from zero."""
    points = [point for line in lines.values() for point in line]
    across = _Log(LEFT, WIDTH - RIGHT, [place for place, _ in points])
    up = _FromZero(HEIGHT - BOTTOM, TOP, [height for _, height in points])
    parts = [_text(LEFT, 20, title, size=15), _text(LEFT - 60, TOP - 8, y)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x, anchor="middle"))
    for value in up.ticks:
        parts.append(_rule(LEFT, up.at(value), WIDTH - RIGHT, up.at(value)))
        parts.append(_text(LEFT - 6, up.at(value) + 4, f"{value:,g}", anchor="end"))
    for value in sorted({place for place, _ in points}):
        parts.append(_rule(across.at(value), HEIGHT - BOTTOM, across.at(value), HEIGHT - BOTTOM + 5))
        parts.append(_text(across.at(value), HEIGHT - BOTTOM + 18, f"{value:,g}", anchor="middle"))
    heights = _apart(up.at(line[-1][1]) for line in lines.values())
    for number, ((name, line), height) in enumerate(zip(lines.items(), heights, strict=True)):
        color = COLORS[number % len(COLORS)]
        places = [(across.at(place), up.at(value)) for place, value in line]
        drawn = " ".join(f"{place:.1f},{value:.1f}" for place, value in places)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place:.1f}" cy="{value:.1f}" r="3" fill="{color}"/>' for place, value in places
        ]
        parts.append(_text(WIDTH - RIGHT + 12, height + 4, name, color=color))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, *parts, "</svg>\n"])


class _Log:
    """From values to places, by the logarithm."""

    def __init__(self, first: float, last: float, values: list[float]) -> None:
        self._first, self._last = first, last
        self._low, self._high = math.log(min(values)), math.log(max(values))

    def at(self, value: float) -> float:
        share = (math.log(value) - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return self._first + share * (self._last - self._first)


class _FromZero:
    """From values to places; the highest is a round number."""

    def __init__(self, first: float, last: float, values: list[float]) -> None:
        self._first, self._last = first, last
        highest = max(values) or 1
        step = float(10 ** math.floor(math.log10(highest)))
        step = next(part for part in (step / 5, step / 2, step, 2 * step) if highest / part <= 6)
        self.ticks = [number * step for number in range(math.ceil(highest / step) + 1)]

    def at(self, value: float) -> float:
        return self._first + value / self.ticks[-1] * (self._last - self._first)


def _apart(heights: Iterable[float], least: float = 15) -> list[float]:
    """Heights of names, moved down until none covers another."""
    wanted = list(heights)
    placed: dict[int, float] = {}
    lowest = -math.inf
    for number in sorted(range(len(wanted)), key=wanted.__getitem__):
        lowest = placed[number] = max(wanted[number], lowest + least)
    return [placed[number] for number in range(len(wanted))]


def _rule(x: float, y: float, to_x: float, to_y: float) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{GREY}" stroke-opacity="0.35"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, color: str = GREY) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    return f"<text {place}>{escape(text)}</text>"
