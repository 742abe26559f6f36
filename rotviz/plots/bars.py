"""Bars: a few numbers beside each other, for one or several series.

Bars begin at zero, so that their lengths compare; where the numbers are more than a hundred times apart, the axis is logarithmic and says so.
Each bar carries its number.

Source: the bar charts of any comparison, such as the tables of QuaRot (2404.00456) drawn out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import SMALL, framed, log_axis, shared_range, span
from rotviz.plots.palette import MASSIVE, SKY, Style, styles_for
from rotviz.plots.pool import note_lost
from rotviz.plots.series import named_series
from rotviz.plots.words import escape, number

NAME = "bars"
HEIGHT = 320
LOG_FROM = 100.0
FEW = 12
LABELLED = 24  # with more bars than this, numbers over them would touch
OWN = {"massive tokens": Style(MASSIVE["color"], "solid", "diamond"), "ordinary tokens": Style(SKY, "dash", "circle")}


def draw_bars(names: Sequence[str], values: np.ndarray | Mapping[str, np.ndarray], *, what: str = "value", x_words: str = "",
              labelled: bool | None = None, log: bool | None = None, blank: str = "", title: str | None = None) -> Drawing:
    """Bars of values [N] over names, side by side where there are several series.

    Args:
        labelled: a number over each bar; None = where there are few.
        log: a log axis; None = where the numbers are all positive and far apart.
        blank: what it means that a number is missing, said below where one is.
    """
    series, lost = named_series(values, what)
    if any(len(v) != len(names) for v in series.values()):
        raise BadInput(f"{len(names)} names for {[len(v) for v in series.values()]} values: as many are needed")
    known = np.concatenate([v[np.isfinite(v)] for v in series.values()]) if series else np.empty(0)
    if not known.size:
        return nothing(NAME, f"0 finite values of {what}", title)
    log = bool((known > 0).all() and known.max() / known.min() > LOG_FROM) if log is None else log and bool((known > 0).all())
    figure, styles = go.Figure(), styles_for(series) | {n: s for n, s in OWN.items() if n in series}
    labelled = len(names) * len(series) <= LABELLED if labelled is None else labelled
    for i, (name, found) in enumerate(series.items()):
        text = [number(float(f"{v:.2g}")) if np.isfinite(v) else "" for v in found]
        figure.add_bar(x=[escape(n) for n in names], y=found, name=escape(name), text=text,
                       textposition="outside" if labelled else "none", textfont_size=SMALL, cliponaxis=False,
                       marker={"color": styles[name].color, "pattern": {"shape": ("", "/", "x", ".")[i % 4], "fillmode": "replace"}},
                       hovertemplate=f"%{{x}}<br>{escape(name)} %{{y:,.4~r}}<extra></extra>")
    framed(figure, x=x_words, y=what + (" (log scale)" if log else ""), title=title, legend=list(series) if len(series) > 1 else (),
           note=blank if lost and blank else note_lost(lost), height=HEIGHT)
    figure.update_layout(barmode="group", bargap=0.25, uniformtext={"minsize": SMALL, "mode": "show"})
    if len(names) <= FEW and all(name.isdecimal() for name in names):
        figure.update_xaxes(dtick=1)  # blocks are read as numbers, of which there are no halves
    if log:
        low, high = shared_range(known, log=True)
        figure.update_yaxes(**log_axis((low / 1.3, high * 1.4)))
    else:
        low, high = min(float(known.min()), 0.0), max(float(known.max()), 0.0)
        air = 0.12 * (high - low) or 1.0
        figure.update_yaxes(range=span((low - (air if low < 0 else 0), high + air)), nticks=6)
    parts = [f"{name}: " + ", ".join(f"{n} {number(v)}" for n, v in list(zip(names, found, strict=True))[:6]) for name, found in series.items()]
    return Drawing(NAME, figure, f"Bars of {what}. {'; '.join(parts[:4])}.", pd.DataFrame({x_words or "name": list(names), **series}))
