"""Roofline: how near each kernel comes to what this machine can do.

Across is arithmetic intensity, operations a byte moved; up is the rate of operations. Two lines bound what is possible, both measured on this
machine: the slope is the copy rate (few operations a byte: memory decides), the flat part the rate of a large matrix product. A point's
distance below the roof is what is left to gain. Kernels without arithmetic have no place here and are left out.

Source: Williams, Waterman and Patterson, Roofline, Communications of the ACM 52 (2009).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, framed, log_axis, sentence, shared_range
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned
from rotviz.plots.words import count, escape, number, short

NAME = "roofline"
BILLION = 1e9


def draw_roofline(
    names: Sequence[str], sizes: Sequence[str], operations: np.ndarray, moved: np.ndarray, seconds: np.ndarray, *, copy_rate: float,
    matrix_rate: float, title: str | None = None,
) -> Drawing:
    """Points of kernels below the machine's roof.

    Args:
        names: the kernel of each point, which gives its color and symbol.
        sizes: the size it was measured at, for the hover text.
        operations, moved, seconds: operations done, bytes moved and median time of each point, [N].
        copy_rate: bytes a second; matrix_rate: operations a second; both positive.
    """
    done, bytes_moved, times = (cleaned(a, 1, n)[0] for a, n in ((operations, "operations"), (moved, "moved"), (seconds, "seconds")))
    if not len(names) == len(sizes) == len(done) == len(bytes_moved) == len(times):
        raise BadInput(f"{len(names)} names, {len(sizes)} sizes, {len(done)} operations, {len(bytes_moved)} bytes, {len(times)} times: as many of "
                       "each are needed")
    if not (0 < copy_rate < np.inf and 0 < matrix_rate < np.inf):
        raise BadInput(f"a roof needs two positive rates, not {copy_rate} bytes and {matrix_rate} operations a second")
    with np.errstate(all="ignore"):
        intensity, rate = done / bytes_moved, done / times / BILLION
    shown = np.isfinite(intensity) & np.isfinite(rate) & (intensity > 1e-9) & (rate > 1e-9) & (intensity < 1e15) & (rate < 1e21)
    if not shown.any():
        return nothing(NAME, f"0 of {count(len(names), 'kernel')} do arithmetic that was timed", title)
    ridge, slope, flat = matrix_rate / copy_rate, copy_rate / BILLION, matrix_rate / BILLION
    across = shared_range(intensity[shown], [ridge / 2, ridge * 4], log=True)
    up = shared_range(rate[shown], [flat], log=True)
    figure, kinds = go.Figure(), list(dict.fromkeys(str(names[i]) for i in np.flatnonzero(shown)))
    roof = np.array([across[0], ridge, across[1]])
    figure.add_scatter(x=roof, y=np.minimum(roof * slope, flat), mode="lines", line={"color": LINE, "width": 2}, name="roof",
                       hoverinfo="skip")
    attained = rate / np.minimum(np.where(shown, intensity, 1.0) * slope, flat)
    styles = styles_for(kinds)
    for kind in kinds:
        mine = [i for i in np.flatnonzero(shown) if str(names[i]) == kind]
        figure.add_scatter(x=intensity[mine], y=rate[mine], mode="markers", name=escape(short(kind, 30)),
                           marker={"color": styles[kind].color, "symbol": styles[kind].symbol, "size": 9},
                           customdata=[_hover(kind, str(sizes[i]), times[i], attained[i]) for i in mine],
                           hovertemplate="%{customdata}<extra></extra>")
    left_out = int(len(names) - shown.sum())
    framed(figure, x="operations a byte (log scale)", y="billion operations a second (log scale)", title=title, legend=["roof", *kinds],
           note=sentence(f"{count(left_out, 'measurement')} without arithmetic left out." if left_out else ""))
    figure.update_xaxes(**log_axis(across))
    figure.update_yaxes(**log_axis(up))
    return Drawing(NAME, figure, _alt(names, sizes, attained, shown, copy_rate, matrix_rate), _table(names, sizes, intensity, rate, attained, shown))


def _hover(name: str, size: str, seconds: float, share: float) -> str:
    return f"{escape(name)}, {escape(size)}<br>{number(seconds * 1e6)} µs, {share:.0%} of the roof"


def _alt(names: Sequence[str], sizes: Sequence[str], attained: np.ndarray, shown: np.ndarray, copy_rate: float, matrix_rate: float) -> str:
    order = sorted(np.flatnonzero(shown), key=lambda i: attained[i])
    best, worst = order[-1], order[0]
    return (f"{count(int(shown.sum()), 'measurement')} below a roof of {number(copy_rate / 1e9)} GB/s and {number(matrix_rate / 1e9)} billion "
            f"operations/s. Nearest: {names[best]} at {sizes[best]}, {attained[best]:.0%} of the roof; farthest: {names[worst]} at {sizes[worst]}, "
            f"{attained[worst]:.0%}.")


def _table(names: Sequence[str], sizes: Sequence[str], intensity: np.ndarray, rate: np.ndarray, attained: np.ndarray,
           shown: np.ndarray) -> pd.DataFrame:
    rows = [{"kernel": names[i], "size": sizes[i], "operations a byte": intensity[i], "billion operations a second": rate[i],
             "share of the roof": attained[i]} for i in np.flatnonzero(shown)]
    return pd.DataFrame(rows)
