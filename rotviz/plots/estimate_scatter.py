"""Estimate against measurement: does a cheap score name the same layers as the expensive one?

Each point is a block or a module, x what a gradient-based estimate says it costs, y what was measured, both in nats a token on logarithmic axes. On
the dashed diagonal the estimate is right; a cloud parallel to it ranks right and is off by a factor. The rank correlation (Spearman) is in the words.

Source: the scatter plots of sensitivity proxies in mixed-precision papers (HAWQ-V2, 1911.03852, Fig. 3).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, framed, log_axis, sentence, shared_range
from rotviz.plots.palette import ORANGE, SKY
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "estimate-scatter"
MARKED = 3


def draw_estimate_scatter(
    estimate: np.ndarray, measured: np.ndarray, names: Sequence[str], *, correlation: float = float("nan"), x_words: str = "estimate",
    y_words: str = "measured", title: str | None = None,
) -> Drawing:
    """Log-log scatter of estimates [N] against measurements [N], a point for each name.

    Args:
        correlation: the rank correlation, for the words.
        x_words, y_words: what the axes are, with units.
    """
    a, lost_a = cleaned(estimate, 1, "estimate")
    b, lost_b = cleaned(measured, 1, "measured")
    if not len(a) == len(b) == len(names):
        raise BadInput(f"{len(a)} estimates, {len(b)} measurements and {len(names)} names: as many are needed")
    known = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    if not known.any():
        return nothing(NAME, f"0 of {len(a):,} units have both numbers above zero", title)
    x_range, y_range = shared_range(a[known], log=True), shared_range(b[known], log=True)
    worst = [int(i) for i in np.argsort(-np.where(known, b, -np.inf), kind="stable")[:MARKED] if known[i]]
    rest = [int(i) for i in np.flatnonzero(known) if i not in worst]
    figure = go.Figure()
    ends = (max(x_range[0], y_range[0]), min(x_range[1], y_range[1]))
    if ends[0] < ends[1]:
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": LINE, "dash": "dash", "width": 1.5}, hoverinfo="skip", showlegend=False)
    marked = f"the {count(len(worst), 'unit')} that cost most"
    for picked, name, color, symbol in ((rest, "others", SKY, "circle"), (worst, marked, ORANGE, "diamond")):
        if picked:
            figure.add_scatter(x=a[picked], y=b[picked], mode="markers", name=name, marker={"color": color, "symbol": symbol, "size": 9},
                               text=[escape(f"{names[i]}: estimate {number(a[i])}, measured {number(b[i])}") for i in picked],
                               hovertemplate="%{text}<extra></extra>", cliponaxis=False)
    hidden = int((~known).sum())
    left = f"{count(hidden, 'unit')} with a number at or below zero not shown." if hidden else ""
    framed(figure, x=x_words, y=y_words, title=title, legend=["others", marked], note=sentence(left, note_lost(lost_a + lost_b)), height=360)
    figure.update_xaxes(**log_axis(x_range))
    figure.update_yaxes(**log_axis(y_range))
    ranks = f"The rank correlation is {correlation:.2f}. " if np.isfinite(correlation) else ""
    top = ", ".join(f"{short(str(names[i]), 60)} ({number(b[i])})" for i in worst)
    alt = f"{y_words.capitalize()} against {x_words} of {count(int(known.sum()), 'unit')}. {ranks}The most costly as measured: {top}."
    return Drawing(NAME, figure, alt, pd.DataFrame({"unit": list(names), x_words: a, y_words: b}))
