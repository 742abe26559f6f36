"""A recipe taken apart: how its perplexity comes about, step by step: float, weights, activations, KV cache.

A line for each rotation. The first point is the float model; every next one rounds one thing more, and the last is the recipe itself. A steep
stretch is the thing that hurts. Where the lines part, the rotation rescues (or spoils) what that step rounds: weights alone may lose by a rotation
that activations cannot do without. Perplexity is on a log axis, so that equal heights are equal factors.

Source: the ablation tables of QuaRot (2404.00456) and SpinQuant (2405.16406) over what is quantized, as a figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import SMALL, Range, framed, log_axis, mark_reference, sentence, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number

NAME = "waterfall"


def draw_waterfall(
    steps: Sequence[str], lines: Mapping[str, np.ndarray], *, stderrs: Mapping[str, np.ndarray] | None = None, what: str = "perplexity",
    log: bool = True, reference: float | None = None, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Lines of values [S] over S steps, a line for each rotation; NaN where a step has no result yet.

    Args:
        steps: short names, the first of the float model.
        stderrs: standard errors by line.
        what: the value in words.
        log: a logarithmic axis.
        reference: the float model's value, drawn across.
        y_range: limits in data units, to share between figures.
    """
    found, lost, missing = {}, 0, 0
    for name, values in lines.items():
        found[name], bad = cleaned(values, 1, name)
        unknown = int(np.isnan(np.asarray(values, dtype=np.float64)).sum())
        lost, missing = lost + bad - unknown, missing + unknown
        if len(found[name]) != len(steps):
            raise BadInput(f"{name} has {count(len(found[name]), 'value')} for {count(len(steps), 'step')}")
    if log:
        found = {name: np.where(values > 0, values, np.nan) for name, values in found.items()}
    if not any(np.isfinite(v).any() for v in found.values()):
        return nothing(NAME, f"0 of {count(len(steps), 'step')} have a result", title)
    figure, styles, places = go.Figure(), styles_for(found), np.arange(len(steps))
    for name, values in found.items():
        errors = np.nan_to_num(np.asarray((stderrs or {}).get(name, np.zeros(len(steps))), dtype=np.float64), posinf=0, neginf=0)
        look = styles[name]
        text = [f"{escape(name)}<br>{escape(steps[i])}<br>{escape(what)} {_with_error(values[i], errors[i])}{_times(values, i)}"
                for i in places]
        figure.add_scatter(x=places, y=values, mode="lines+markers", name=escape(name), text=text, hovertemplate="%{text}<extra></extra>",
                           line={"color": look.color, "dash": look.dash, "width": 2.5}, marker={"symbol": look.symbol, "size": 10},
                           error_y={"type": "data", "array": errors, "thickness": 1.4, "width": 4, "visible": bool(errors.any())})
    framed(figure, y=f"{what} (log scale)" if log else what, title=title, legend=list(found),
           note=sentence(note_lost(lost), f"{count(missing, 'step')} without a result." if missing else ""), height=360)
    _labels(figure, found, log, first=1 if reference else 0)
    limits = y_range or shared_range(*found.values(), *([[reference]] if reference else []), log=log)
    figure.update_yaxes(**(log_axis((limits[0], limits[1] * min(limits[1] / limits[0], 1e12) ** 0.12)) if log else {"range": span(limits)}))
    figure.update_xaxes(tickvals=places, ticktext=["<br>".join(escape(s).rsplit(" ", 1)) for s in steps],
                        range=[-0.3, len(steps) - 0.45],
                        showgrid=False, tickangle=0)
    mark_reference(figure, reference, log)
    table = pd.DataFrame([{"rotation": name, "step": step, what: value} for name, values in found.items()
                          for step, value in zip(steps, values)])
    return Drawing(NAME, figure, _alt(steps, found, what), table)


def _labels(figure: go.Figure, found: Mapping[str, np.ndarray], log: bool, first: int) -> None:
    """The number beside each point, out of the way of its whisker: before and above the highest line, behind and below the others."""
    for i in range(first, len(next(iter(found.values())))):
        here = sorted((float(v[i]), name) for name, v in found.items() if np.isfinite(v[i]))
        for place, (value, _) in enumerate(here):
            if place and value < 1.0001 * here[place - 1][0]:
                continue  # the same number twice
            top = place == len(here) - 1
            figure.add_annotation(x=i, y=float(np.log10(value)) if log else value, text=number(float(f"{value:.3g}")), showarrow=False,
                                  font_size=SMALL, xanchor="right" if top else "left", xshift=-6 if top else 6, yshift=10 if top else -12)


def _with_error(value: float, error: float) -> str:
    return f"{number(float(value))}{f' ± {number(float(error))}' if error else ''}"


def _times(values: np.ndarray, i: int) -> str:
    if i == 0 or not (np.isfinite(values[i]) and np.isfinite(values[i - 1]) and values[i - 1] > 0):
        return ""
    return f"<br>{number(float(values[i] / values[i - 1]))} times the step before"


def _alt(steps: Sequence[str], found: Mapping[str, np.ndarray], what: str) -> str:
    parts = [f"{name}: " + ", ".join(f"{step} {number(float(v))}" for step, v in zip(steps, values) if np.isfinite(v))
             for name, values in found.items() if np.isfinite(values).any()]
    text = f"{what[0].upper()}{what[1:]} over {count(len(steps), 'step')} of a recipe. " + "; ".join(parts)
    return f"{text[:840]}."
