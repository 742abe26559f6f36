"""Divergence of runs from the float model: how much the next-token distribution moved.

Bars are the mean Kullback-Leibler divergence, float to quantized, in nats a token (0 = the same model); the number beside each is the
share of positions where both models put the same token first. Divergence needs fewer tokens than perplexity to tell two runs apart, because
it compares the models position by position, so luck in the text cancels.

Source: llama.cpp's perplexity tool with --kl-divergence.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "divergence"


def draw_divergence_bars(
    names: Sequence[str], divergence: np.ndarray, same_top: np.ndarray | None = None, *, stderrs: np.ndarray | None = None,
    methods: Sequence[str] | None = None, log: bool = False, x_range: Range | None = None, title: str | None = None,
    per: str = "token", top: str = "token",
) -> Drawing:
    """Bars (dots with log) of divergence [N] in nats a token, one for each run.

    Args:
        names: the runs' names.
        same_top: share [N], 0 to 1, of positions with the same most likely token.
        stderrs: standard errors [N] of the divergence.
        methods: the method of each run, for its color; None = the run's name is its method.
        x_range: limits in data units, to share between figures.
        per, top: what a divergence is of, and what is most likely: of image classifiers "image" and "class".
    """
    found, lost = cleaned(divergence, 1, "divergence")
    blank = np.full(len(found), np.nan)
    share = cleaned(same_top, 1, "same_top")[0] if same_top is not None else blank
    errors = cleaned(stderrs, 1, "stderrs")[0] if stderrs is not None else blank
    if not len(names) == len(found) == len(share) == len(errors) == len(methods or names):
        raise BadInput(f"{len(names)} names, {len(found)} divergences, {len(share)} shares, {len(errors)} standard errors, "
                       f"{len(methods or names)} methods: as many of each are needed")
    if not np.isfinite(found).any():
        return nothing(NAME, f"0 of {count(len(found), 'run')} have a finite divergence", title)
    styles, keys = styles_for(methods or names), list(methods or names)
    rows, colors = np.arange(len(names)), [styles[str(m)].color for m in keys]
    text = [_words(v, e, s, top) for v, e, s in zip(found, errors, share)]
    tops = found + np.nan_to_num(errors)
    low, high = shared_range(found, tops, log=log)
    limits = x_range or ((low, high * (high / low) ** 0.8) if log else (0.0, max(high, 1e-9) * 1.8))
    figure = go.Figure()
    if not log:
        figure.add_bar(y=rows, x=found, orientation="h", width=0.62, marker={"color": colors, "line_width": 0}, customdata=text,
                       hovertemplate="%{customdata}<extra></extra>")
    figure.add_scatter(y=rows, x=np.where((found > 0) | (not log), found, np.nan), mode="markers", customdata=text,
                       marker={"color": colors if log else LINE, "size": 10 if log else 5, "symbol": [styles[str(m)].symbol for m in keys]
                               if log else "circle"}, hovertemplate="%{customdata}<extra></extra>",
                       error_x={"type": "data", "array": np.nan_to_num(errors), "color": LINE, "thickness": 1.6, "width": 5})
    for row, words in enumerate(text):
        end = float(np.clip(tops[row] if np.isfinite(tops[row]) else limits[0], limits[0], limits[1]))
        figure.add_annotation(y=row, x=float(np.log10(end)) if log else end, text=words, showarrow=False, xanchor="left", xshift=9,
                              font_size=SMALL)
    framed(figure, x=f"divergence from the float model, nats {_article(per)}{' (log scale)' if log else ''}", title=title, note=note_lost(lost),
           height=int(90 + 34 * len(names) + (34 if title else 0)))
    figure.update_xaxes(**(log_axis(limits) if log else {"range": span(limits), "nticks": 7}))
    figure.update_yaxes(tickvals=rows, ticktext=[escape(short(str(n), 30)) for n in names], range=[len(names) - 0.5, -0.5], showgrid=False,
                        zeroline=False)
    best = int(np.nanargmin(found))
    alt = (f"Mean Kullback-Leibler divergence of {count(len(names), 'run')} from the float model. Closest: {names[best]}, {text[best]}; "
           f"farthest: {names[int(np.nanargmax(found))]}, {text[int(np.nanargmax(found))]}.")
    table = pd.DataFrame({"run": list(names), f"nats {_article(per)}": found, "standard error": errors, f"same top {top}": share})
    return Drawing(NAME, figure, alt, table)


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _words(value: float, error: float, share: float, top: str) -> str:
    if not np.isfinite(value):
        return "no finite value"
    spread = f" ± {number(error)}" if np.isfinite(error) else ""
    return f"{number(value)}{spread}" + (f", same top {top} {share:.1%}" if np.isfinite(share) else "")
