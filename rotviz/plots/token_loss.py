"""Token loss: what each run pays on each token of the same text, a row for each run, all on one axis.

A point is the loss of a run on a token minus that of what it is compared with (the float model or another run), in nats: 0.7 means that the token
became half as likely. A few tall spikes are tokens that the quantized model no longer knows; a carpet is a loss shared by all. Rows share both axes,
so heights compare. Of a long text the smallest and largest token of every stretch is drawn, so a spike is never lost; diamonds are massive tokens.

Source: llama.cpp's perplexity tool with --kl-divergence (its statistics of token probabilities), laid out along the text.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import GRID, LINE, SMALL, Range, framed, sentence, shared_range, span
from rotviz.plots.palette import MASSIVE, styles_for
from rotviz.plots.pool import note_lost, thinned
from rotviz.plots.series import any_number, named_series
from rotviz.plots.words import check_tokens, count, escape, number, short, token_label, visible

NAME = "token-loss"
POINTS = 4800
"""Points of all rows together."""
DIAMONDS = 1200
"""Massive tokens of all rows together: those with the largest differences."""
WINDOWS_DRAWN = 48
ROW, TABLED = 108, 20


def draw_token_loss(
    losses: Mapping[str, np.ndarray], tokens: Sequence[str], *, massive: Collection[int] = (), length: int = 0, first: int = 0,
    now: int | None = None, y_range: Range | None = None, what: str = "loss over the float model, nats", methods: Sequence[str] | None = None,
    title: str | None = None,
) -> Drawing:
    """Rows of loss differences [T], one for each run, on one scale.

    Args:
        losses: run -> difference of each token; NaN = not scored.
        tokens: T token texts.
        massive: numbers of massive tokens, counted as the axis is.
        length: tokens in a window, for the lines between windows; 0 = one window.
        first: the number of the first token on the axis.
        now: the number of the token that is looked at, marked by a line.
        y_range: limits in data units.
        methods: the method of each run, for its color; None = the run's name is its method.
    """
    series, _ = named_series(losses, "loss")
    lost = sum(int(np.isinf(np.asarray(v, dtype=float)).sum()) for v in losses.values())  # NaN is a token that is not scored
    if methods is not None and len(methods) != len(series):
        raise BadInput(f"{len(series)} runs and {len(methods)} methods: as many are needed")
    for values in series.values():
        check_tokens(tokens, len(values))
    if not any_number(series):
        return nothing(NAME, f"0 finite losses for {count(len(series), 'run')}", title)
    limits = y_range or shared_range(*series.values(), [0.0])
    styles, keys = styles_for(methods or series), list(methods or series)
    figure, total = go.Figure(), len(tokens)
    heavy = np.array(sorted(i - first for i in massive if 0 <= i - first < total), dtype=int)
    size = np.max([np.abs(np.nan_to_num(v[heavy])) for v in series.values()], axis=0)
    marked = np.sort(heavy[np.argsort(-size, kind="stable")[:DIAMONDS // len(series)]])
    share = 1 / len(series)
    for row, ((name, values), key) in enumerate(zip(series.items(), keys, strict=True)):
        axis = "" if row == 0 else str(row + 1)
        _row(figure, values, tokens, marked, first, styles[str(key)].color, axis, limits, POINTS // len(series))
        top = 1 - row * share
        figure.update_layout({f"yaxis{axis}": {"domain": [top - 0.8 * share, top - 0.04 * share]}})
        figure.add_annotation(text=escape(short(name, 46)), x=0, xref="paper", xanchor="left", y=top - 0.04 * share, yref="paper", yanchor="bottom",
                              showarrow=False, font_size=SMALL)
    note = f"Of every stretch of {count(-(-total * 2 * len(series) // POINTS), 'token')} the smallest and the largest are drawn." \
        if total * len(series) > POINTS else ""
    diamonds = "" if not len(heavy) else f"Diamonds: massive tokens{'' if len(marked) == len(heavy) else f', {len(marked)} of {len(heavy)}'}."
    framed(figure, x="token", title=title, note=sentence(note, diamonds, note_lost(lost)),
           height=96 + ROW * len(series) + (34 if title else 0))
    figure.update_layout(margin_t=(34 if title else 0) + 22, margin_l=64)
    figure.update_yaxes(range=span(limits), nticks=4, zeroline=True, zerolinecolor=LINE, gridcolor=GRID)
    figure.update_xaxes(range=[first - 0.01 * total - 0.5, first + 1.01 * total - 0.5], showgrid=False,
                        anchor=f"y{len(series) if len(series) > 1 else ''}")
    figure.add_annotation(text=escape(what), x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom", showarrow=False,
                          font_size=SMALL)
    _lines(figure, first, total, length, now)
    return Drawing(NAME, figure, _alt(series, tokens, first, what), _table(series, tokens, first))


def _row(figure: go.Figure, values: np.ndarray, tokens: Sequence[str], heavy: np.ndarray, first: int, color: str, axis: str, limits: Range,
         most: int) -> None:
    known = np.isfinite(values)
    keep = thinned(values, most)
    keep = keep[known[keep]]
    floor = float(np.clip(0.0, *limits))
    stems = np.column_stack([np.full(len(keep), floor), values[keep], np.full(len(keep), np.nan)]).ravel()
    figure.add_scatter(x=np.repeat(keep + first, 3).astype(np.int32), y=stems.astype(np.float32), mode="lines", line={"color": color, "width": 1},
                       hoverinfo="skip", showlegend=False, yaxis=f"y{axis}")
    for which, marker in ((keep, {"color": color, "size": 5}), (heavy, {**MASSIVE, "size": 9})):
        text = [f"“{token_label(tokens[i], 24)}”<br>{f'{number(float(values[i]))} nats' if known[i] else 'not scored'}" for i in which]
        heights = np.where(known, values, floor)[which]
        figure.add_scatter(x=(which + first).astype(np.int32), y=heights.astype(np.float32), mode="markers", marker=marker, text=text,
                           hovertemplate="token %{x} %{text}<extra></extra>", showlegend=False, yaxis=f"y{axis}")


def _lines(figure: go.Figure, first: int, total: int, length: int, now: int | None) -> None:
    """Faint lines where windows begin, a dashed one at the chosen token."""
    starts = range(-(-(first + 1) // length) * length, first + total, length) if length else ()
    if len(starts) <= WINDOWS_DRAWN:
        for start in starts:
            figure.add_shape(type="line", x0=start - 0.5, x1=start - 0.5, y0=0, y1=1, yref="paper", line={"color": GRID, "width": 1})
    if now is not None and first <= now < first + total:
        figure.add_shape(type="line", x0=now, x1=now, y0=0, y1=1, yref="paper", line={"color": LINE, "width": 1.4, "dash": "dash"})


def _alt(series: Mapping[str, np.ndarray], tokens: Sequence[str], first: int, what: str) -> str:
    parts = []
    for name, values in list(series.items())[:6]:
        if np.isfinite(values).any():
            i = int(np.nanargmax(values))
            parts.append(f"{short(name, 40)} {number(float(np.nanmean(values)))} on average, most {number(float(values[i]))} at token {i + first} "
                         f"(“{short(visible(tokens[i]), 16)}”)")
    return f"{what[:1].upper()}{what[1:]}, of {count(len(tokens), 'token')}: {'; '.join(parts)}."


def _table(series: Mapping[str, np.ndarray], tokens: Sequence[str], first: int) -> pd.DataFrame:
    """The tokens that are farthest from zero in any run."""
    size = np.nan_to_num(np.max([np.abs(np.nan_to_num(v)) for v in series.values()], axis=0))
    order = np.argsort(-size, kind="stable")[:TABLED]
    return pd.DataFrame({"token": order + first, "text": [visible(tokens[i]) for i in order], **{name: v[order] for name, v in series.items()}})
