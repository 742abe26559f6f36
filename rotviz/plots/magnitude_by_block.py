"""Magnitude by block: the three largest |h| of the residual stream after each block, beside the median.

A model with massive activations shows a step: after one early block the largest value jumps by a factor of a thousand, stays constant
through the middle of the network and is cancelled in the last blocks, while the median creeps up. The gap between the top line and
the median is what a per-token grid has to bridge.

Source: Massive Activations (2402.17762, Fig. 4).
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, block_axis, framed, log_axis, shared_range
from rotviz.plots.palette import BLUE, GREEN, GREY, VERMILION
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.series import table_by
from rotviz.plots.words import escape, number

NAME = "magnitude-by-block"
_LOOK = (("largest", VERMILION, "solid", "diamond"), ("2nd largest", BLUE, "dash", "square"), ("3rd largest", GREEN, "dot", "triangle-up"))


def draw_magnitude_by_block(
    top: np.ndarray, median: np.ndarray, *, where: Sequence[str] = (), y_range: Range | None = None, what: str = "|hidden state|",
    title: str | None = None,
) -> Drawing:
    """Lines of top [L, K] (K up to 3, largest first) and median [L] over the blocks, on a log axis.

    Args:
        where: for each block, words for the hover of the largest, such as "token 0 Summer, channel 507".
        y_range: limits in data units, to share between figures.
    """
    peaks, lost_top = cleaned(top, 2, "top")
    middle, lost_middle = cleaned(median, 1, "median")
    if len(peaks) != len(middle):
        raise BadInput(f"top has {len(peaks)} blocks and median {len(middle)}: as many are needed")
    series = {look[0]: peaks[:, i] for i, look in enumerate(_LOOK[: peaks.shape[1]])} | {"median": middle}
    if not any((v > 0).any() for v in series.values()):
        return nothing(NAME, f"no positive magnitude for {len(middle)} blocks", title)
    figure = go.Figure()
    words = [escape(w) for w in where] if len(where) == len(middle) else [""] * len(middle)
    for name, color, dash, symbol in (*_LOOK[: peaks.shape[1]], ("median", GREY, "longdash", "circle")):
        values = series[name]
        figure.add_scatter(x=np.arange(len(values)), y=np.where(values > 0, values, np.nan), mode="lines+markers", name=name,
                           line={"color": color, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 7, "color": color},
                           text=words if name == "largest" else None,
                           hovertemplate=f"after block %{{x}}<br>{name}: %{{y:,.4~r}}<br>%{{text}}<extra></extra>" if name == "largest"
                           else f"after block %{{x}}<br>{name}: %{{y:,.4~r}}<extra></extra>")
    framed(figure, x="block", y=f"{what} (log scale)", title=title, legend=list(series), note=note_lost(lost_top + lost_middle))
    figure.update_yaxes(**log_axis(y_range or shared_range(*series.values(), log=True)))
    figure.update_xaxes(**block_axis(len(middle)))
    return Drawing(NAME, figure, _alt(series, where, what), table_by("block", series))


def _alt(series: dict[str, np.ndarray], where: Sequence[str], what: str) -> str:
    peaks, middle = series.get("largest", series["median"]), series["median"]
    block = int(np.nanargmax(peaks)) if np.isfinite(peaks).any() else 0
    place = f" ({where[block]})" if block < len(where) else ""
    return (f"Largest and median {what} after each of {len(middle)} blocks. The largest, {number(peaks[block])}, is after block "
            f"{block}{place}, where the median is {number(middle[block])}.")
