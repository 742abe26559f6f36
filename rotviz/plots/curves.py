"""Curves: numbers that follow one dial (the way of a rotation, the bits, the clip), with a dashed line where the dial stands.

The dashed line is what ties a slider to its curve: it shows at once whether turning further would gain or lose. A vertical axis is logarithmic
where the numbers are far apart and all positive; where some are not (an excess kurtosis below zero) it may be symlog, linear near zero.

Source: the clip and bit sweeps of any quantization paper; along a geodesic, ours.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, shared_range, span, symlog, symlog_axis
from rotviz.plots.palette import GREY, MASSIVE, SKY, Style, styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.series import Series, named_series
from rotviz.plots.words import escape, number

NAME = "curves"
HEIGHT = 300
LOG_FROM = 8.0  # ratio of the largest to the smallest number from which an axis is logarithmic
OWN = {"massive tokens": Style(MASSIVE["color"], "solid", "diamond"), "ordinary tokens": Style(SKY, "dash", "circle"),
       "all tokens": Style(GREY, "solid", "square")}
"""Massive tokens keep their color and diamond."""


def draw_curves(
    x: np.ndarray | Sequence[float], lines: np.ndarray | Mapping[str, np.ndarray], *, now: float | None = None, x_words: str = "t",
    what: str = "value", symmetric_log: bool = False, x_log: bool = False, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Lines of values [N] over x [N].

    Args:
        lines: one array, or name -> values.
        now: where the dial stands.
        x_words, what: what the axes are, in words.
        symmetric_log: a symlog axis for the values; otherwise logarithmic where that helps and all numbers are positive.
        x_log: a logarithmic axis for the dial.
        y_range: limits in data units, to share between figures.
    """
    series, lost = named_series(lines, what)
    places, bad = cleaned(np.asarray(x, dtype=np.float64), 1, x_words)
    if bad or any(len(v) != len(places) for v in series.values()):
        raise BadInput(f"{x_words}: as many finite numbers are needed as each line has values")
    known = np.concatenate([v[np.isfinite(v)] for v in series.values()]) if series else np.empty(0)
    if not known.size:
        return nothing(NAME, f"0 finite values of {what}", title)
    log = bool(not symmetric_log and (known > 0).all() and known.max() / known.min() > LOG_FROM)
    figure, styles = go.Figure(), styles_for(series) | {n: s for n, s in OWN.items() if n in series}
    for name, values in series.items():
        look = styles[name]
        text = [f"{escape(name)}<br>{x_words} {number(a)}<br>{escape(what)} {number(b)}" for a, b in zip(places, values, strict=True)]
        figure.add_scatter(x=places, y=symlog(values) if symmetric_log else values, name=escape(name), mode="lines+markers", text=text,
                           line={"color": look.color, "dash": look.dash, "width": 2}, marker={"symbol": look.symbol, "size": 7},
                           hovertemplate="%{text}<extra></extra>", cliponaxis=False)
    kind = " (log scale)" if log else " (log scale both ways)" if symmetric_log else ""
    framed(figure, x=x_words, y=what + kind, title=title, legend=list(series) if len(series) > 1 else (), note=note_lost(lost), height=HEIGHT)
    limits = y_range or shared_range(known, log=log, symmetric_log=symmetric_log)
    figure.update_yaxes(**(symlog_axis(limits) if symmetric_log else log_axis(limits) if log else {"range": span(limits), "nticks": 6}))
    if x_log:
        figure.update_xaxes(**log_axis((float(places.min()) / 1.1, float(places.max()) * 1.1)))
    _mark(figure, now, x_log)
    return Drawing(NAME, figure, _words(series, places, now, what, x_words), pd.DataFrame({x_words: places, **series}))


def _mark(figure: go.Figure, now: float | None, log: bool) -> None:
    if now is not None:
        figure.add_vline(x=now, line={"color": LINE, "dash": "dash", "width": 1.6})
        figure.add_annotation(x=np.log10(now) if log else now, xref="x", y=1, yref="paper", yanchor="bottom", showarrow=False,
                              text=f"here: {number(now)}", font_size=SMALL)
        figure.update_layout(margin_t=int(figure.layout.margin.t) + 14)
        if figure.layout.showlegend:
            figure.update_layout(legend_y=1.08)


def _words(series: Series, places: np.ndarray, now: float | None, what: str, x_words: str) -> str:
    parts = []
    for name, values in series.items():
        ok = np.flatnonzero(np.isfinite(values))
        if ok.size:
            low = ok[int(values[ok].argmin())]
            here = "" if now is None else f", {number(values[int(np.abs(places - now).argmin())])} here"
            parts.append(f"{name} from {number(values[ok[0]])} to {number(values[ok[-1]])}{here}, lowest {number(values[low])} at "
                         f"{number(places[low])}")
    stand = "" if now is None else f" The dial stands at {number(now)}."
    return f"{what.capitalize()} over {x_words}: {'; '.join(parts[:5])}.{stand}"
