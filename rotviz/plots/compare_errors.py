"""Compare errors: two runs, block by block and site by site.

Color is log2(error of B / error of A), so 0 (grey) is a tie, -1 (blue) means B has half the error, +1 (orange) twice. The scale is
symmetric about zero, and the hover says the ratio in words. A single orange row names the site that a change of recipe broke.

Source: the per-layer comparison views of AIMET and AI Edge Quantizer's error overlay.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import SMALL, block_axis, framed, sentence
from rotviz.plots.kurtosis_by_block import site_words
from rotviz.plots.palette import DIVERGING
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "compare-errors"


def draw_compare_errors(
    errors_a: np.ndarray, errors_b: np.ndarray, sites: Sequence[str], *, name_a: str = "A", name_b: str = "B", limit: float | None = None,
    title: str | None = None,
) -> Drawing:
    """Heat map of log2(errors_b / errors_a), both [L, S]: L blocks, S sites.

    Args:
        sites: S names of sites.
        limit: the color scale reaches from -limit to +limit (log2); None = the largest ratio, at least 1.
    """
    a, lost_a = cleaned(errors_a, 2, "errors_a")
    b, lost_b = cleaned(errors_b, 2, "errors_b")
    if a.shape != b.shape or a.shape[1] != len(sites):
        raise BadInput(f"errors_a is {a.shape}, errors_b {b.shape}, and there are {len(sites)} sites: [blocks, sites] of both are needed")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(b / a)
    ratio[(a == 0) & (b == 0)] = 0.0
    missing = int((~np.isfinite(ratio)).sum())
    ratio[~np.isfinite(ratio)] = np.nan
    if ratio.size == missing:
        return nothing(NAME, f"no pair of errors to compare among {ratio.size:,}", title)
    top = limit or max(1.0, float(np.nanmax(np.abs(ratio))))
    words = [site_words(str(s)) for s in sites]
    hover = [[escape(_cell(a[i, j], b[i, j], name_a, name_b)) for i in range(a.shape[0])] for j in range(a.shape[1])]
    figure = go.Figure(go.Heatmap(
        z=ratio.T.astype(np.float32), x=np.arange(a.shape[0]), y=[escape(w) for w in words], zmin=-top, zmax=top, colorscale=DIVERGING,
        xgap=1, ygap=1, customdata=hover,
        hovertemplate="%{y}, block %{x}<br>%{customdata}<extra></extra>", colorbar=_bar(top),
    ))
    lost = "" if not missing else f"{count(missing, 'cell')} without a ratio left blank."
    framed(figure, x="block", title=title, note=sentence(lost, note_lost(lost_a + lost_b)), height=max(290, 160 + 36 * len(sites)))
    figure.update_layout(margin_t=44 + (34 if title else 0))
    # The name of the colors stands above the map: beside the bar it would take a fifth of a phone's width.
    figure.add_annotation(text=f"error of {escape(short(name_b, 28))}<br>/ {escape(short(name_a, 28))}", x=1, xref="paper", xanchor="right",
                          y=1, yref="paper", yanchor="bottom", align="right", showarrow=False, font_size=SMALL)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed", ticks="")
    figure.update_xaxes(showgrid=False, **block_axis(a.shape[0]))
    better, worse = int((ratio < 0).sum()), int((ratio > 0).sum())
    i, j = (int(v) for v in np.unravel_index(int(np.nanargmax(np.abs(ratio))), ratio.shape))
    alt = (f"Error of {name_b} against {name_a} over {count(a.shape[0], 'block')} and {count(len(sites), 'site')}. {name_b} is lower in "
           f"{better} cells and higher in {worse}; the median factor is {number(float(2 ** np.nanmedian(ratio)))}. The farthest apart: "
           f"{words[j]} in block {i}, {_cell(a[i, j], b[i, j], name_a, name_b)}.")
    table = pd.DataFrame({"block": np.repeat(np.arange(a.shape[0]), len(sites)), "site": words * a.shape[0], f"{name_a} (A)": a.ravel(),
                          f"{name_b} (B)": b.ravel(), "log2 of B / A": ratio.ravel()})
    return Drawing(NAME, figure, alt, table)


def _cell(a: float, b: float, name_a: str, name_b: str) -> str:
    if not (np.isfinite(a) and np.isfinite(b)) or a <= 0 or b <= 0:
        return f"{name_a} {number(a)}, {name_b} {number(b)}"
    factor = b / a
    verdict = "the same" if factor == 1 else f"{number(factor)} times as large" if factor > 1 else f"{number(1 / factor)} times smaller"
    return f"{name_b} is {verdict} ({number(a)} → {number(b)})"


def _bar(top: float) -> dict:
    step = max(1, int(np.ceil(top / 3)))
    marks = [0, *range(step, int(top) + 1, step)]
    marks = sorted({-m for m in marks} | set(marks))
    text = ["same" if m == 0 else f"×{2**m}" if m > 0 else f"÷{2**-m}" for m in marks]
    return {"thickness": 12, "xpad": 6, "tickvals": marks, "ticktext": text, "tickfont_size": SMALL, "outlinewidth": 0}
