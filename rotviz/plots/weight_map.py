"""Error of every weight of a model, or any other number of each: a map of blocks by linears.

A row is a role (q, k, v, o, gate, up, down), a column a block. Dark cells lose most. On one color scale two maps side by side
show what a rotation or a method does to all weights at once; a row that brightens under the rotation is a linear that pays for it.

Source: the sensitivity heat maps of mixed-precision papers (HAWQ, 1905.03696) and of AIMET's per-layer analysis.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, block_axis, framed
from rotviz.plots.heat import heat
from rotviz.plots.palette import SEQUENTIAL
from rotviz.plots.pool import Bins, cleaned, note_lost
from rotviz.plots.words import count, escape, number

NAME = "weight-map"
BLOCKS = 256
LOG_FROM = 8.0


def draw_weight_map(
    errors: np.ndarray, roles: Sequence[str], *, what: str = "relative MSE", color_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Heat map of numbers [L, R]: L blocks, R roles.

    Args:
        what: what the colors are.
        color_range: limits in data units, to share between figures; the scale is logarithmic where they are far apart.
    """
    values, lost = cleaned(errors, 2, "errors")
    if values.shape[1] != len(roles):
        raise BadInput(f"errors is {values.shape} and there are {len(roles)} roles: one column for each is needed")
    known = values[np.isfinite(values) & (values >= 0)]
    if not known.size:
        return nothing(NAME, f"0 of {values.size:,} weights have a {what}", title)
    positive = known[known > 0]
    low, high = color_range or ((float(positive.min()), float(positive.max())) if positive.size else (0.0, 1.0))
    log = low > 0 and high / low > LOG_FROM
    bins = Bins.up_to(len(values), BLOCKS)
    pooled = np.fmax.reduceat(values, bins.starts, axis=0)
    colors = heat(pooled, "", log=log, color_max=high, color_min=low)
    hover = [[f"{escape(str(role))}, block {bins.label(i)}<br>{escape(what)} {number(float(pooled[i, j]))}" for i in range(len(pooled))]
             for j, role in enumerate(roles)]
    figure = go.Figure(go.Heatmap(z=colors.z.T, x=bins.starts, y=[escape(str(r)) for r in roles], zmin=colors.low, zmax=colors.high,
                                  colorscale=SEQUENTIAL, reversescale=True, xgap=1, ygap=1, colorbar=colors.bar, customdata=hover,
                                  hovertemplate="%{customdata}<extra></extra>"))
    framed(figure, x="block", title=title, note=note_lost(lost), height=max(250, 120 + 30 * len(roles)))
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed", ticks="")
    figure.update_xaxes(showgrid=False, **block_axis(len(values)))
    i, j = (int(v) for v in np.unravel_index(int(np.nanargmax(np.where(values >= 0, values, np.nan))), values.shape))
    medians = ", ".join(f"{role} {number(float(np.nanmedian(column)))}" for role, column in zip(roles, values.T) if np.isfinite(column).any())
    alt = (f"{what[0].upper()}{what[1:]} of the weights of {count(len(values), 'block')} and {count(len(roles), 'linear')}. The largest is "
           f"{number(float(values[i, j]))} ({roles[j]} in block {i}). Medians: {medians[:500]}.")
    table = pd.DataFrame(values, columns=[str(r) for r in roles])
    table.insert(0, "block", np.arange(len(values)))
    return Drawing(NAME, figure, alt, table)
