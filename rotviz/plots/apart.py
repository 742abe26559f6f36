"""Apart: what weights cost alone, what activations cost alone, and what both cost, a row for each rotation and weight method.

Three marks stand in a row: a square for rounded weights with everything else in float, a triangle for rounded activations (and cache) with float
weights, a circle for both. A rotation that rescues activations moves the triangle far to the left; where it spoils the weights the square moves to
the right; and the circle, which is what one gets, stays near whichever is worse. The axis is logarithmic, equal lengths are equal factors; what
loses less than a thousandth part of the worst stands at the left edge.

Source: the tables over what is quantized of QuaRot (2404.00456) and SpinQuant (2405.16406), as the dot plot of Cleveland and McGill (JASA 79, 1984).
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, sentence, shared_range
from rotviz.plots.palette import BLUE, ORANGE, VIOLET
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "apart"
PARTS = ("weights alone", "activations alone", "both")
LOOKS = ((ORANGE, "square"), (BLUE, "triangle-up"), (VIOLET, "circle"))
ROW = 46
DECADES = 1e-3
"""Values below this share of the largest stand at the edge."""


def draw_apart(rows: Mapping[str, np.ndarray], *, what: str = "KL, nats a token", x_range: Range | None = None, title: str | None = None) -> Drawing:
    """Three marks [3] in each row: weights alone, activations alone, both; NaN where there is no result yet.

    Args:
        what: the value in words; smaller is better.
        x_range: limits in data units, to share between figures.
    """
    found, lost, missing = {}, 0, 0
    for name, values in rows.items():
        found[name], bad = cleaned(values, 1, name)
        if len(found[name]) != len(PARTS):
            raise BadInput(f"{name} has {count(len(found[name]), 'value')}: {', '.join(PARTS)} are needed")
        unknown = int(np.isnan(np.asarray(values, dtype=np.float64)).sum())
        lost, missing = lost + bad - unknown, missing + unknown
        found[name] = np.where(found[name] >= 0, found[name], np.nan)
    everything = np.concatenate([v for v in found.values()]) if found else np.empty(0)
    if not (np.isfinite(everything) & (everything > 0)).any():
        return nothing(NAME, f"0 of {count(len(rows), 'row')} have a result", title)
    limits = x_range or shared_range(everything[everything > DECADES * float(np.nanmax(everything))], log=True)
    figure = go.Figure()
    for row, values in enumerate(found.values()):
        known = np.clip(values[np.isfinite(values)], limits[0], None)
        if known.size > 1:
            figure.add_scatter(x=[known.min(), known.max()], y=[row, row], mode="lines", line={"color": LINE, "width": 2}, hoverinfo="skip",
                               showlegend=False)
    for i, (part, (color, symbol)) in enumerate(zip(PARTS, LOOKS, strict=True)):
        _marks(figure, part, {name: float(values[i]) for name, values in found.items()}, (color, symbol), limits, what)
    framed(figure, x=f"{what} (log scale)", title=title, legend=PARTS, height=112 + ROW * len(found) + (34 if title else 0),
           note=sentence(note_lost(lost), f"{count(missing, 'place')} without a result." if missing else ""))
    figure.update_xaxes(**log_axis(limits))
    figure.update_yaxes(tickvals=list(range(len(found))), ticktext=[escape(short(str(n), 26)) for n in found], range=[len(found) - 0.4, -0.6],
                        showgrid=False, zeroline=False)
    _numbers(figure, list(found.values()), limits)
    table = pd.DataFrame([{"row": name, "part": part, what: v} for name, values in found.items() for part, v in zip(PARTS, values, strict=True)])
    return Drawing(NAME, figure, _alt(found, what), table)


def _marks(figure: go.Figure, part: str, values: Mapping[str, float], look: tuple[str, str], limits: Range, what: str) -> None:
    """One part's marks over the rows."""
    shown = [(row, name, v) for row, (name, v) in enumerate(values.items()) if math.isfinite(v)]
    figure.add_scatter(
        x=[max(v, limits[0]) for _, _, v in shown], y=[row for row, _, _ in shown], mode="markers", name=part, cliponaxis=False,
        text=[f"{escape(str(name))}<br>{part}: {escape(what)} {number(v)}" for _, name, v in shown], hovertemplate="%{text}<extra></extra>",
        marker={"size": 13, "color": look[0], "symbol": look[1], "line": {"width": 1, "color": "#FFFFFF"}})


def _numbers(figure: go.Figure, rows: list[np.ndarray], limits: Range) -> None:
    """The number at each mark: above it, and below where the mark before is near."""
    wide = math.log(limits[1] / limits[0])
    for row, values in enumerate(rows):
        below, last = False, -math.inf
        for value in np.sort(values[np.isfinite(values)]):
            place = math.log(max(value, limits[0]))
            below = not below if place - last < 0.09 * wide else False
            last = place
            figure.add_annotation(x=place / math.log(10), y=row, text=number(float(f"{value:.2g}")), showarrow=False, font_size=SMALL,
                                  yshift=-15 if below else 15)


def _alt(found: Mapping[str, np.ndarray], what: str) -> str:
    parts = [f"{name}: " + ", ".join(f"{part} {number(float(f'{v:.3g}'))}" for part, v in zip(PARTS, values, strict=True) if np.isfinite(v))
             for name, values in found.items() if np.isfinite(values).any()]
    return f"{what[0].upper()}{what[1:]} of {', '.join(PARTS)}. {'; '.join(parts)[:760]}."
