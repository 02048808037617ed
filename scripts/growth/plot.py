"""A plot of all parts as SVG: a row per part; time, CPU and memory against the growing quantity."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 300, 190  # of a panel, with its margins
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 30
STYLE = "font-family='sans-serif' font-size='11'"
COLOURS = {"time": "#1f77b4", "cpu": "#d62728", "memory": "#2ca02c"}


def svg(measured):
    panels = [
        _panel(number * WIDTH, line * HEIGHT, part, rows, getattr(part, kind), COLOURS[kind])
        for line, (part, rows) in enumerate(measured)
        for number, kind in enumerate(COLOURS)
    ]
    width, height = len(COLOURS) * WIDTH, len(measured) * HEIGHT
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {STYLE}>\n"
        f"<rect width='{width}' height='{height}' fill='white'/>\n" + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(left, top, part, rows, column, colour):
    """Draws one column. Axes are logarithmic; an axis of y values within a factor of 20 starts at zero instead."""
    points = [(float(row[part.x]), float(row[column])) for row in rows]
    across = _Axis([x for x, _ in points], left + LEFT, left + WIDTH - RIGHT, logarithmic=True)
    values = [y for _, y in points]
    wide = min(values) > 0 and max(values) / min(values) > 20
    up = _Axis(values, top + HEIGHT - BOTTOM, top + TOP, logarithmic=wide, zero=not wide)
    places = [(across.place(x), up.place(y)) for x, y in points]
    parts = [_text(left + LEFT, top + 14, f"{part.title}" if column == part.time else "", "start", "bold")]
    parts.append(_text(left + LEFT, top + 28, column.replace("_", " "), "start"))
    for value in up.ticks():
        y = up.place(value)
        parts.append(f"<line x1='{left + LEFT}' y1='{y:.1f}' x2='{left + WIDTH - RIGHT}' y2='{y:.1f}' stroke='#ddd'/>")
        parts.append(_text(left + LEFT - 5, y + 4, f"{value:,g}", "end"))
    for value in across.ticks():
        parts.append(_text(across.place(value), top + HEIGHT - BOTTOM + 16, _count(value), "middle"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
    parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in places]
    return "\n".join(part for part in parts if part)


class _Axis:
    """A scale from values to pixels."""

    def __init__(self, values, first, last, logarithmic, zero=False):
        self.low, self.high = 0 if zero else min(values), max(values) or 1
        self.first, self.last, self.logarithmic = first, last, logarithmic
        if not logarithmic:
            self.step = 10 ** math.floor(math.log10(self.high))
            self.high = math.ceil(self.high / self.step) * self.step

    def place(self, value):
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.first + (self.last - self.first) * ((at - low) / (high - low) if high > low else 0.5)

    def ticks(self):
        if self.logarithmic:
            tens = [10.0**power for power in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
            return tens if len(tens) > 1 else [self.low, self.high]
        count = round(self.high / self.step)
        return [self.step * number for number in range(0, count + 1, 2 if count > 5 else 1)]


def _count(value):
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _text(x, y, words, anchor, weight="normal"):
    if not words:
        return ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-weight='{weight}'>{escape(words)}</text>"
