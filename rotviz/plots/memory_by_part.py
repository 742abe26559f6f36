"""Memory by part: what takes the bytes, in 16 bits and with a recipe, side by side.

Two stacked bars on one axis. The parts keep their color and order, so what shrinks and what stays is seen at a glance: in a small model the
embedding stays and soon weighs more than everything else, with a long context the KV cache does. The ratio beside the second bar is of the
wholes. Bytes are counted, not measured (rotviz.kernels.cost).

Source: the memory breakdowns of the KV-cache quantization literature (KIVI, arXiv 2402.02750; KVQuant, arXiv 2401.18079).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import SMALL, Range, framed, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "memory-by-part"
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SMALLEST_LABEL = 0.07
"""Share of the axis below which a part is too short for its number."""


def draw_memory_by_part(
    parts: Sequence[str], float16: np.ndarray, recipe: np.ndarray, *, names: tuple[str, str] = ("16 bits", "recipe"),
    limit: float | None = None, x_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Stacked bars of bytes [P] by part, before and after.

    Args:
        parts: the parts' names, in the order they are stacked.
        float16, recipe: bytes of each part.
        names: what the two bars are called.
        limit: memory there is, in bytes: a dashed line.
        x_range: limits in bytes, to share between figures.
    """
    before, lost_before = cleaned(float16, 1, "float16")
    after, lost_after = cleaned(recipe, 1, "recipe")
    if not len(parts) == len(before) == len(after):
        raise BadInput(f"{len(parts)} parts, {len(before)} and {len(after)} numbers of bytes: as many of each are needed")
    rows = np.stack([_sizes(before), _sizes(after)])
    totals = rows.sum(1)
    if not totals.max(initial=0) > 0 or not np.isfinite(totals).all():
        return nothing(NAME, f"none of {count(len(parts), 'part')} takes any memory", title)
    unit, letters = unit_for(float(totals.max()))
    figure, styles = go.Figure(), styles_for([str(p) for p in parts])
    widest = max(float(totals.max()), limit or 0.0)
    for i, part in enumerate(parts):
        labels = [f"{number(v / unit)}" if v > SMALLEST_LABEL * widest else "" for v in rows[:, i]]
        figure.add_bar(y=[0, 1], x=rows[:, i] / unit, orientation="h", name=escape(short(str(part), 30)), width=0.62, text=labels,
                       textposition="inside", insidetextanchor="middle", textfont={"size": SMALL, "color": "#FFFFFF"}, textangle=0,
                       marker={"color": styles[str(part)].color, "line": {"width": 1, "color": "rgba(255,255,255,0.6)"}},
                       customdata=[words_for(v) for v in rows[:, i]], hovertemplate=f"{escape(str(part))}: %{{customdata}}<extra></extra>")
    smaller = f", {totals[0] / totals[1]:.3g}× smaller" if 0 < totals[1] < totals[0] else ""
    for row, words in enumerate((words_for(totals[0]), words_for(totals[1]) + smaller)):
        figure.add_annotation(y=row, x=totals[row] / unit, text=words, showarrow=False, xanchor="left", xshift=6, font_size=SMALL)
    framed(figure, x=f"memory, {letters}", title=title, legend=[short(str(p), 30) for p in parts], note=note_lost(lost_before + lost_after),
           height=300)
    _limit(figure, limit, unit)
    # on a narrow screen a label that does not fit at its size is left out, not shrunk
    figure.update_layout(barmode="stack", legend_traceorder="normal", uniformtext={"minsize": SMALL, "mode": "hide"})
    ends = x_range or (0.0, widest * 1.42)
    figure.update_xaxes(range=span((ends[0] / unit, ends[1] / unit)), nticks=7)
    figure.update_yaxes(tickvals=[0, 1], ticktext=[escape(short(n, 24)) for n in names], range=[1.5, -0.5], showgrid=False, zeroline=False)
    return Drawing(NAME, figure, _alt(parts, rows, names), _table(parts, rows, names))


def unit_for(size: float) -> tuple[float, str]:
    """The unit in which a number of bytes reads best: its bytes and its letters."""
    return next(((factor, letters) for factor, letters in UNITS if size >= factor), (1.0, "bytes"))


def words_for(size: float) -> str:
    """`3.41 GB`."""
    unit, letters = unit_for(size)
    return f"{size / unit:.3g} {letters}"


def _sizes(values: np.ndarray) -> np.ndarray:
    """Numbers of bytes: what is none counts as nothing."""
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0.0, None)


def _limit(figure: go.Figure, limit: float | None, unit: float) -> None:
    if limit:
        figure.add_vline(x=limit / unit, line={"dash": "dash", "width": 1.4, "color": "rgba(128,128,128,0.9)"})


def _alt(parts: Sequence[str], rows: np.ndarray, names: tuple[str, str]) -> str:
    largest = int(rows[1].argmax())
    share = rows[1, largest] / rows[1].sum() if rows[1].sum() else 0.0
    return (f"Memory of {count(len(parts), 'part')}: {words_for(rows[0].sum())} with {names[0]}, {words_for(rows[1].sum())} with {names[1]}. "
            f"The largest part that is left is {short(str(parts[largest]), 40)}, {share:.0%}.")


def _table(parts: Sequence[str], rows: np.ndarray, names: tuple[str, str]) -> pd.DataFrame:
    lines = [{"part": str(p), f"{names[0]}, bytes": a, f"{names[1]}, bytes": b} for p, a, b in zip(parts, rows[0], rows[1])]
    total = {"part": "all", f"{names[0]}, bytes": rows[0].sum(), f"{names[1]}, bytes": rows[1].sum()}
    return pd.DataFrame([*lines, total])
