"""The stack assembled: perplexity step by step, from the float model down to the whole recipe, as a waterfall.

A bar spans what one step changes: from the value before it to its own. Rounding weights, activations and cache makes the perplexity rise (orange);
each slot of the rotation, the scaling and each better method brings it down again (blue), so that a bar's length is what that step is worth where
it stands. The axis is logarithmic: equal lengths are equal factors. Order matters, and this is one order: a slot's worth depends on what is there.

Source: the ablation tables of QuaRot (2404.00456) and SpinQuant (2405.16406) as a cascade (waterfall) chart.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, sentence, shared_range
from rotviz.plots.palette import BLUE, GREY, ORANGE
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "stack-waterfall"
ROW = 40


def draw_stack_waterfall(steps: Sequence[str], values: np.ndarray, *, stderrs: np.ndarray | None = None, what: str = "perplexity",
                         x_range: Range | None = None, title: str | None = None) -> Drawing:
    """Floating bars of values [S] over S steps, the first of the float model; NaN where a step has no result yet.

    Args:
        stderrs: standard errors [S], for the hover and the table.
        what: the value in words.
        x_range: limits in data units, to share between figures.
    """
    found, bad = cleaned(values, 1, what)
    unknown = int(np.isnan(np.asarray(values, dtype=np.float64)).sum())
    errors = np.nan_to_num(np.asarray(stderrs, dtype=np.float64), posinf=0, neginf=0) if stderrs is not None else np.zeros(len(found))
    if not len(steps) == len(found) == len(errors):
        raise BadInput(f"{count(len(steps), 'step')}, {count(len(found), 'value')} and {count(len(errors), 'standard error')}: as many are needed")
    found = np.where(found > 0, found, np.nan)
    if not np.isfinite(found).any():
        return nothing(NAME, f"0 of {count(len(steps), 'step')} have a result", title)
    limits = x_range or shared_range(found, log=True)
    figure, before = go.Figure(), _before(found)
    for i, value in enumerate(found):
        if np.isfinite(value):
            _bar(figure, i, str(steps[i]), (before[i], value, errors[i]), what, limits)
    framed(figure, x=f"{what} (log scale)", title=title, height=84 + ROW * len(steps) + (34 if title else 0),
           note=sentence(note_lost(bad - unknown), f"{count(unknown, 'step')} without a result." if unknown else ""))
    figure.update_xaxes(**log_axis((limits[0], limits[1] * (limits[1] / limits[0]) ** 0.18)))
    figure.update_yaxes(tickvals=list(range(len(steps))), ticktext=[escape(short(str(s), 26)) for s in steps], range=[len(steps) - 0.4, -0.6],
                        showgrid=False, zeroline=False)
    table = pd.DataFrame({"step": [str(s) for s in steps], what: found, "standard error": errors, "times the step before": found / before})
    return Drawing(NAME, figure, _alt(steps, found, before, what), table)


def _before(found: np.ndarray) -> np.ndarray:
    """The value of the last step before each that has a result; NaN for the first."""
    last, result = np.nan, []
    for value in found:
        result.append(last)
        last = value if np.isfinite(value) else last
    return np.array(result)


def _bar(figure: go.Figure, row: int, step: str, numbers: tuple[float, float, float], what: str, limits: Range) -> None:
    """A step's bar, its number beside the right end and a thin line from the step before; without one, a dot."""
    before, value, error = numbers
    text = f"{escape(step)}<br>{escape(what)} {number(value)}{f' ± {number(error)}' if error else ''}"
    color, symbol = _look(before, value)
    if math.isfinite(before):
        text += f"<br>{number(value / before)} times the step before"
        figure.add_scatter(x=[before, before], y=[row - 1, row], mode="lines", line={"color": LINE, "width": 1, "dash": "dot"}, hoverinfo="skip",
                           showlegend=False)
        figure.add_scatter(x=[before, value], y=[row, row], mode="lines", line={"color": color, "width": 14}, hoverinfo="skip", showlegend=False)
    figure.add_scatter(x=[value], y=[row], mode="markers", text=[text], hovertemplate="%{text}<extra></extra>", showlegend=False, cliponaxis=False,
                       marker={"size": 15, "symbol": symbol, "color": color, "line": {"width": 1, "color": "#FFFFFF"}})
    end = max(before, value) if math.isfinite(before) else value
    figure.add_annotation(x=math.log10(end), y=row, text=number(float(f"{value:.3g}")), showarrow=False, font_size=SMALL, xanchor="left", xshift=11)


def _look(before: float, value: float) -> tuple[str, str]:
    if not math.isfinite(before) or value == before:
        return GREY, "circle"
    return (ORANGE, "triangle-right") if value > before else (BLUE, "triangle-left")


def _alt(steps: Sequence[str], found: np.ndarray, before: np.ndarray, what: str) -> str:
    parts = [f"{step} {number(float(f'{v:.4g}'))}" + (f" ({number(float(f'{v / b:.3g}'))} times)" if np.isfinite(b) else "")
             for step, v, b in zip(steps, found, before) if np.isfinite(v)]
    return f"{what[0].upper()}{what[1:]} over {count(len(steps), 'step')}: {', '.join(parts)[:780]}."
