"""A weight's distribution with the grid that it is rounded to: bars of counts, a dotted line at each level, the cut-off ends shaded.

What to look for: levels that no weight is near are wasted bits; bars in the shade are cut off to the last level; and a weight that has been through
4 bits before stands on combs of its own, which a rotation smooths into one bell. With a scale for each group the numbers are shown in steps of
their own group's grid, so that all of them share the levels. Counts are on a log axis: the few that stretch the range would not be seen otherwise.

Source: the weight histograms of OmniQuant (2308.13137) and of AIMET's quantization analyzer.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, log_axis, sentence, span
from rotviz.plots.palette import GREY, VERMILION, styles_for
from rotviz.plots.pool import Bins, cleaned, note_lost
from rotviz.plots.words import count, number

NAME = "weight-grid"
BARS = 400
LEVELS = 300


def draw_weight_grid(
    counts: np.ndarray, edges: np.ndarray, *, levels: np.ndarray | None = None, ends: Range | None = None, method: str = "none",
    what: str = "weight", x_range: Range | None = None, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Bars of counts [B] between edges [B + 1].

    Args:
        levels: the numbers that the grid has (at most 300 are drawn).
        ends: below and above these a number is cut off.
        method: the rotation's name, for the bars' color.
        what: the x axis in words.
        x_range, y_range: limits in data units, to share between figures.
    """
    values, lost = cleaned(counts, 1, "counts")
    borders, bad = cleaned(edges, 1, "edges")
    if bad or len(borders) != len(values) + 1 or (np.diff(borders) <= 0).any():
        raise BadInput(f"edges: {len(values) + 1} finite numbers in rising order are needed for {len(values)} counts")
    if not np.nansum(np.maximum(values, 0)):
        return nothing(NAME, "no weight was counted (0 in every bin)", title)
    bins = Bins.up_to(len(values), BARS)
    values = np.add.reduceat(np.nan_to_num(np.maximum(values, 0)), bins.starts)
    borders = np.append(borders[:-1][bins.starts], borders[-1])
    limits = y_range or (0.6, max(2.0 * float(values.max()), 2.0))
    view = x_range or (float(borders[0]), float(borders[-1]))
    figure, centers = go.Figure(), (borders[:-1] + borders[1:]) / 2
    text = [f"{number(a)} to {number(b)}<br>{int(v):,} weights" for a, b, v in zip(borders[:-1], borders[1:], values)]
    figure.add_bar(x=centers, y=values, width=np.diff(borders), name="weights", text=text, textposition="none",
                   marker={"color": styles_for([method])[method].color, "line_width": 0, "opacity": 0.85},
                   hovertemplate="%{text}<extra></extra>")
    drawn = _levels(figure, levels, limits)
    outside = _ends(figure, ends, view, values, borders)
    framed(figure, x=what, y="count (log scale)", title=title, legend=["weights", *(["levels"] if drawn.size else [])],
           note=sentence(note_lost(lost, "count"), f"{bins.width} bins are drawn as one." if bins.width > 1 else ""), height=340)
    figure.update_layout(bargap=0)
    figure.update_yaxes(**log_axis(limits))
    figure.update_xaxes(range=span(view))
    total = int(values.sum())
    alt = (f"Histogram of {count(total, 'weight')}, {what}, most near {number(float(centers[int(values.argmax())]))}. "
           f"The grid has {count(len(drawn), 'level')}{_reach(drawn)}. About {count(outside, 'weight')} lie where the grid cuts off.")
    keep = values > 0
    return Drawing(NAME, figure, alt, pd.DataFrame({"from": borders[:-1][keep], "to": borders[1:][keep], "weights": values[keep]}))


def _levels(figure: go.Figure, levels: np.ndarray | None, limits: Range) -> np.ndarray:
    found = np.unique(np.asarray(levels if levels is not None else [], dtype=np.float64).ravel())
    found = found[np.isfinite(found)]
    if found.size:
        drawn = found if len(found) <= LEVELS else found[np.linspace(0, len(found) - 1, LEVELS).round().astype(int)]
        figure.add_scatter(x=np.repeat(drawn, 3), y=np.tile([limits[0], limits[1], np.nan], len(drawn)), mode="lines", name="levels",
                           line={"color": GREY, "width": 1, "dash": "dot"}, hovertemplate="level %{x:.4~r}<extra></extra>")
    return found


def _ends(figure: go.Figure, ends: Range | None, view: Range, values: np.ndarray, borders: np.ndarray) -> int:
    if ends is None or not np.isfinite(ends).all():
        return 0
    for a, b in ((view[0], ends[0]), (ends[1], view[1])):
        if b > a:
            figure.add_vrect(x0=a, x1=b, fillcolor=VERMILION, opacity=0.14, line_width=0, layer="below")
    return int(values[(borders[1:] <= ends[0]) | (borders[:-1] >= ends[1])].sum())


def _reach(levels: np.ndarray) -> str:
    return f" from {number(float(levels[0]))} to {number(float(levels[-1]))}" if levels.size else ""
