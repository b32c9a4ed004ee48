"""Raw samples as a drawing: a row for each variant, a dot for each sample, a line at the median. Plain SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 250, 20, 34, 46
NAMESPACE = "http://www.w3.org/2000/svg"
FONT = 'font-family="sans-serif" font-size="12"'
OURS, RIVAL, INK = "#1b7f4d", "#8a6d3b", "#444"


def strip(title: str, unit: str, rows: Mapping[str, tuple[bool, Sequence[float]]]) -> str:
    """The drawing of one figure: by the variant's title, whether it is ours, and its values.

    The axis begins at zero; where the largest median is over twenty times the smallest, it is logarithmic.
    """
    medians = [median(values) for _, values in rows.values()]
    every = [value for _, values in rows.values() for value in values]
    logarithmic = min(every) > 0 and max(medians) > 20 * min(medians)
    low, high = (min(every) / 1.5, max(every) * 1.5) if logarithmic else (0.0, max(every) * 1.05 or 1.0)

    def across(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if logarithmic else value / high
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + 34
    bottom = TOP + ROW * len(rows)
    scale = f"{unit}, logarithmic" if logarithmic else unit
    parts = [
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {WIDTH} {height}" {FONT} fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="20" text-anchor="end">{escape(scale)}</text>',
    ]
    for tick in _ticks(low, high, logarithmic=logarithmic):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{short(tick)}</text>')
    for number, (name, (ours, values)) in enumerate(rows.items()):
        y = TOP + ROW * number + ROW / 2
        colour = OURS if ours else RIVAL
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for place, value in enumerate(values):
            wobble = (place % 5 - 2) * 3
            parts.append(
                f'<circle cx="{across(value):.1f}" cy="{y + wobble:.1f}" r="3" fill="{colour}" fill-opacity="0.55"/>'
            )
        x = across(median(values))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 12:.1f}" y2="{y + 12:.1f}" stroke="{colour}" stroke-width="2"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def short(value: float) -> str:
    """A number for people: three digits, thousands and millions by their letter."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _ticks(low: float, high: float, *, logarithmic: bool) -> list[float]:
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [10.0**power for power in powers if low <= 10.0**power <= high]
    step = 10.0 ** math.floor(math.log10(high))
    while high / step < 4:
        step /= 2
    return [step * number for number in range(int(high / step) + 1)]
