"""The frame of every figure: transparent, grey grid, words on the axes, legend above, nothing under 12 px, nothing cut at 360 px.

Font colors are left to the page's theme. Ranges are in data units; `span` turns them into what a log axis wants.

A symlog axis shows numbers of either sign over many decades: position = sign(v) log10(1 + |v| / linear), so it is linear near zero
and logarithmic far from it; its ticks carry the true numbers.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rotviz.plots.words import escape, number, wrapped

GRID = "rgba(128,128,128,0.28)"
LINE = "rgba(128,128,128,0.75)"
CLEAR = "rgba(0,0,0,0)"
HEIGHT, FONT, SMALL = 420, 13, 12
Range = tuple[float, float]


def framed(
    figure: go.Figure, *, x: str = "", y: str = "", title: str | None = None, legend: Sequence[str] = (), note: str = "",
    height: int = HEIGHT,
) -> go.Figure:
    """Gives the figure (in place, and back) the common look.

    Args:
        x, y: axis titles in words, with units.
        legend: the names in the legend, for the room it needs; none = no legend.
        note: a sentence below the x axis about what is missing or merged.
    """
    below = f"<br><span style='font-size:{SMALL}px'>{wrapped(note)}</span>" if note else ""
    lines = 1 + below.count("<br>") if note else 1
    top = 14 + 22 * legend_rows(legend) + (34 if title else 0)
    figure.update_layout(
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=height, font_size=FONT, hoverlabel_font_size=FONT, showlegend=bool(legend),
        margin={"l": 64, "r": 20, "t": top, "b": 38 + 18 * lines},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "font_size": SMALL, "bgcolor": CLEAR,
                "title_text": "", "itemwidth": 36},
        hovermode="closest",
    )
    if title:
        figure.update_layout(title={"text": escape(title), "x": 0.01, "xanchor": "left", "y": 0.985, "yref": "container",
                                    "yanchor": "top", "font_size": 15})
    common: dict[str, Any] = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": LINE, "tickfont_size": SMALL, "title_font_size": FONT,
                              "automargin": True, "title_standoff": 12}
    figure.update_xaxes(title_text=escape(x) + below, ticks="outside", tickcolor=LINE, showline=True, **common)
    figure.update_yaxes(title_text=escape(y), **common)
    return figure


def legend_rows(names: Sequence[str], width: int = 560) -> int:
    """How many lines a horizontal legend of these names takes; Plotly gives every entry the width of the longest."""
    if not names:
        return 0
    entry = 50 + 6.6 * max(len(n) for n in names)
    return math.ceil(len(names) / max(1, int(width // entry)))


def span(limits: Range | None, log: bool = False) -> list[float] | None:
    """A Plotly axis range from one in data units."""
    if limits is None:
        return None
    return [math.log10(max(v, 1e-300)) for v in limits] if log else [float(v) for v in limits]


def shared_range(*arrays: Any, log: bool = False, symmetric_log: bool = False) -> Range:
    """The (low, high) that holds every finite number of the arrays with a little air, in data units, for figures side by side.

    With log, numbers that are not positive are left out; with symmetric_log, the air is measured on a symlog axis.
    Without any number: (0, 1), or (0.1, 1) with log.
    """
    lows, highs = [], []
    for array in arrays:
        flat = np.asarray(array, dtype=np.float64).ravel()
        flat = flat[np.isfinite(flat) & ((flat > 0) | (not log))]
        if flat.size:
            lows.append(flat.min())
            highs.append(flat.max())
    if not lows:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(min(lows)), float(max(highs))
    if log:
        air = max((high / low) ** 0.05, 1.15)
        return low / air, high * air
    if symmetric_log:
        ends = symlog((low, high))
        air = max(0.05 * float(ends[1] - ends[0]), 0.1)
        return symlog_back(float(ends[0]) - air), symlog_back(float(ends[1]) + air)
    air = 0.05 * (high - low) or 0.5 * max(abs(high), 1.0)
    return low - air, high + air


def decades(low: float, high: float, most: int = 7) -> list[float]:
    """Round ticks for a log axis from low to high (both positive): powers of ten, with 2 and 5 when the range is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**p for p in powers for d in digits if low * 0.999 <= d * 10.0**p <= high * 1.001]
        if len(ticks) <= most and len(ticks) >= 2:
            return ticks
    step = math.ceil(len(powers) / most)
    ticks = [10.0**p for p in list(powers)[::step] if low * 0.999 <= 10.0**p <= high * 1.001]
    return ticks if len(ticks) >= 2 else [low, high]


def log_axis(limits: Range) -> dict[str, Any]:
    """Axis settings of a log axis over the limits, with readable ticks."""
    high = limits[1] if limits[1] > 0 else 1.0
    limits = (limits[0] if 0 < limits[0] < high else high * 1e-6, high)  # a shared linear range may start at zero
    ticks = decades(*limits)
    return {"type": "log", "range": span(limits, log=True), "tickvals": ticks, "ticktext": [tick_words(t) for t in ticks]}


def tick_words(value: float) -> str:
    """A tick's number: `0.01`, `1`, `10k`, `3M`, `1e−6`."""
    size = abs(value)
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if factor <= size < 1000 * factor and (size >= 1e4 or factor > 1e3):
            return f"{value / factor:.3g}{letter}"
    return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−").replace("e+", "e") if 0 < size < 1e-3 else number(value)


def block_axis(blocks: int) -> dict[str, Any]:
    """Axis settings of an axis of blocks: half a block of air at the ends, ticks at whole numbers."""
    return {"range": [-0.5, max(1, blocks) - 0.5], "tick0": 0, "dtick": next(step for step in (1, 2, 5, 10, 20, 50, 10**6) if blocks <= 9 * step)}


def symlog(values: Any, linear: float = 1.0) -> np.ndarray:
    """Positions on a symlog axis."""
    v = np.asarray(values, dtype=np.float64)
    return np.sign(v) * np.log10(1 + np.abs(v) / linear)


def symlog_back(position: float, linear: float = 1.0) -> float:
    """The number at a position on a symlog axis."""
    return math.copysign(linear * (10 ** abs(position) - 1), position)


def symlog_axis(limits: Range, linear: float = 1.0) -> dict[str, Any]:
    """Axis settings of a symlog axis over limits in data units: its range and ticks at zero and at powers of ten."""
    low, high = (float(v) for v in symlog(limits, linear))
    top = max(abs(limits[0]), abs(limits[1]), linear)
    powers = [linear * 10.0**p for p in range(0, math.ceil(math.log10(top / linear)) + 1)]
    room = high - low or 1.0
    ticks: list[float] = []
    for tick in sorted({0.0, *powers, *(-p for p in powers)}, key=abs):
        at = float(symlog(tick, linear))
        if low <= at <= high and all(abs(at - float(symlog(t, linear))) > 0.042 * room for t in ticks):
            ticks.append(tick)
    ticks.sort()
    return {"range": [low, high], "tickvals": [float(symlog(t, linear)) for t in ticks], "ticktext": [tick_words(t) for t in ticks]}


def apart(candidates: Iterable[float], gap: float) -> list[float]:
    """The candidates, first come first kept, that are at least `gap` from each other."""
    kept: list[float] = []
    for c in candidates:
        if all(abs(c - k) >= gap for k in kept):
            kept.append(c)
    return kept


def sentence(*parts: str) -> str:
    """Notes joined by a space; empty ones dropped."""
    return " ".join(p for p in parts if p)


def mark_reference(figure: go.Figure, value: float | None, log: bool) -> None:
    """A dashed line across at the float model's value, named in the right margin. Comes after `framed`."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return
    figure.add_hline(y=value, line={"color": LINE, "dash": "dash", "width": 1.4})
    figure.add_annotation(x=1, xref="paper", xanchor="left", align="left", y=math.log10(value) if log else value, xshift=4,
                          text=f"float<br>{number(value)}", showarrow=False, font_size=SMALL)
    figure.update_layout(margin_r=58)
