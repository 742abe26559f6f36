"""Grid cells: points in two channels and the cells of the grid that rounds both, one step for both axes.

Every point moves to the middle of its cell. Where the cloud is long and thin along an axis, it reaches far on one axis and uses few cells on the
other; turned by 45 degrees it reaches less far, the cells shrink, and more of them are used. Crosses are where points end up.

Source: the two-dimensional toy pictures of rotation papers (OSTQuant, 2501.13987), with live numbers.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, framed
from rotviz.plots.palette import BLUE, VERMILION
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import number

NAME = "grid-cells"
POINTS = 600
HEIGHT = 420
LINES = 40  # more lines than this on an axis are a grey mist


def draw_grid_cells(points: np.ndarray, step: float, *, reach: float | None = None, what: tuple[str, str] = ("first", "second"),
                    title: str | None = None) -> Drawing:
    """Points [N, 2] and a grid of cells `step` wide around multiples of the step.

    Args:
        reach: both axes show from -reach to reach, to share between figures.
        what: names of the axes.
    """
    clean, lost = cleaned(points, 2, "points")
    if clean.shape[1:] != (2,) or clean.size == lost or not np.isfinite(step) or step <= 0:
        return nothing(NAME, f"no grid of step {number(step)} over {len(clean)} points in two channels", title)
    clean = clean[np.isfinite(clean).all(1)]
    clean = clean[np.abs(clean).max(1) < 1e100]
    if not len(clean):
        return nothing(NAME, "0 points with two finite numbers", title)
    far = reach or 1.05 * float(np.abs(clean).max()) or 1.0
    shown = clean[:: max(1, -(-len(clean) // POINTS))]
    figure = go.Figure()
    _cells(figure, step, far)
    cells, counts = np.unique(np.round(clean / step), axis=0, return_counts=True)
    centers = cells * step
    figure.add_scatter(x=shown[:, 0], y=shown[:, 1], mode="markers", name="a token", marker={"color": BLUE, "size": 5, "opacity": 0.6},
                       hovertemplate="%{x:.3~f}, %{y:.3~f}<extra></extra>")
    figure.add_scatter(x=centers[:POINTS, 0], y=centers[:POINTS, 1], mode="markers", name="where it is rounded to",
                       text=[f"{c:,}" for c in counts[:POINTS]], marker={"color": VERMILION, "symbol": "x", "size": 7},
                       hovertemplate="%{text} tokens end here<br>%{x:.3~f}, %{y:.3~f}<extra></extra>")
    framed(figure, x=what[0], y=what[1], title=title, legend=("a token", "where it is rounded to"), note=note_lost(lost), height=HEIGHT)
    figure.update_xaxes(range=[-far, far], showgrid=False, zeroline=False, nticks=6)
    figure.update_yaxes(range=[-far, far], showgrid=False, zeroline=False, nticks=6, scaleanchor="x", scaleratio=1, constrain="domain")
    order = np.argsort(-counts, kind="stable")[:20]
    alt = (f"{len(clean):,} tokens in two channels under a grid of step {number(step)}: they use {len(cells):,} cells, the fullest holds "
           f"{int(counts.max()):,}; the largest number is {number(float(np.abs(clean).max()))}.")
    table = pd.DataFrame({what[0]: centers[order, 0], what[1]: centers[order, 1], "tokens": counts[order]})
    return Drawing(NAME, figure, alt, table)


def _cells(figure: go.Figure, step: float, far: float) -> None:
    """The borders between cells, halfway between levels."""
    total = min(int(2 * far / step) + 2, LINES)
    borders = (np.arange(total) - total / 2 + (0.5 if total % 2 else 0.0) + 0.5) * step
    borders = borders[np.abs(borders) <= far]
    x = np.concatenate([np.repeat(borders, 3), np.tile([-far, far, np.nan], len(borders))])
    y = np.concatenate([np.tile([-far, far, np.nan], len(borders)), np.repeat(borders, 3)])
    y[2 : 3 * len(borders) : 3] = np.nan
    x[3 * len(borders) + 2 :: 3] = np.nan
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": LINE, "width": 1}, hoverinfo="skip", showlegend=False)
