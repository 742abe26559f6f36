"""Seed spread: the result of each method over several random seeds.

A dot is a seed, the wide bar is the mean of several, the violin (from eight seeds on) the shape. Random rotations differ a lot from draw to draw, so
one lucky seed proves nothing: a learned method whose dots lie inside the spread of the unlearned one gained nothing. The shaded band, if there is
one, is where one more random draw would fall (evaluation/verdict.py).

Source: SpinQuant (2405.16406, Fig. 4), up to 13 points of accuracy between random rotations.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, log_axis, mark_reference, shared_range, span
from rotviz.plots.palette import Style, styles_for
from rotviz.plots.pool import note_lost
from rotviz.plots.series import Series, any_number, named_series
from rotviz.plots.words import count, escape, number, short

NAME = "seed-spread"
VIOLIN_FROM, DOTS = 8, 400
BAND = "rgba(128,128,128,0.16)"
_GOLDEN = 0.6180339887


def draw_seed_spread(
    values: Mapping[str, np.ndarray], *, seeds: Mapping[str, np.ndarray] | None = None, reference: float | None = None,
    band: Range | None = None, what: str = "perplexity", log: bool | None = None, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Dots, mean and violin of values [seeds] by method.

    Args:
        seeds: method -> the seed of each value, for the hover.
        reference: the float model's value, a dashed line.
        band: an interval of values to shade, from side to side.
        log: a log axis; None = when the values are more than 20 times apart.
        y_range: limits in data units, to share between figures.
    """
    series, lost = named_series(values, what)
    if not any_number(series):
        return nothing(NAME, f"0 finite values for {count(len(series), 'method')}", title)
    everything = np.concatenate([v[np.isfinite(v)] for v in series.values()])
    log = bool((everything > 0).all() and everything.max() / everything.min() > 20) if log is None else log
    figure, styles = go.Figure(), styles_for(series)
    for column, (name, found) in enumerate(series.items()):
        known = np.flatnonzero(np.isfinite(found) & ((found > 0) | (not log)))
        if known.size:
            _column(figure, column, name, found, known, styles[name], (seeds or {}).get(name), what)
    limits = y_range or shared_range(everything, [reference if reference is not None else np.nan], band or [], log=log)
    if band and np.isfinite(band).all():
        figure.add_hrect(y0=max(band[0], limits[0]) if log else band[0], y1=band[1], fillcolor=BAND, line_width=0, layer="below")
    framed(figure, y=f"{what}{' (log scale)' if log else ''}", x="method (number of seeds)", title=title, note=note_lost(lost))
    mark_reference(figure, reference, log)
    figure.update_yaxes(**(log_axis(limits) if log else {"range": span(limits)}))
    figure.update_xaxes(tickvals=list(range(len(series))), range=[-0.5, len(series) - 0.5], showgrid=False,
                        ticktext=[f"{escape(short(n, 14))}<br>({np.isfinite(v).sum()})" for n, v in series.items()])
    table = _table(series)
    parts = [f"{r['method']} {number(r['mean'])} (from {number(r['smallest'])} to {number(r['largest'])}, {count(int(r['seeds']), 'seed')})"
             for _, r in table.iterrows() if r["seeds"]]
    shaded = f" Shaded: from {number(band[0])} to {number(band[1])}." if band and np.isfinite(band).all() else ""
    return Drawing(NAME, figure, f"Mean {what} by method over seeds: {'; '.join(parts)}.{shaded}", table)


def _column(figure: go.Figure, column: int, name: str, found: np.ndarray, known: np.ndarray, look: Style, seeds: np.ndarray | None,
            what: str) -> None:
    values = found[known]
    color, symbol = look.color, look.symbol
    if len(values) >= VIOLIN_FROM and np.ptp(values) > 0:
        sample = np.sort(values)[np.linspace(0, len(values) - 1, min(len(values), 2000)).round().astype(int)]
        figure.add_violin(x=np.full(len(sample), column), y=sample, width=0.8, points=False, line={"color": color, "width": 1},
                          fillcolor=look.faded(0.2), hoverinfo="skip", showlegend=False, spanmode="hard")
    keep = np.linspace(0, len(values) - 1, min(len(values), DOTS)).round().astype(int)
    aside = 0.22 * ((np.arange(len(keep)) * _GOLDEN + 0.5) % 1 - 0.5)  # even, and the same every time
    text = [f"{escape(name)}, {f'seed {int(seeds[known[i]])}' if seeds is not None else f'number {known[i]}'}<br>{what} {number(values[i])}"
            for i in keep]
    figure.add_scatter(x=column + aside, y=values[keep], mode="markers", text=text, hovertemplate="%{text}<extra></extra>",
                       marker={"color": color, "symbol": symbol, "size": 8 if len(values) > 1 else 12, "opacity": 0.85}, showlegend=False)
    if len(values) == 1:
        return  # a mean of one would only cover its dot
    mean = float(values.mean())
    spread = f" ± {number(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    figure.add_scatter(x=[column - 0.3, column + 0.3], y=[mean, mean], mode="lines", line={"color": color, "width": 4}, showlegend=False,
                       hovertemplate=f"{escape(name)}<br>mean {number(mean)}{spread}<extra></extra>")


def _table(series: Series) -> pd.DataFrame:
    rows = []
    for name, values in series.items():
        v = values[np.isfinite(values)]
        rows.append({"method": name, "seeds": len(v), "mean": v.mean() if len(v) else np.nan,
                     "standard deviation": v.std(ddof=1) if len(v) > 1 else np.nan, "smallest": v.min() if len(v) else np.nan,
                     "median": np.median(v) if len(v) else np.nan, "largest": v.max() if len(v) else np.nan})
    return pd.DataFrame(rows)
