"""One token's channels: |value| of every channel of a single hidden state, the largest named.

A massive token holds nearly all of its energy in one or two channels: one needle and a floor. Its grid step is set by the needle, so the
floor rounds to zero. After a good rotation the same energy is spread evenly, every bar about |h| / sqrt(D) (the dashed line).

Source: Massive Activations (2402.17762, Fig. 1), seen along one token.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, apart, framed, log_axis, sentence, shared_range, span
from rotviz.plots.palette import BLUE, GREY, MASSIVE
from rotviz.plots.pool import Bins, cleaned, largest, note_lost, peak_positions
from rotviz.plots.words import count, number, visible

NAME = "token-channels"
POINTS = 1000


def draw_token_channels(
    values: np.ndarray, token: str, index: int, *, top: int = 5, log: bool = False, y_range: Range | None = None,
    what: str = "|activation|", title: str | None = None,
) -> Drawing:
    """Stems of |values| [D] of the token at `index`, the `top` largest channels named.

    Args:
        token: the token's text.
        log: a log axis.
        y_range: limits in data units, to share between figures.
    """
    clean, lost = cleaned(values, 1, "values")
    if clean.size == lost:
        return nothing(NAME, f"no finite value in the {clean.size:,} channels of token {index}", title)
    size = np.abs(clean)
    bins = Bins.up_to(len(size), POINTS)
    at = np.unique(peak_positions(size[None], POINTS)[0])
    at = at[at < len(size)]
    even = float(np.sqrt(np.nanmean(size**2)))
    positive = size[size > 0]
    lifted = np.maximum(positive, 0.03 * np.median(positive)) if positive.size else positive  # the smallest numbers are not the subject
    limits = y_range or (shared_range(lifted, log=True) if log else (0.0, float(np.nanmax(size)) * 1.15 or 1.0))
    floor = limits[0] if log else 0.0
    figure = go.Figure()
    drawn = np.where(size[at] > floor, size[at], np.nan) if log else size[at]
    stems = np.column_stack([np.full(len(at), floor), drawn, np.full(len(at), np.nan)]).ravel()
    figure.add_scatter(x=np.repeat(at, 3).astype(np.int32), y=stems.astype(np.float32), mode="lines", name=what,
                       line={"color": BLUE, "width": 1.4}, showlegend=False,
                       hovertemplate=f"channel %{{x}}<br>{what} %{{y:,.4~r}}<extra></extra>")
    figure.add_scatter(x=[0, len(size) - 1], y=[even, even], mode="lines", line={"color": GREY, "dash": "dash", "width": 1.5},
                       name=f"spread evenly: {number(even)}", hoverinfo="skip")
    peaks = [c for (c,) in largest(size, top) if size[c] > 0]
    _name_peaks(figure, size, [c for c in peaks if log or size[c] > 0.02 * size[peaks[0]]], what, log)
    merged = f"A stem is the largest of {bins.width} channels." if bins.width > 1 else ""
    framed(figure, x=f"channel of token {index} “{visible(token)}”"[:60], y=f"{what} (log scale)" if log else what, title=title,
           legend=["spread evenly: 1,000", "largest channels"], note=sentence(merged, note_lost(lost)))
    figure.update_yaxes(**(log_axis(limits) if log else {"range": span(limits)}))
    figure.update_xaxes(range=[-0.02 * len(size) - 0.5, 1.02 * len(size)], showgrid=False)
    return Drawing(NAME, figure, _alt(size, peaks, token, index, what), _table(size, what))


def _name_peaks(figure: go.Figure, size: np.ndarray, peaks: list[int], what: str, log: bool) -> None:
    if not peaks:
        return
    figure.add_scatter(x=peaks, y=[float(size[c]) for c in peaks], mode="markers", marker={**MASSIVE, "size": 8}, name="largest channels",
                       text=[f"channel {c}<br>{what} {number(size[c])}" for c in peaks], hovertemplate="%{text}<extra></extra>")
    named = apart([float(c) for c in peaks], 0.16 * len(size))  # the others are named on hover and in the table
    for c in (int(c) for c in named):
        right = c > 0.8 * len(size)
        figure.add_annotation(x=c, y=float(np.log10(size[c])) if log else float(size[c]), text=f"{c}: {number(size[c])}", showarrow=False,
                              xanchor="right" if right else "left", xshift=-8 if right else 8, yshift=4, font_size=12)


def _alt(size: np.ndarray, peaks: list[int], token: str, index: int, what: str) -> str:
    energy = float(np.nansum(size**2))
    start = f"{what} of the {len(size):,} channels of token {index} (“{visible(token)}”). "
    if not peaks or not energy:
        return start + "All are 0."
    share = sum(float(size[c]) ** 2 for c in peaks) / energy
    named = ", ".join(f"{c} at {number(size[c])}" for c in peaks)
    return start + (f"The largest {count(len(peaks), 'channel')}: {named}; they hold {share:.1%} of the energy. "
                    f"The median is {number(float(np.nanmedian(size)))}.")


def _table(size: np.ndarray, what: str) -> pd.DataFrame:
    energy = float(np.nansum(size**2)) or 1.0
    return pd.DataFrame([{"channel": c, what: float(size[c]), "share of energy": float(size[c]) ** 2 / energy}
                         for (c,) in largest(size, 20)])
