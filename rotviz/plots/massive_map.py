"""Massive map: the largest |h| of every token after every block.

Columns are tokens, rows are blocks (the first at the bottom), color is the largest |hidden state| on a log scale. Massive tokens are
bright vertical bars that start at one block and end before the last; diamonds mark the cells that the finder flagged. Nearly always
the first token is one, often the first full stop or line break too.

Source: Massive Activations (2402.17762, Sections 2 and 3); flat form of its Fig. 4 over all tokens.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import framed, sentence
from rotviz.plots.heat import heat
from rotviz.plots.palette import MASSIVE, SEQUENTIAL
from rotviz.plots.pool import Bins, cleaned, largest, max_pool, note_lost
from rotviz.plots.words import check_tokens, count, number, token_label, visible

NAME = "massive-map"
MARKED = 400
EACH_UP_TO = 40  # blocks; in a deeper model a diamond marks where a run of massive cells starts and ends


def draw_massive_map(
    peaks: np.ndarray, tokens: Sequence[str], *, massive: np.ndarray | None = None, channels: np.ndarray | None = None, log: bool = True,
    color_max: float | None = None, what: str = "largest |hidden state|", title: str | None = None,
) -> Drawing:
    """Heat map of peaks [L, T], the largest |h| of each token after each block.

    Args:
        tokens: T token texts.
        massive: [L, T] of bool, the cells to mark.
        channels: [L, T], the channel each peak sits in, for the hover of marked cells and the table.
        color_max: limit of the color scale in data units, to share between maps.
    """
    clean, lost = cleaned(peaks, 2, "peaks")
    check_tokens(tokens, clean.shape[1])
    for name, extra in (("massive", massive), ("channels", channels)):
        if extra is not None and np.shape(extra) != clean.shape:
            raise BadInput(f"{name} has the shape {np.shape(extra)} and peaks {clean.shape}: the same is needed")
    if clean.size == lost:
        return nothing(NAME, f"no finite value among {clean.size:,}", title)
    clean = np.abs(clean)
    pooled, rows, columns = max_pool(clean)
    colors = heat(pooled, what, log=log, color_max=color_max)
    labels = _labels(clean, columns, tokens)
    figure = go.Figure(go.Heatmap(
        z=colors.z, x=labels, y=rows.starts, customdata=pooled, zmin=colors.low, zmax=colors.high,
        colorscale=SEQUENTIAL, colorbar=colors.bar,
        hovertemplate=f"token %{{x}}<br>after block %{{y}}<br>{what} %{{customdata:,.4~r}}<extra></extra>",
    ))
    marked = np.argwhere(np.asarray(massive, dtype=bool)) if massive is not None else np.empty((0, 2), dtype=int)
    shown = _worth_marking(marked, clean.shape)
    shown = shown[np.argsort(-np.nan_to_num(clean[tuple(shown.T)]), kind="stable")][:MARKED]
    if len(shown):
        _mark(figure, shown, clean, tokens, channels, [labels[t // columns.width] for _, t in shown], what)
    pooling = f"A column is the maximum over {columns.width} tokens." if columns.width > 1 else ""
    framed(figure, x="token", y="block", title=title, legend=["massive"] if len(shown) else (), note=sentence(pooling, note_lost(lost)))
    _ticks(figure, columns, tokens, labels)
    figure.update_yaxes(showgrid=False, nticks=9, range=[-0.5, clean.shape[0] - 0.5])
    return Drawing(NAME, figure, _alt(clean, marked, tokens, what), _table(clean, tokens, channels, massive, what))


def _worth_marking(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The cells that get a diamond: all, or the ends of each token's runs when the blocks are too many for one each."""
    if shape[0] <= EACH_UP_TO:
        return cells
    mask = np.zeros((shape[0] + 2, shape[1]), dtype=bool)
    mask[cells[:, 0] + 1, cells[:, 1]] = True
    inner = mask[cells[:, 0], cells[:, 1]] & mask[cells[:, 0] + 2, cells[:, 1]]
    return cells[~inner]


def _labels(clean: np.ndarray, columns: Bins, tokens: Sequence[str]) -> list[str]:
    if columns.width == 1:
        return [f"{t} {token_label(text)}" for t, text in enumerate(tokens)]
    peaks = np.nan_to_num(clean).max(axis=0)
    strongest = [start + int(peaks[start : start + columns.width].argmax()) for start in columns.starts]
    return [f"{columns.label(i)}, largest at {t} {token_label(tokens[t])}" for i, t in enumerate(strongest)]


def _mark(figure: go.Figure, cells: np.ndarray, clean: np.ndarray, tokens: Sequence[str], channels: np.ndarray | None, x: list[str],
          what: str) -> None:
    text = [f"token {t} {token_label(tokens[t])}<br>after block {b}<br>{what} {number(clean[b, t])}"
            + (f"<br>channel {int(channels[b, t])}" if channels is not None else "") for b, t in cells]
    figure.add_scatter(x=x, y=cells[:, 0], mode="markers", marker={**MASSIVE, "size": 7}, text=text,
                       name="massive token", showlegend=True, hovertemplate="%{text}<extra></extra>", cliponaxis=False)


def _ticks(figure: go.Figure, columns: Bins, tokens: Sequence[str], labels: list[str]) -> None:
    total = len(columns.starts)
    places = list(range(0, total, max(1, -(-total // 8))))
    if columns.width == 1 and total <= 24:
        places = list(range(total))
    words = [f"{columns.starts[i]} {token_label(tokens[columns.starts[i]], 8)}" for i in places]
    figure.update_xaxes(type="category", tickvals=[labels[i] for i in places], ticktext=words, showgrid=False, tickangle=-40,
                        range=[-0.5, total - 0.5])


def _alt(clean: np.ndarray, marked: np.ndarray, tokens: Sequence[str], what: str) -> str:
    b, t = largest(clean, 1)[0]
    flagged = sorted({int(i) for i in marked[:, 1]})
    names = ", ".join(f"{i} (“{visible(tokens[i])}”)" for i in flagged[:5])
    more = ", …" if len(flagged) > 5 else ""
    verdict = f"{count(len(flagged), 'massive token')}: {names}{more}" if flagged else "No token is marked as massive"
    return (f"{what.capitalize()} of {count(clean.shape[1], 'token')} after each of {count(clean.shape[0], 'block')}. The largest is "
            f"{number(clean[b, t])}, at token {t} (“{visible(tokens[t])}”) after block {b}; the median is "
            f"{number(float(np.nanmedian(clean)))}. {verdict}.")


def _table(clean: np.ndarray, tokens: Sequence[str], channels: np.ndarray | None, massive: np.ndarray | None, what: str) -> pd.DataFrame:
    filled = np.nan_to_num(clean)
    order = np.argsort(-filled.max(axis=0), kind="stable")[:20]
    rows = []
    for t in (int(i) for i in order):
        b = int(filled[:, t].argmax())
        row = {"token index": t, "token": visible(tokens[t]), what: float(filled[b, t]), "after block": b}
        if channels is not None:
            row["channel"] = int(channels[b, t])
        if massive is not None:
            row["blocks where massive"] = int(np.asarray(massive, dtype=bool)[:, t].sum())
        rows.append(row)
    return pd.DataFrame(rows)
