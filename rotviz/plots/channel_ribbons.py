"""Channel ribbons: for every channel, the spread of its values over the tokens.

Three nested bands around the median: smallest to largest, 1st to 99th percentile, 25th to 75th. A channel whose outer band is a spike
but whose inner band is flat is driven by a few tokens; a channel whose inner band is wide too is an outlier channel. A token's grid
must reach its largest channel, so everything below a tenth of the tallest band shares one or two levels at 4 bits.
After a rotation all channels look alike: a flat band.

Source: QuaRot (2404.00456, Fig. 1), before and after.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, sentence, shared_range, span, symlog, symlog_axis
from rotviz.plots.palette import SKY, VERMILION, Style
from rotviz.plots.pool import Bins, cleaned, note_lost
from rotviz.plots.words import count, number

NAME = "channel-ribbons"
PERCENTILES = (0, 1, 25, 50, 75, 99, 100)
POINTS = 900
_BANDS = ((0, 6, "min–max", 0.3), (1, 5, "1–99 %", 0.42), (2, 4, "25–75 %", 0.8))


def channel_percentiles(values: np.ndarray) -> np.ndarray:
    """The percentiles 0, 1, 25, 50, 75, 99, 100 over the tokens of values [T, D]: [7, D]."""
    clean, _ = cleaned(values, 2, "values")
    percentiles = np.full((len(PERCENTILES), clean.shape[1]), np.nan)
    known = np.isfinite(clean).any(axis=0)
    if known.any():
        percentiles[:, known] = np.nanpercentile(clean[:, known], PERCENTILES, axis=0)
    return percentiles


def draw_channel_ribbons(
    percentiles: np.ndarray, *, sort: bool = False, y_range: Range | None = None, symmetric_log: bool = False, linear: float = 1.0,
    what: str = "activation", title: str | None = None,
) -> Drawing:
    """Bands of percentiles [7, D] (rows 0, 1, 25, 50, 75, 99, 100; see `channel_percentiles`) over the channels.

    Args:
        sort: order the channels by their largest |value|, largest first.
        y_range: limits in data units, to share between figures.
        symmetric_log: a y axis linear up to `linear` and logarithmic beyond, for massive activations.
    """
    clean, lost = cleaned(percentiles, 2, "percentiles")
    if clean.shape[0] != len(PERCENTILES):
        raise BadInput(f"percentiles has {clean.shape[0]} rows; it takes 7, for 0, 1, 25, 50, 75, 99 and 100")
    if clean.size == lost:
        return nothing(NAME, f"no finite value for {clean.shape[1]:,} channels", title)
    absmax = np.nan_to_num(np.fmax(np.abs(clean[0]), np.abs(clean[6])))
    order = np.argsort(-absmax, kind="stable") if sort else np.arange(clean.shape[1])
    bins = Bins.up_to(len(order), POINTS)
    ribbons = _pooled(clean[:, order], bins)
    drawn = symlog(ribbons, linear) if symmetric_log else ribbons
    figure = _bands(bins, drawn, ribbons)
    merged = f"A point merges {bins.width} channels and keeps their extremes." if bins.width > 1 else ""
    axis = "rank of the channel by its largest |value|" if sort else "channel"
    framed(figure, x=axis, y=f"{what}, linear to ±{number(linear)}, log beyond" if symmetric_log else what, title=title,
           legend=[*(b[2] for b in _BANDS), "median"], note=sentence(merged, note_lost(lost)))
    limits = y_range or shared_range(clean, symmetric_log=symmetric_log)
    figure.update_yaxes(**(symlog_axis(limits, linear) if symmetric_log else {"range": span(limits)}))
    figure.update_xaxes(range=[0, max(1, len(order) - 1)], showgrid=False)
    peak = int(absmax.argmax())
    alt = (f"Percentile bands of {count(len(order), 'channel')}. Channel {peak} is the largest, from {number(clean[0, peak])} to "
           f"{number(clean[6, peak])}; half of the channels stay within ±{number(float(np.median(absmax)))}.")
    return Drawing(NAME, figure, alt, _table(clean, absmax))


def _pooled(percentiles: np.ndarray, bins: Bins) -> np.ndarray:
    if bins.width == 1:
        return percentiles
    lower = np.fmin.reduceat(percentiles[:3], bins.starts, axis=1)
    upper = np.fmax.reduceat(percentiles[4:], bins.starts, axis=1)
    middle = np.array([np.nanmedian(part) if np.isfinite(part).any() else np.nan for part in np.split(percentiles[3], bins.starts[1:])])
    return np.concatenate([lower, middle[None], upper])


def _bands(bins: Bins, drawn: np.ndarray, true: np.ndarray) -> go.Figure:
    figure = go.Figure()
    style = Style(SKY, "solid", "circle")
    x = bins.starts.astype(np.int32)
    shown = drawn.astype(np.float32)
    for low, high, name, opacity in _BANDS:
        color = style.faded(opacity)
        common = {"mode": "lines", "line": {"width": 1, "color": color}, "legendgroup": name, "x": x}
        hover = f"channel %{{x}}<br>{name}: %{{customdata:,.4~r}}<extra></extra>"
        figure.add_scatter(y=shown[low], showlegend=False, customdata=true[low].astype(np.float32), hovertemplate=hover, **common)
        figure.add_scatter(y=shown[high], fill="tonexty", fillcolor=color, name=name, customdata=true[high].astype(np.float32),
                           hovertemplate=hover, **common)
    figure.add_scatter(x=x, y=shown[3], mode="lines", line={"width": 1.6, "color": VERMILION}, name="median",
                       customdata=true[3].astype(np.float32), hovertemplate="channel %{x}<br>median %{customdata:,.4~r}<extra></extra>")
    return figure


def _table(percentiles: np.ndarray, absmax: np.ndarray) -> pd.DataFrame:
    top = np.argsort(-absmax, kind="stable")[:20]
    columns = ("smallest", "1 %", "25 %", "median", "75 %", "99 %", "largest")
    return pd.DataFrame({"channel": top, **{name: percentiles[i, top] for i, name in enumerate(columns)}})
