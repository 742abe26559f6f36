"""Histogram of values, with the normal curve of the same mean and spread, and the levels of a quantization grid.

Counts are on a log axis, because the outliers that matter are a handful among millions. Tails far outside the normal curve are what
stretches the grid; where two grid levels hold nearly all of the bars between them, those values become one number.
After a rotation the bars follow the curve.

Source: the distribution figures of DartQuant (2511.04063) and SpinQuant (2405.16406).
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, log_axis, sentence, span
from rotviz.plots.palette import GREY, VERMILION, styles_for
from rotviz.plots.pool import Bins, cleaned, note_lost
from rotviz.plots.series import Series, named_series
from rotviz.plots.words import count, escape, number

NAME = "histogram"
BARS = 400
LEVELS = 64


def draw_histogram(
    counts: np.ndarray | Mapping[str, np.ndarray], edges: np.ndarray, *, normal: tuple[float, float] | None = None,
    levels: np.ndarray | None = None, log: bool = True, x_range: Range | None = None, y_range: Range | None = None,
    what: str = "activation", title: str | None = None,
) -> Drawing:
    """Bars of counts [B] between edges [B + 1]; several series share the edges.

    Args:
        counts: one array, or a mapping from a series' name to its counts.
        normal: (mean, standard deviation) of the curve to compare with, scaled to the first series' total.
        levels: the numbers a quantization grid can hold (at most 64 are drawn).
        log: counts on a log axis.
        x_range, y_range: limits in data units, to share between figures.
    """
    series, lost = named_series(counts, "counts")
    borders, bad = cleaned(edges, 1, "edges")
    if bad or (borders.size > 1 and (np.diff(borders) <= 0).any()):
        raise BadInput("edges: finite numbers in rising order are needed")
    if any(len(c) + 1 != len(borders) for c in series.values()):
        raise BadInput(f"counts has {[len(c) for c in series.values()]} bins; {len(borders)} edges need {max(0, len(borders) - 1)}")
    totals = {name: float(np.nansum(c)) for name, c in series.items()}
    if not any(totals.values()):
        return nothing(NAME, "no value was counted (0 in every bin)", title)
    bins = Bins.up_to(len(borders) - 1, BARS)
    borders = np.append(borders[:-1][bins.starts], borders[-1])
    series = {name: np.add.reduceat(np.nan_to_num(c), bins.starts) for name, c in series.items()}
    figure = go.Figure()
    _bars(figure, series, borders)
    curve = _normal_counts(normal, borders, next(iter(totals.values()))) if normal and normal[1] > 0 else None
    legend = list(series) if len(series) > 1 else []
    if curve is not None:
        legend.append("normal curve")
        figure.add_scatter(x=_centers(borders), y=np.where(curve > (0.5 if log else -1), curve, np.nan), mode="lines", name="normal curve",
                           line={"color": VERMILION, "width": 2, "dash": "dash"}, hovertemplate="normal: %{y:,.4~r}<extra></extra>")
    limits = y_range or _y_limits(series, log)
    if levels is not None and np.size(levels):
        legend.append("quantization levels")
        _grid(figure, np.asarray(levels, dtype=np.float64), limits)
    framed(figure, x=what, y="count (log scale)" if log else "count", title=title, legend=legend,
           note=sentence(f"{bins.width} bins are drawn as one." if bins.width > 1 else "", note_lost(lost, "count")))
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_yaxes(**(log_axis(limits) if log else {"range": span(limits)}))
    figure.update_xaxes(range=span(x_range or (float(borders[0]), float(borders[-1]))))
    return Drawing(NAME, figure, _words(series, totals, borders, what), _table(series, borders))


def _bars(figure: go.Figure, series: Series, borders: np.ndarray) -> None:
    styles = styles_for(series)
    label = [f"{number(a)} to {number(b)}" for a, b in pairwise(borders)]
    for name, values in series.items():
        figure.add_bar(x=_centers(borders), y=values, width=np.diff(borders), name=escape(name), text=label, textposition="none",
                       marker={"color": styles[name].color, "line_width": 0, "opacity": 0.85 if len(series) == 1 else 0.55},
                       hovertemplate="%{text}<br>count %{y:,}<extra></extra>")


def _centers(borders: np.ndarray) -> np.ndarray:
    return (borders[:-1] + borders[1:]) / 2


def _normal_counts(normal: tuple[float, float] | None, borders: np.ndarray, total: float) -> np.ndarray:
    mean, deviation = normal or (0.0, 1.0)
    below = np.array([0.5 * math.erfc(-(b - mean) / (deviation * math.sqrt(2))) for b in borders])
    return total * np.diff(below)


def _y_limits(series: Series, log: bool) -> Range:
    top = max(float(v.max()) for v in series.values())
    return (0.6, max(top * 2, 2.0)) if log else (0.0, top * 1.06)


def _grid(figure: go.Figure, levels: np.ndarray, limits: Range) -> None:
    levels = levels[np.isfinite(levels)]
    if len(levels) > LEVELS:
        levels = levels[np.linspace(0, len(levels) - 1, LEVELS).round().astype(int)]
    x = np.repeat(levels, 3)
    y = np.tile([limits[0], limits[1], np.nan], len(levels))
    figure.add_scatter(x=x, y=y, mode="lines", name="quantization levels", line={"color": GREY, "width": 1, "dash": "dot"},
                       hovertemplate="level %{x:.4~r}<extra></extra>")


def _words(series: Series, totals: dict[str, float], borders: np.ndarray, what: str) -> str:
    parts = []
    for name, values in series.items():
        used = np.flatnonzero(values)
        if used.size:
            low, high, mode = borders[used[0]], borders[used[-1] + 1], _centers(borders)[int(values.argmax())]
            parts.append(f"{name + ': ' if len(series) > 1 else ''}{count(int(totals[name]), 'value')} between {number(low)} and "
                         f"{number(high)}, most near {number(mode)}")
    return f"Histogram of {what}. " + "; ".join(parts) + "."


def _table(series: Series, borders: np.ndarray) -> pd.DataFrame:
    keep = np.flatnonzero(sum(series.values()))
    return pd.DataFrame({"from": borders[:-1][keep], "to": borders[1:][keep], **{n: v[keep] for n, v in series.items()}})
