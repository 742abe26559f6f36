"""Boxes by block: how values are distributed at every block, as box plots made from percentiles.

The box holds half of the values, the whiskers 98 % of them, and the diamonds are the smallest and the largest. A site with outliers shows boxes that
are a thin line on the axis and diamonds far away: the grid must reach the diamonds, and the box gets a level or two. The axis is linear near zero
and logarithmic beyond, so that both are seen. A browser gets seven numbers a block, whatever the number of tokens.

Source: the activation box plots of SpinQuant (2405.16406, Fig. 2) and DartQuant (2511.04063).
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, block_axis, framed, shared_range, symlog, symlog_axis
from rotviz.plots.palette import MASSIVE, SKY, Style
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, number

NAME = "boxes-by-block"
PERCENTILES = (0, 1, 25, 50, 75, 99, 100)
_COLUMNS = ("smallest", "1 %", "25 %", "median", "75 %", "99 %", "largest")


def draw_boxes_by_block(
    percentiles: np.ndarray, *, y_range: Range | None = None, linear: float = 1.0, what: str = "activation", title: str | None = None,
) -> Drawing:
    """Boxes of percentiles [L, 7] (0, 1, 25, 50, 75, 99, 100) over the blocks, on a symlog axis.

    Args:
        y_range: limits in data units, to share between figures.
        linear: up to where the axis is linear.
    """
    clean, lost = cleaned(percentiles, 2, "percentiles")
    if clean.shape[1] != len(PERCENTILES):
        raise BadInput(f"percentiles has {clean.shape[1]} columns; it takes 7, for 0, 1, 25, 50, 75, 99 and 100")
    known = np.flatnonzero(np.isfinite(clean).all(axis=1))
    if not known.size:
        return nothing(NAME, f"no finite values for {count(len(clean), 'block')}", title)
    figure, at = go.Figure(), symlog(clean[known], linear)
    style = Style(SKY, "solid", "circle")
    figure.add_box(x=known, lowerfence=at[:, 1], q1=at[:, 2], median=at[:, 3], q3=at[:, 4], upperfence=at[:, 5], name="values", hoverinfo="skip",
                   line={"color": style.color, "width": 1.4}, fillcolor=style.faded(0.35), showlegend=False)
    for column, name in ((6, "largest"), (0, "smallest")):
        words = [f"block {b}<br>{name} {number(clean[b, column])}<br>98 % from {number(clean[b, 1])} to {number(clean[b, 5])}" for b in known]
        figure.add_scatter(x=known, y=at[:, column], mode="markers", marker=MASSIVE | {"size": 7}, text=words, hovertemplate="%{text}<extra></extra>",
                           showlegend=False)
    framed(figure, x="block", y=f"{what}, linear to ±{number(linear)}, log beyond", title=title,
           note="Box 25–75 %, whiskers 1–99 %, diamonds smallest and largest. " + note_lost(lost))
    figure.update_yaxes(**symlog_axis(y_range or shared_range(clean[known], symmetric_log=True), linear))
    figure.update_xaxes(**block_axis(len(clean)))
    reach = np.abs(clean[known][:, [0, 6]]).max(axis=1)
    worst = int(known[reach.argmax()])
    alt = (f"Box plots of {what} at {count(len(clean), 'block')}. The farthest value, {number(float(reach.max()))} in size, is at block {worst}, "
           f"where 98 % lie between {number(clean[worst, 1])} and {number(clean[worst, 5])}.")
    return Drawing(NAME, figure, alt, pd.DataFrame({"block": np.arange(len(clean)), **{name: clean[:, i] for i, name in enumerate(_COLUMNS)}}))
