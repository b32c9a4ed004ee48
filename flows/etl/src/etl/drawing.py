"""Plain SVG charts for artifacts: a frame with two axes, and bars, lines and dots in it.

An <img> shows them, so nothing outside the drawing styles it: it has a ground of its own, on which it can be read
wherever it is shown, and colours for a browser that asks for dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 720, 320
_TOP, _RIGHT, _BOTTOM = 64, 16, 48

_STYLE = (
    ".g{fill:#fff}.i{fill:#333}.m{stroke:#ddd}.z{stroke:#888}.af{fill:#1f6fb2}.bf{fill:#b3541e}"
    ".as{stroke:#1f6fb2}.bs{stroke:#b3541e}"
    "@media(prefers-color-scheme:dark){.g{fill:#1b1d22}.i{fill:#ddd}.m{stroke:#3a3d45}.z{stroke:#999}"
    ".af{fill:#6cb2eb}.bf{fill:#f0a25f}.as{stroke:#6cb2eb}.bs{stroke:#f0a25f}}"
)

# Two series are told apart: what the drawing is about, and what it is compared with.
Series = Literal["a", "b"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From where to where; `ticks` are values with their text."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def around(cls, values: Sequence[float], *, label: str) -> "Axis":
        """An axis with zero and all of the values on it, its ticks at round numbers."""
        low, high = min((0.0, *values)), max((0.0, *values))
        step = _step(high - low)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        if low == high:
            high = low + step
        count = round((high - low) / step)
        return cls(
            label=label, low=low, high=high, ticks=[(low + n * step, f"{low + n * step:g}") for n in range(count + 1)]
        )

    def share(self, value: float) -> float:
        """How far along a value is, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


class Chart:
    """A frame, filled bit by bit. `left`: the room for the vertical axis's texts."""

    def __init__(self, title: str, *, across: Axis, up: Axis, left: int = 56) -> None:
        self._across, self._up, self._left = across, up, left
        middle = (_TOP + HEIGHT - _BOTTOM) / 2
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"',
            ' role="img" font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f'<rect class="g" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="i" x="12" y="22" font-size="14">{escape(title)}</text>',
            f'<text class="i" x="16" y="{middle:g}" text-anchor="middle" transform="rotate(-90 16 {middle:g})">',
            f"{escape(up.label)}</text>",
        ]
        self._text((left + WIDTH - _RIGHT) / 2, HEIGHT - 10, across.label, anchor="middle")
        for value, text in up.ticks:
            y = self._y(value)
            self._line(left, y, WIDTH - _RIGHT, y, "m" if value else "z")
            self._text(left - 6, y + 4, text, anchor="end")
        for value, text in across.ticks:
            self._text(self._x(value), HEIGHT - _BOTTOM + 16, text, anchor="middle")
        self._legend_at = float(left)

    def bar(self, series: Series, at: float, value: float, *, width: float = 0.7, text: str = "") -> None:
        """An upright bar from zero, `width` in the horizontal axis's own measure; `text` is seen under the pointer."""
        left, right = self._x(at - width / 2), self._x(at + width / 2)
        top, bottom = sorted((self._y(value), self._y(0)))
        self._rectangle(series, (left, top), (right, bottom), text)

    def lying_bar(self, series: Series, at: float, value: float, *, text: str = "") -> None:
        """A bar from zero to the right."""
        left, right = self._x(0), self._x(value)
        top, bottom = self._y(at + 0.35), self._y(at - 0.35)
        self._rectangle(series, (left, top), (right, bottom), text)

    def line(self, series: Series, points: Sequence[tuple[float, float]], *, dashed: bool = False) -> None:
        """A line from point to point."""
        drawn = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<polyline class="{series}s" fill="none" stroke-width="2"{dash} points="{drawn}"/>')

    def dot(self, series: Series, x: float, y: float, *, text: str = "") -> None:
        """A dot; `text` is seen under the pointer."""
        inner = f"<title>{escape(text)}</title>" if text else ""
        self._parts.append(
            f'<circle class="{series}f" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="4">{inner}</circle>'
        )

    def legend(self, series: Series, text: str) -> None:
        """What a series is, in a line under the title."""
        self._parts.append(
            f'<rect class="{series}f" x="{self._legend_at:g}" y="36" width="12" height="12"/>'
            f'<text class="i" x="{self._legend_at + 18:g}" y="46">{escape(text)}</text>'
        )
        # A letter takes about seven units at this size.
        self._legend_at += 18 + 7 * len(text) + 24

    def svg(self) -> str:
        """The drawing."""
        return "".join([*self._parts, "</svg>"])

    def _x(self, value: float) -> float:
        return self._left + self._across.share(value) * (WIDTH - _RIGHT - self._left)

    def _y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self._up.share(value) * (HEIGHT - _BOTTOM - _TOP)

    def _line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, x: float, y: float, text: str, *, anchor: str) -> None:
        self._parts.append(f'<text class="i" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def _rectangle(self, series: Series, corner: tuple[float, float], other: tuple[float, float], text: str) -> None:
        (x, y), width, height = corner, other[0] - corner[0], other[1] - corner[1]
        inner = f"<title>{escape(text)}</title>" if text else ""
        self._parts.append(
            f'<rect class="{series}f" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">{inner}</rect>'
        )


def _step(span: float) -> float:
    """A round number of which four to ten make the span."""
    if span <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(span))
    return next(step for step in (power / 5, power / 2, power, power * 2) if span / step <= 10)
