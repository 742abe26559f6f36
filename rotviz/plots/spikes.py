"""Spikes: the activations of a text in three dimensions, with only the hot channels named.

One line per token runs over the channels; height and color are |activation|. A full surface of thousands of channels is a grey mist,
so the figure keeps the tokens with the largest values and evenly spaced others (at most 64 lines), and ticks the few channels that
stand out. Needles at the same channel on a few tokens are massive activations; a ridge across all tokens is an outlier channel;
an even carpet is what a rotation should leave.

Source: Massive Activations (2402.17762, Fig. 1 and 2).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import FONT, GRID, LINE, SMALL, apart, framed, sentence
from rotviz.plots.palette import LINES
from rotviz.plots.pool import cleaned, largest, note_lost, peak_positions
from rotviz.plots.words import check_tokens, count, number, token_label, visible

NAME = "spikes"
POINTS = 512  # channels kept of a line: the maximum of each bin, at its true place
# Plotly scales a scene by its height and lets a narrow figure cut its sides off: from here, at HEIGHT, all of it fits a phone's 358 px.
HEIGHT = 420
CAMERA = {"eye": {"x": 1.38, "y": -1.95, "z": 0.9}, "center": {"x": -0.09, "y": -0.09, "z": -0.15}}


def draw_spikes(
    values: np.ndarray, tokens: Sequence[str], *, hot: int = 5, lines: int = 64, z_max: float | None = None,
    color_max: float | None = None, what: str = "|activation|", title: str | None = None,
) -> Drawing:
    """3-D lines of |values| [T, D], one for each chosen token.

    Args:
        tokens: T token texts.
        hot: how many channels and tokens are named on their axes at most.
        lines: how many tokens are drawn at most.
        z_max, color_max: the height and color limits in data units, to share between figures.
    """
    clean, lost = cleaned(values, 2, "values")
    check_tokens(tokens, clean.shape[0])
    if clean.size == lost:
        return nothing(NAME, f"no finite value among {clean.size:,}", title)
    size = np.nan_to_num(np.abs(clean, out=clean), copy=False)
    by_token, by_channel = size.max(axis=1), size.max(axis=0)
    chosen = chosen_tokens(by_token, lines)
    top = z_max or float(size.max()) or 1.0
    figure = go.Figure(_lines(size, chosen, tokens, what))
    note = f"{len(chosen)} of {count(len(tokens), 'token')} drawn." if len(chosen) < len(tokens) else ""
    framed(figure, title=title, height=HEIGHT)
    figure.update_layout(margin={"l": 0, "r": 0, "t": 40 if title else 4, "b": 24 if note or lost else 4}, showlegend=False)
    _scene(figure, by_token, by_channel, tokens, chosen, hot, top, what)
    figure.update_layout(coloraxis={"cmin": 0, "cmax": color_max or top, "colorscale": LINES, "showscale": False})  # color repeats height
    words = sentence("" if by_token.max() > 0 else "All values are 0.", note, note_lost(lost))
    if words:
        figure.add_annotation(text=words, x=0.01, y=0, xref="paper", yref="paper", yanchor="top", xanchor="left", showarrow=False,
                              font_size=SMALL)
    cells = largest(size, 20)
    t, c = cells[0]
    alt = (f"Three-dimensional lines of {what} over {size.shape[1]:,} channels for {len(chosen)} of {count(len(tokens), 'token')}. The "
           f"highest reaches {number(size[t, c])} at token {t} (“{visible(tokens[t])}”), channel {c}; the median channel's peak is "
           f"{number(float(np.median(by_channel)))}.")
    table = pd.DataFrame([{"token index": t, "token": visible(tokens[t]), "channel": c, what: float(size[t, c])} for t, c in cells])
    return Drawing(NAME, figure, alt, table)


def chosen_tokens(by_token: np.ndarray, lines: int) -> list[int]:
    """The quarter with the largest peaks, filled up with evenly spaced tokens, in order."""
    total = len(by_token)
    if total <= lines:
        return list(range(total))
    chosen = {int(i) for i in np.argsort(-by_token, kind="stable")[: max(1, lines // 4)]}
    for i in np.linspace(0, total - 1, lines).round().astype(int):
        if len(chosen) >= lines:
            break
        chosen.add(int(i))
    return sorted(chosen)


def _lines(size: np.ndarray, chosen: list[int], tokens: Sequence[str], what: str) -> list[go.Scatter3d]:
    at = peak_positions(size[chosen], POINTS)
    kind = np.uint16 if size.shape[1] < 2**16 else np.int32
    traces = []
    for row, token in enumerate(chosen):
        heights = size[token, at[row]].astype(np.float32)
        traces.append(go.Scatter3d(
            x=at[row].astype(kind), y=np.full(len(heights), token, dtype=np.int32), z=heights, mode="lines",
            line={"color": heights, "coloraxis": "coloraxis", "width": 3}, showlegend=False,
            hovertemplate=f"token {token} {token_label(tokens[token])}<br>channel %{{x}}<br>{what} %{{z:,.4~r}}<extra></extra>",
        ))
    return traces


def _scene(figure: go.Figure, by_token: np.ndarray, by_channel: np.ndarray, tokens: Sequence[str], chosen: list[int], hot: int,
           top: float, what: str) -> None:
    channels = _hot(by_channel, np.arange(len(by_channel)), hot, 0.09) or [0.0, float(len(by_channel) - 1)]
    named = _hot(by_token[chosen], np.array(chosen), hot, 0.07) or [float(chosen[0]), float(chosen[-1])]
    axis = {"gridcolor": GRID, "linecolor": LINE, "zerolinecolor": GRID, "showbackground": False, "tickfont_size": SMALL}
    figure.update_scenes(
        xaxis=axis | {"title": {"text": "channel", "font_size": FONT}, "tickvals": channels, "ticktext": [str(int(c)) for c in channels]},
        yaxis=axis | {"title": {"text": "token", "font_size": FONT}, "tickvals": named,
                      "ticktext": [f"{int(t)} {token_label(tokens[int(t)], 8)}" for t in named]},
        zaxis=axis | {"title": {"text": what, "font_size": FONT}, "range": [0, top * 1.02], "nticks": 5},
        aspectmode="manual", aspectratio={"x": 1.0, "y": 0.9, "z": 1.25}, camera=CAMERA,
    )


def _hot(peaks: np.ndarray, places: np.ndarray, most: int, gap: float) -> list[float]:
    """The places of the peaks over five times the median, largest first, with room for their labels."""
    order = [int(i) for i in np.argsort(-peaks, kind="stable")[: 8 * most] if peaks[i] > 5 * np.median(peaks)]
    return apart([float(places[i]) for i in order], gap * max(1, places[-1] - places[0]))[:most]
