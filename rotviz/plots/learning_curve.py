"""Learning curve: numbers of a learner against its steps, while it goes or afterwards.

A loss that is flat from the first step has nothing to gain from (or too small a rate); one that jumps has too large a rate. The loss is what a
method minimizes; the error of rounding beside it is what we want from it, and it need not follow: then the loss is the wrong one.

Source: the training curves of any dashboard; DartQuant (2511.04063, Fig. 6) draws its loss against steps so.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, log_axis, shared_range, span
from rotviz.plots.palette import MASSIVE, SKY, Style, styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import escape, number

NAME = "learning-curve"
LOG_FROM = 5.0  # ratio of the largest to the smallest
HEIGHT = 320
FEW_STEPS = 8  # up to here every step has a tick, beyond Plotly chooses
OWN = {"massive": Style(MASSIVE["color"], "solid", "diamond"), "ordinary": Style(SKY, "dash", "circle")}
"""Massive tokens keep their color and diamond."""


def draw_learning_curve(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], *, what: str = "loss", x: str = "step", log: bool | None = None,
    x_range: Range | None = None, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Lines of values [N] over steps [N].

    Args:
        lines: name -> (steps, values).
        what, x: what the values and the steps are.
        log: a log axis for the values; None = when they are more than 5 times apart.
        x_range, y_range: limits in data units, to share between figures.
    """
    series, lost = {}, 0
    for name, (steps, values) in lines.items():
        if len(steps) != len(values):
            raise BadInput(f"{name} has {len(steps)} steps and {len(values)} values: as many are needed")
        found, bad = cleaned(values, 1, name)
        series[name], lost = (np.asarray(steps, dtype=float), found), lost + bad
    known = {name: found[np.isfinite(found)] for name, (_, found) in series.items()}
    everything = np.concatenate([*known.values(), np.empty(0)])
    if not everything.size:
        return nothing(NAME, f"0 finite values of {what} so far", title)
    if log is None:
        log = bool((everything > 0).all() and everything.max() / everything.min() > LOG_FROM)
    figure, styles = go.Figure(), styles_for(series) | {n: s for n, s in OWN.items() if n in series}
    for name, (steps, found) in series.items():
        ok, look = np.isfinite(found) & ((found > 0) | (not log)), styles[name]
        marks = len(found) <= 40
        figure.add_scatter(x=steps[ok], y=found[ok], name=escape(name), mode="lines+markers" if marks else "lines",
                           line={"color": look.color, "dash": look.dash, "width": 2}, marker={"symbol": look.symbol, "size": 7},
                           hovertemplate=f"{escape(name)}<br>{x} %{{x}}<br>{what} %{{y:,.4~r}}<extra></extra>")
    framed(figure, x=x, y=f"{what}{' (log scale)' if log else ''}", title=title, legend=list(series) if len(series) > 1 else (),
           note=note_lost(lost), height=HEIGHT)
    limits = y_range or shared_range(everything, log=log)
    figure.update_yaxes(**(log_axis(limits) if log else {"range": span(limits)}))
    steps = int(max(s.max() for s, _ in series.values() if s.size))
    if steps <= FEW_STEPS:
        figure.update_xaxes(tick0=0, dtick=1)
    if x_range:
        figure.update_xaxes(range=span(x_range))
    parts = [f"{name} from {number(v[0])} to {number(v[-1])}, lowest {number(v.min())}" for name, v in known.items() if v.size]
    return Drawing(NAME, figure, f"{what.capitalize()} up to {x} {steps:,}: {'; '.join(parts)}.", _table(series, x))


def _table(series: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str) -> pd.DataFrame:
    """A row for each step that some line has."""
    columns = [pd.Series(values, index=steps, name=name).groupby(level=0).last() for name, (steps, values) in series.items()]
    return pd.concat(columns, axis=1).rename_axis(x).reset_index()
