"""Pareto: quality against cost, a point per run.

The step line is the frontier: the runs that no other beats on both axes at once. Anything above and right of it pays more for less. Cost is
average bits a weight, seconds, or megabytes; quality is perplexity or divergence, lower is better. Whiskers are one standard error: a
frontier decided inside them is not decided.

Source: the frontier of ModelOpt's AutoQuantize and the community's size-against-divergence charts.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, mark_reference, sentence, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "pareto"


def draw_pareto(
    names: Sequence[str], cost: np.ndarray, perplexity: np.ndarray, *, stderrs: np.ndarray | None = None,
    methods: Sequence[str] | None = None, reference: float | None = None, cost_title: str = "average bits a weight",
    what: str = "perplexity", log_x: bool = False, log_y: bool | None = None, x_range: Range | None = None,
    y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Scatter of perplexity [N] against cost [N] with the frontier.

    Args:
        names: the runs' names.
        methods: the method of each run, for color, symbol and legend; None = all alike.
        reference: the float model's perplexity, a dashed line.
        log_y: None = when the perplexities are more than 20 times apart.
        x_range, y_range: limits in data units, to share between figures.
    """
    x, lost_x = cleaned(cost, 1, "cost")
    y, lost_y = cleaned(perplexity, 1, "perplexity")
    errors = cleaned(stderrs, 1, "stderrs")[0] if stderrs is not None else np.zeros(len(y))
    groups = [str(m) for m in methods] if methods is not None else ["runs"] * len(y)
    if not len(names) == len(x) == len(y) == len(errors) == len(groups):
        raise BadInput(f"{len(names)} names, {len(x)} costs, {len(y)} values, {len(errors)} standard errors, {len(groups)} methods: "
                       f"as many of each are needed")
    ok = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not log_x))
    if not ok.any():
        return nothing(NAME, f"0 of {count(len(x), 'run')} have both a cost and a {what}", title)
    log_y = bool((y[ok] > 0).all() and y[ok].max() / y[ok].min() > 20) if log_y is None else log_y
    best = frontier(x, y, ok)
    figure, styles = go.Figure(), styles_for(groups)
    if len(best) > 1:
        figure.add_scatter(x=x[best], y=y[best], mode="lines", line={"color": LINE, "width": 1.6, "shape": "hv"}, name="frontier",
                           hoverinfo="skip", showlegend=False)
    for group in dict.fromkeys(groups):
        which = [i for i in range(len(x)) if ok[i] and groups[i] == group]
        figure.add_scatter(
            x=x[which], y=y[which], mode="markers", name=escape(group), text=[escape(str(names[i])) for i in which],
            marker={"color": styles[group].color, "symbol": styles[group].symbol, "size": 11, "line": {"width": 0}},
            error_y={"type": "data", "array": np.nan_to_num(errors[which]), "color": styles[group].color, "thickness": 1.4, "width": 4},
            hovertemplate=f"%{{text}}<br>{escape(cost_title)} %{{x:,.4~r}}<br>{what} %{{y:,.4~r}}<extra></extra>", cliponaxis=False)
    limits_x = x_range or _wider(shared_range(x[ok], log=log_x), log_x)
    limits_y = y_range or _wider(shared_range(y[ok] + np.nan_to_num(errors[ok]), y[ok], [reference or np.nan], log=log_y), log_y, 0.08)
    _name_best(figure, x, y, best, names, limits_x, limits_y, (log_x, log_y))
    framed(figure, x=f"{cost_title}{' (log scale)' if log_x else ''}", y=f"{what}{' (log scale)' if log_y else ''}", title=title,
           legend=list(styles) if methods is not None else (), note=sentence("The line joins the runs that no other beats on both axes.",
                                                                            note_lost(lost_x + lost_y, "number")))
    mark_reference(figure, reference, log_y)
    figure.update_xaxes(**(log_axis(limits_x) if log_x else {"range": span(limits_x), "nticks": 8}))
    figure.update_yaxes(**(log_axis(limits_y) if log_y else {"range": span(limits_y)}))
    table = pd.DataFrame({"run": list(names), "method": groups, cost_title: x, what: y, "standard error": errors,
                          "on the frontier": np.isin(np.arange(len(x)), best)})
    told = ", ".join(f"{names[i]} ({number(x[i])}, {number(y[i])})" for i in best[:5]) + (", …" if len(best) > 5 else "")
    alt = f"{what.capitalize()} against {cost_title} for {count(int(ok.sum()), 'run')}. {len(best)} on the frontier: {told}."
    return Drawing(NAME, figure, alt, table)


def frontier(cost: np.ndarray, value: np.ndarray, known: np.ndarray) -> list[int]:
    """The indices, by rising cost, of the points that no other beats on both axes (lower is better on both)."""
    found: list[int] = []
    for i in np.lexsort((value, cost)):
        if known[i] and (not found or value[i] < value[found[-1]]):
            found.append(int(i))
    return found


def _wider(limits: Range, log: bool, share: float = 0.14) -> Range:
    """Room for names on the left or below."""
    low, high = limits
    return (low / (high / low) ** share, high) if log else (low - share * (high - low), high)


def _name_best(figure: go.Figure, x: np.ndarray, y: np.ndarray, best: list[int], names: Sequence[str], limits_x: Range, limits_y: Range,
               logs: tuple[bool, bool]) -> None:
    """Names left of and below the frontier's points, where no run can be, as many as fit without touching each other."""
    taken: list[tuple[float, float, float, float]] = []
    for i in best:
        text = short(str(names[i]), 20)
        right, top = _place(x[i], limits_x, logs[0]) - 0.015, _place(y[i], limits_y, logs[1]) - 0.012
        box = (right - 0.0135 * len(text), right, top - 0.065, top)
        if box[0] < -0.02 or box[2] < 0 or any(box[0] < t[1] and t[0] < box[1] and box[2] < t[3] and t[2] < box[3] for t in taken):
            continue
        taken.append(box)
        figure.add_annotation(x=np.log10(x[i]) if logs[0] else x[i], y=np.log10(y[i]) if logs[1] else y[i], text=escape(text),
                              showarrow=False, xanchor="right", yanchor="top", xshift=-7, yshift=-3, font_size=SMALL)


def _place(value: float, limits: Range, log: bool) -> float:
    """Where on its axis a value lies, from 0 to 1."""
    low, high = limits
    if log:
        low, high, value = math.log10(low), math.log10(high), math.log10(value)
    return (value - low) / (high - low)
