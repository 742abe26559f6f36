"""Token by channel map: how large is every activation, and which few stick out?

Each row is a token, each column a channel; color is |activation|. Read it by its columns and dots: a bright column is a channel that
is large for every token (an outlier channel, which per-token quantization cannot escape), a bright dot in a dark row is a massive
activation, one token in one channel. Diamonds mark values at least `massive_ratio` times the median, for a spike is one cell wide.
After a rotation the columns and dots should be gone. Cells hold the maximum of what they cover.

Source: the flat form of the surfaces in SmoothQuant (2211.10438, Fig. 4) and Massive Activations (2402.17762, Fig. 1).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import framed, sentence
from rotviz.plots.heat import heat
from rotviz.plots.palette import MASSIVE, SEQUENTIAL
from rotviz.plots.pool import COLUMNS, ROWS, Bins, cleaned, largest, max_pool, note_lost
from rotviz.plots.words import check_tokens, number, token_label, visible

NAME = "token-channel-map"
MARKED = 12


def draw_token_channel_map(
    values: np.ndarray, tokens: Sequence[str], *, log: bool = True, color_max: float | None = None, color_min: float | None = None,
    massive_ratio: float = 1000.0, what: str = "|activation|", title: str | None = None,
    cells: tuple[int, int] = (ROWS, COLUMNS),
) -> Drawing:
    """Heat map of |values| [T, D], pooled by maximum; the token's text, the channels and the value on hover.

    Args:
        tokens: T token texts.
        log: color on a log scale.
        color_max, color_min: limits of the color scale in data units, to share between maps.
        massive_ratio: cells at least this many times the median |value| get a diamond (the 12 largest).
        what: the quantity's name on the color bar and in the words.
        cells: at most so many rows and columns are drawn; fewer for a small figure that has to appear at once.
    """
    clean, lost = cleaned(values, 2, "values")
    check_tokens(tokens, clean.shape[0])
    if clean.size == lost:
        return nothing(NAME, f"no finite value among {clean.size:,}", title)
    size = np.abs(clean, out=clean)
    median = float(np.nanmedian(size))
    top = largest(size, 20)
    massive = [(t, c) for t, c in top[:MARKED] if size[t, c] >= massive_ratio * median and size[t, c] > 0 and median > 0]
    pooled, rows, columns = max_pool(size, *cells)
    colors = heat(pooled, what, log=log, color_max=color_max, color_min=color_min)
    across, down = [columns.label(i) for i in range(pooled.shape[1])], _row_labels(size, rows, tokens)
    figure = go.Figure(go.Heatmap(
        z=colors.z, x=across, y=down, customdata=pooled if log else None,
        zmin=colors.low, zmax=colors.high, colorscale=SEQUENTIAL, colorbar=colors.bar,
        hovertemplate=f"token %{{y}}<br>channel %{{x}}<br>{what} %{{{'customdata' if log else 'z'}:,.4~r}}<extra></extra>",
    ))
    if massive:
        text = [f"token {t} {token_label(tokens[t])}<br>channel {c}<br>{what} {number(size[t, c])}" for t, c in massive]
        figure.add_scatter(x=[across[c // columns.width] for _, c in massive], y=[down[t // rows.width] for t, _ in massive], text=text,
                           mode="markers", marker=MASSIVE,
                           name=f"massive: over {number(massive_ratio)} times the median of {number(median)}",
                           cliponaxis=False, showlegend=True, hovertemplate="%{text}<extra></extra>")
    pooling = "" if rows.width == columns.width == 1 else f"A cell is the maximum over {rows.width} × {columns.width} (tokens × channels)."
    zeros = "" if size[top[0]] > 0 else "All values are 0."
    framed(figure, x="channel", y="token", title=title, note=sentence(zeros, pooling, note_lost(lost)),
           legend=["massive"] if massive else ())
    _axes(figure, rows, columns, tokens, across, down)
    t, c = top[0]
    alt = (f"Map of {what} for {clean.shape[0]:,} tokens and {clean.shape[1]:,} channels. The largest is {number(size[t, c])} at token {t} "
           f"(“{visible(tokens[t])}”), channel {c}; the median is {number(median)}. "
           f"{len(massive)} of the cells shown are at least {number(massive_ratio)} times the median.")
    table = pd.DataFrame([{"token index": t, "token": visible(tokens[t]), "channel": c, what: float(size[t, c]),
                           "times the median": float(size[t, c]) / median if median else float("nan")} for t, c in top])
    return Drawing(NAME, figure, alt, table)


def _row_labels(size: np.ndarray, rows: Bins, tokens: Sequence[str]) -> list[str]:
    if rows.width == 1:
        return [f"{t} {token_label(text)}" for t, text in enumerate(tokens)]
    peaks = np.where(np.isnan(size), -1, size).max(axis=1)
    strongest = [start + int(peaks[start : start + rows.width].argmax()) for start in rows.starts]
    return [f"{rows.label(i)}, largest at {t} {token_label(tokens[t])}" for i, t in enumerate(strongest)]


def _axes(figure: go.Figure, rows: Bins, columns: Bins, tokens: Sequence[str], across: list[str], down: list[str]) -> None:
    at_x = range(0, len(across), max(1, -(-len(across) // 6)))
    at_y = range(0, len(down), max(1, -(-len(down) // 9)))
    figure.update_xaxes(type="category", tickvals=[across[i] for i in at_x], ticktext=[str(columns.starts[i]) for i in at_x],
                        showgrid=False, tickangle=0, range=[-0.5, len(across) - 0.5])
    words = [f"{rows.starts[i]} {token_label(tokens[rows.starts[i]], 8)}" if rows.width == 1 else rows.label(i) for i in at_y]
    figure.update_yaxes(type="category", tickvals=[down[i] for i in at_y], ticktext=words, showgrid=False, range=[len(down) - 0.5, -0.5])
