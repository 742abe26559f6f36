"""Error by channel: where along the width the quantization error sits, a line per method.

Without rotation the error is even, since a token's grid has one step for all channels, but it is relatively huge in the small channels;
outlier channels stand out when they are clipped. Sorted from the largest to the smallest, a flat curve means that no channel is
sacrificed. Errors are in shares of the site's mean square, so that the mean of a curve is the site's relative error.

Source: the sorted channel curves of FlatQuant (2410.09426, Fig. 1 and 4).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, Range, framed, log_axis, sentence, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import note_lost, thinned
from rotviz.plots.series import Series, any_number, named_series, peaks_in_words
from rotviz.plots.words import count, escape

NAME = "error-by-channel"
POINTS = 6000  # of all lines together


def draw_error_by_channel(
    errors: Mapping[str, np.ndarray], *, sort: bool = False, log: bool = True, y_range: Range | None = None,
    unit: str = "squared error / mean square", rank: str = "error", now: int | None = None, title: str | None = None,
) -> Drawing:
    """Lines of errors [D] by method over the channels; or of another positive number that each channel has.

    Args:
        sort: order each line from its largest error to its smallest.
        unit, rank: what the numbers are, on the vertical axis and as what orders the channels.
        log: a log axis.
        y_range: limits in data units, to share between figures.
        now: the channel that is looked at, marked by a line; without sort only.
    """
    series, lost = named_series(errors, "error")
    if not any_number(series):
        return nothing(NAME, f"0 finite errors for {len(errors)} methods", title)
    figure, styles = go.Figure(), styles_for(series)
    limit = min(2000, POINTS // len(series))
    mode = "lines+markers" if now is not None and not sort else "lines"  # only markers can be chosen by a click
    for name, values in series.items():
        order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable") if sort else np.arange(len(values))
        keep = thinned(values[order], limit)
        y = values[order][keep]
        figure.add_scatter(x=keep.astype(np.int32), y=np.where(y > 0, y, np.nan).astype(np.float32) if log else y.astype(np.float32),
                           mode=mode, marker_size=3, name=escape(name), line={"color": styles[name].color, "dash": styles[name].dash, "width": 1.6}
                           if sort else {"color": styles[name].color, "width": 1.2}, customdata=order[keep].astype(np.int32),
                           hovertemplate=f"{escape(name)}<br>channel %{{customdata}}<br>{unit} %{{y:,.4~r}}<extra></extra>")
    length = max(len(v) for v in series.values())
    thin = f"{limit:,} points of {length:,} channels drawn; extremes are kept." if length > limit else ""
    framed(figure, x=f"rank of the channel by {rank}" if sort else "channel", y=f"{unit} (log scale)" if log else unit, title=title,
           legend=list(series), note=sentence(thin, note_lost(lost)))
    limits = y_range or shared_range(*series.values(), log=log)
    figure.update_yaxes(**(log_axis(limits) if log else {"range": span(limits)}))
    figure.update_xaxes(range=[-0.01 * length, 1.01 * length])
    if now is not None and not sort and 0 <= now < length:
        figure.add_vline(x=now, line={"color": LINE, "dash": "dash", "width": 1.4})
    alt = f"{unit.capitalize()} over {count(length, 'channel')}: {peaks_in_words(series, 'channel')}."
    return Drawing(NAME, figure, alt, _table(series, unit))


def _table(series: Series, unit: str) -> pd.DataFrame:
    rows = []
    for name, values in series.items():
        finite = values[np.isfinite(values)]
        if finite.size:
            low, middle, high = np.percentile(finite, [1, 50, 99])
            rows.append({"method": name, f"mean of {unit}": finite.mean(), "1 %": low, "median": middle, "99 %": high,
                         "largest": finite.max(), "channel of the largest": int(np.nanargmax(values))})
    return pd.DataFrame(rows)
