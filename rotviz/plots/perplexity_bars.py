"""Perplexity of runs: what each recipe costs against the float model.

Every bar starts at the float model's perplexity (the vertical line) and ends at the run's, so that its length *is* the cost; whiskers are
one standard error. Bars whose whiskers overlap are not told apart by this text. When the runs are more than 20 times apart the axis is
logarithmic, and equal lengths mean equal ratios.

Source: the result tables of QuaRot, SpinQuant, DFRot and DartQuant, as a figure.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, sentence, span
from rotviz.plots.palette import Style, styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "perplexity"
LOG_FROM = 20.0  # ratio of the largest to the smallest


def draw_perplexity_bars(
    names: Sequence[str], values: np.ndarray, stderrs: np.ndarray | None = None, *, reference: float | None = None,
    reference_stderr: float | None = None, methods: Sequence[str] | None = None, log: bool | None = None, x_range: Range | None = None,
    what: str = "perplexity", title: str | None = None,
) -> Drawing:
    """Horizontal bars of values [N], one for each run.

    Args:
        names: the runs' names.
        stderrs: standard errors [N].
        reference, reference_stderr: the float model's, measured on the same windows.
        methods: the method of each run, for its color; None = the run's name is its method.
        log: a log axis; None = when the values are more than 20 times apart.
        x_range: limits in data units, to share between figures.
    """
    found, lost = cleaned(values, 1, "values")
    errors = cleaned(stderrs, 1, "stderrs")[0] if stderrs is not None else np.full(len(found), np.nan)
    if not len(names) == len(found) == len(errors) == len(methods or names):
        raise BadInput(f"{len(names)} names, {len(found)} values, {len(errors)} standard errors and {len(methods or names)} methods: "
                       f"as many of each are needed")
    known = found[np.isfinite(found) & (found > 0)]
    if not known.size:
        return nothing(NAME, f"0 of {count(len(found), 'run')} have a finite {what}", title)
    base = float(reference) if reference is not None and np.isfinite(reference) and reference > 0 else None
    ends = np.append(known, base) if base else known
    log = bool(ends.max() / ends.min() > LOG_FROM) if log is None else log
    start = base if base else (float(known.min()) / 1.5 if log else 0.0)
    limits = x_range or _limits(found, errors, start, base, log)
    figure = _bars(names, found, errors, styles_for(methods or names), list(methods or names), start, limits, log, what)
    if base:
        _reference(figure, base, reference_stderr, log)
    framed(figure, x=f"{what}{', log scale' if log else ''}", title=title,
           note=sentence("Bars start at the float model." if base else "", note_lost(lost, "run's value")),
           height=int(128 + 34 * len(names) + (34 if title else 0)))
    figure.update_layout(margin_t=30 + (34 if title else 0), bargap=0.35)
    figure.update_xaxes(**(log_axis(limits) if log else {"range": span(limits), "nticks": 7}))
    rows = [{"run": n, what: v, "standard error": e, "times the float model": v / base if base else np.nan}
            for n, v, e in zip(names, found, errors)]
    if base:
        rows.insert(0, {"run": "float model", what: base, "standard error": reference_stderr, "times the float model": 1.0})
    return Drawing(NAME, figure, _alt(list(names), found, base, what), pd.DataFrame(rows))


def _limits(values: np.ndarray, errors: np.ndarray, start: float, base: float | None, log: bool) -> Range:
    ends = np.concatenate([values + np.nan_to_num(errors), values - np.nan_to_num(errors), [start]])
    ends = ends[np.isfinite(ends) & ((ends > 0) | (not log))]
    low, high = float(ends.min()), float(ends.max())
    if log:
        ratio = max(high / low, 1.5)
        return low / ratio**0.06, high * ratio**0.45  # room for the number at the bar's end, on a phone too
    room = (high - low) or 0.1 * abs(high) or 1.0
    return (low - 0.08 * room if base else 0.0), high + 0.5 * room


def _bars(names: Sequence[str], values: np.ndarray, errors: np.ndarray, styles: dict[str, Style], methods: list[str], start: float,
          limits: Range, log: bool, what: str) -> go.Figure:
    figure = go.Figure()
    rows = np.arange(len(names))
    ok = np.isfinite(values) & ((values > 0) | (not log))
    text = [f"{number(v)}{f' ± {number(e)}' if np.isfinite(e) else ''}" if fine else "no finite value"
            for v, e, fine in zip(values, errors, ok)]
    figure.add_bar(
        y=rows, x=np.where(ok, values - start, np.nan), base=np.full(len(rows), start), orientation="h", customdata=text, width=0.62,
        marker={"color": [styles[str(m)].color for m in methods], "line_width": 0}, showlegend=False,
        hovertemplate=f"%{{y}}<br>{what} %{{customdata}}<extra></extra>",
    )
    figure.add_scatter(y=rows, x=np.where(ok, values, np.nan), mode="markers", marker={"color": LINE, "size": 5}, hoverinfo="skip",
                       error_x={"type": "data", "array": np.nan_to_num(errors), "color": LINE, "thickness": 1.6, "width": 5},
                       showlegend=False)
    for row, words in enumerate(text):
        end = values[row] + np.nan_to_num(errors[row]) if ok[row] else start
        end = min(max(end, start), limits[1])
        figure.add_annotation(y=row, x=float(np.log10(end)) if log else float(end), text=words, showarrow=False, xanchor="left", xshift=6,
                              font_size=SMALL)
    figure.update_yaxes(tickvals=rows, ticktext=[escape(short(str(n), 30)) for n in names], range=[len(names) - 0.5, -0.5], showgrid=False,
                        zeroline=False)
    return figure


def _reference(figure: go.Figure, base: float, stderr: float | None, log: bool) -> None:
    figure.add_vline(x=base, line={"color": LINE, "width": 1.6, "dash": "dash"})
    words = f"float {number(base)}{f' ± {number(stderr)}' if stderr is not None and np.isfinite(stderr) else ''}"
    figure.add_annotation(x=float(np.log10(base)) if log else base, y=1, yref="paper", yanchor="bottom", xanchor="left", text=words,
                          showarrow=False, font_size=SMALL, xshift=-4)


def _alt(names: list[str], values: np.ndarray, base: float | None, what: str) -> str:
    order = [int(i) for i in np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable") if np.isfinite(values[i])]
    best, worst = order[0], order[-1]
    against = f" The float model has {number(base)}." if base else ""
    return (f"{what.capitalize()} of {count(len(names), 'run')}. Best: {names[best]} with {number(values[best])}; worst: {names[worst]} "
            f"with {number(values[worst])}.{against}")
