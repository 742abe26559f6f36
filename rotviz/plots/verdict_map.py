"""Verdict map: where a rotation helps, makes no difference or hurts, over the whole model.

A row is a block, a column a site, so that every cell has room for its symbol on a phone as well. Color is log2 of the error under B over the error
under A (the geometric mean over tokens): blue where B loses less, orange where it loses more. Colors do not carry the verdict alone: a triangle that
points down says that the error falls for certain (the whole interval), a cross that it rises, a bar that there is no difference; a diamond around it
says that massive tokens are ruined.

Source: the per-layer comparison views of AIMET; the verdicts are rotviz's own (rotviz/evaluation/paired.py).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import SMALL, block_axis, framed, sentence
from rotviz.plots.kurtosis_by_block import site_words
from rotviz.plots.palette import DIVERGING, GREY, MASSIVE
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "verdict-map"
MARKS = {"helps": "triangle-down", "no difference": "line-ew", "hurts": "x-thin", "cannot be told": "circle-open"}
INK = "#1A1A1A"
LIMIT = 3.0
ROOM, ROW = 600.0, (12.0, 22.0)
"""Pixels for all blocks, and the least and most for one."""


def draw_verdict_map(
    ratios: np.ndarray, kinds: Sequence[Sequence[str]], sites: Sequence[str], *, ruined: np.ndarray | None = None,
    reasons: Sequence[Sequence[str]] = (), name_a: str = "A", name_b: str = "B", limit: float | None = None, title: str | None = None,
) -> Drawing:
    """Map of the ratios [L, S] of errors, B over A, with a symbol for each verdict: L blocks, S sites.

    Args:
        kinds: L rows of S words, the keys of MARKS.
        ruined: bool [L, S], where massive tokens are ruined.
        reasons: L rows of S sentences for the hover.
        limit: colors reach from -limit to +limit (log2); None = the largest ratio, at least 1 and at most 3.
    """
    values, lost = cleaned(ratios, 2, "ratios")
    if values.shape != (len(kinds), len(sites)) or any(len(row) != len(sites) for row in kinds):
        raise BadInput(f"ratios is {values.shape} and there are {len(kinds)} x {len(sites)} verdicts: one for each place is needed")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, np.log2(values), np.nan)
    if not np.isfinite(logs).any():
        return nothing(NAME, f"0 of {values.size:,} places have errors to compare", title)
    top = limit or min(LIMIT, max(1.0, float(np.nanmax(np.abs(logs)))))
    words = [site_words(str(s)) for s in sites]
    names = [escape(str(s)) for s in sites]
    hover = [[_hover(words[j], i, values[i, j], kinds[i][j], reasons[i][j] if reasons else "", name_b, name_a) for j in range(len(sites))]
             for i in range(len(values))]
    figure = go.Figure(go.Heatmap(z=logs.astype(np.float32), x=names, y=np.arange(len(values)), zmin=-top, zmax=top, colorscale=DIVERGING,
                                  xgap=1, ygap=1, customdata=hover, colorbar=_bar(top), hovertemplate="%{customdata}<extra></extra>"))
    row = float(np.clip(ROOM / max(len(values), 1), *ROW))
    legend = _marks(figure, kinds, names, row) + _ruined(figure, ruined, names, row)
    framed(figure, y="block", title=title, legend=legend, note=sentence(note_lost(lost)), height=round(170 + 22 * len(legend) + row * len(values)))
    axis = block_axis(len(values))
    figure.update_yaxes(showgrid=False, **(axis | {"range": axis["range"][::-1]}))
    figure.update_xaxes(type="category", showgrid=False, tickangle=-40, ticks="")
    figure.update_layout(legend={"entrywidth": 150})
    return Drawing(NAME, figure, _alt(values, kinds, words, name_a, name_b), _table(values, kinds, words, reasons, ruined))


def _marks(figure: go.Figure, kinds: Sequence[Sequence[str]], names: list[str], row: float) -> list[str]:
    """The verdicts' symbols; the names that they take in the legend."""
    shown = []
    for kind, symbol in MARKS.items():
        cells = [(names[j], i) for i, line in enumerate(kinds) for j, found in enumerate(line) if found == kind]
        if cells:
            width = 2 if symbol in ("line-ew", "x-thin") else 1
            for x, y, color, legend in (([c[0] for c in cells], [c[1] for c in cells], INK, False), ([None], [None], GREY, True)):
                figure.add_scatter(x=x, y=y, mode="markers", name=kind, hoverinfo="skip", showlegend=legend,  # ink on cells, grey on either page
                                   marker={"symbol": symbol, "size": row / 2, "color": color, "line": {"color": color, "width": width}})
            shown.append(kind)
    return shown


def _ruined(figure: go.Figure, ruined: np.ndarray | None, names: list[str], row: float) -> list[str]:
    cells = np.argwhere(np.asarray(ruined, dtype=bool)) if ruined is not None else []
    if not len(cells):
        return []
    name = "massive token ruined"
    figure.add_scatter(x=[names[j] for _, j in cells], y=[int(i) for i, _ in cells], mode="markers", name=name, hoverinfo="skip",
                       marker={"symbol": "diamond-open", "size": row - 3, "color": MASSIVE["color"],
                               "line": {"color": MASSIVE["color"], "width": 1.6}})
    return [name]


def _hover(site: str, block: int, ratio: float, kind: str, reason: str, name_b: str, name_a: str) -> str:
    if not (np.isfinite(ratio) and ratio > 0):
        factor = "no errors to compare"
    else:
        factor = f"{short(name_b, 28)} loses {number(float(f'{ratio:.3g}'))} times {short(name_a, 28)}"
    return escape(f"{site}, block {block}") + "<br>" + escape(f"{kind}: {factor}") + (f"<br>{escape(reason)}" if reason else "")


def _bar(top: float) -> dict:
    step = max(1, int(np.ceil(top / 3)))
    marks = sorted({0, *range(step, int(top) + 1, step), *(-m for m in range(step, int(top) + 1, step))})
    text = ["same" if m == 0 else f"×{2**m}" if m > 0 else f"÷{2**-m}" for m in marks]
    return {"thickness": 12, "xpad": 6, "tickvals": marks, "ticktext": text, "tickfont_size": SMALL, "outlinewidth": 0}


def _alt(values: np.ndarray, kinds: Sequence[Sequence[str]], words: Sequence[str], name_a: str, name_b: str) -> str:
    flat = [kind for row in kinds for kind in row]
    said = ", ".join(f"{kind} at {flat.count(kind)}" for kind in MARKS if kind in flat)
    worst = np.unravel_index(int(np.nanargmax(values)), values.shape)
    best = np.unravel_index(int(np.nanargmin(np.where(values > 0, values, np.nan))), values.shape)
    ends = "; ".join(f"the {name} ratio is {number(float(values[at]))} ({words[at[1]]}, block {at[0]})"
                     for name, at in (("lowest", best), ("highest", worst)))
    return f"{name_b} against {name_a} at {count(values.size, 'place')}: {said}. Of the error under B over that under A {ends}."


def _table(values: np.ndarray, kinds: Sequence[Sequence[str]], words: Sequence[str], reasons: Sequence[Sequence[str]],
           ruined: np.ndarray | None) -> pd.DataFrame:
    table = pd.DataFrame([{"block": i, "site": words[j], "verdict": kinds[i][j], "B / A": float(values[i, j])}
                          for i in range(len(values)) for j in range(len(words))])
    if reasons:
        table["why"] = [reason for row in reasons for reason in row]
    if ruined is not None:
        table["massive token ruined"] = np.asarray(ruined, dtype=bool).ravel()
    return table
