"""Butterflies: the fast Hadamard transform of a few numbers, stage by stage.

Columns are stages, rows are positions; every circle is the sum or the difference of the two it is tied to, divided by sqrt 2, so that the energy
stays. Solid lines add, dashed lines subtract. Area and color are |value|: one large circle becomes two of 0.71, four of 0.5, eight of 0.35.

Source: the signal-flow graph of Cooley and Tukey (1965); for Hadamard transforms Fino and Algazi (1976).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, framed
from rotviz.plots.palette import LINES
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import number

NAME = "butterflies"
LARGEST = 24  # diameter of the largest circle
ROOM, TALL = 30, 50  # pixels for each row, without and with numbers
WRITTEN = 8  # up to so many rows the numbers are written above the circles
MOST = 64


def draw_butterflies(stages: np.ndarray | Sequence[np.ndarray], *, title: str | None = None) -> Drawing:
    """Values [stages + 1, n] before and after each stage; in stage k, positions that differ in bit k are tied."""
    clean, lost = cleaned(np.asarray(stages, dtype=np.float64), 2, "stages")
    total, n = clean.shape
    if clean.size == lost:
        return nothing(NAME, f"0 finite numbers in {total} stages", title)
    if n > MOST:
        raise BadInput(f"{n} rows of circles cannot be read: at most {MOST}")
    size = np.nan_to_num(np.abs(clean))
    top = float(size.max()) or 1.0
    figure = go.Figure()
    for dash, sign in (("solid", 1), ("dash", -1)):
        x, y = _ties(total, n, sign)
        figure.add_scatter(x=x, y=y, mode="lines", name="adds" if sign > 0 else "subtracts", hoverinfo="skip",
                           line={"color": LINE, "width": 1.1, "dash": dash})
    at, row = np.meshgrid(np.arange(total), np.arange(n), indexing="ij")
    values = np.nan_to_num(clean).ravel()
    figure.add_scatter(
        x=at.ravel(), y=row.ravel(), mode="markers+text" if n <= WRITTEN else "markers", showlegend=False,
        text=[number(float(f"{v:.2g}")) for v in values], textposition="top center", textfont_size=SMALL, cliponaxis=False,
        marker={"size": 5 + (LARGEST - 5) * np.sqrt(size.ravel() / top), "color": size.ravel(), "colorscale": LINES, "cmin": 0, "cmax": top},
        hovertemplate="after stage %{x}, position %{y}<br>%{text}<extra></extra>")
    framed(figure, x="stage", y="position", title=title, legend=("adds", "subtracts"), note=note_lost(lost),
           height=120 + (TALL if n <= WRITTEN else ROOM) * max(n, 5))
    figure.update_xaxes(tickvals=list(range(total)), ticktext=["before", *(f"stage {k}" for k in range(1, total))], showgrid=False,
                        range=[-0.35, total - 0.65])
    figure.update_yaxes(range=[n - 0.4, -0.9], showgrid=False, zeroline=False, tickvals=list(range(n)))
    peaks = size.max(1)
    alt = (f"Butterflies of {n} numbers in {total - 1} stages. The largest magnitude goes "
           f"{', '.join(number(float(f'{p:.3g}')) for p in peaks[:8])}; the energy stays.")
    table = pd.DataFrame({"position": np.arange(n), "before": clean[0], **{f"stage {k}": clean[k] for k in range(1, total)}})
    return Drawing(NAME, figure, alt, table)


def _ties(total: int, n: int, sign: int) -> tuple[list[float | None], list[float | None]]:
    """Lines from circles to those they are added to (or, for sign -1, subtracted in)."""
    x: list[float | None] = []
    y: list[float | None] = []
    for stage in range(total - 1):
        bit = 1 << stage
        for target in range(n):
            for source in {target, target ^ bit} if target ^ bit < n else {target}:
                negative = bool(target & bit) and source == target
                if negative == (sign < 0):
                    x += [stage, stage + 1, None]
                    y += [source, target, None]
    return x, y
