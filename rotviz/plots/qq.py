"""Q-Q plot: the sorted values against where a normal distribution would put them.

Points on the straight line are normal. Ends that bend away, up on the right and down on the left, are heavy tails: outliers. A rotation
by a random orthogonal matrix mixes hundreds of channels, so by the central limit theorem its points should lie on the line.
The line is the normal with the mean and spread of the middle half of the data, so that outliers do not tilt it.

Source: the classical plot; used for rotated activations in the spirit of SpinQuant (2405.16406, Fig. 3).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, Range, framed, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost, thinned
from rotviz.plots.series import any_number, named_series
from rotviz.plots.words import escape, number

NAME = "q-q"


def draw_qq(
    theoretical: np.ndarray, observed: np.ndarray | Mapping[str, np.ndarray], *, y_range: Range | None = None, what: str = "activation",
    title: str | None = None,
) -> Drawing:
    """Observed quantiles [N] (rising) against standard normal quantiles theoretical [N]; several series share the latter."""
    series, lost = named_series(observed, "observed")
    normal, _ = cleaned(theoretical, 1, "theoretical")
    if any(len(v) != len(normal) for v in series.values()):
        raise BadInput(f"observed has {[len(v) for v in series.values()]} quantiles and theoretical {len(normal)}: as many are needed")
    if not any_number(series) or not np.isfinite(normal).any():
        return nothing(NAME, "0 finite quantiles", title)
    figure, styles = go.Figure(), styles_for(series)
    limit = max(200, 3000 // len(series))
    for name, values in series.items():
        keep = thinned(values, limit)
        figure.add_scatter(x=normal[keep].astype(np.float32), y=values[keep].astype(np.float32), mode="markers", name=escape(name),
                           marker={"color": styles[name].color, "symbol": styles[name].symbol, "size": 5},
                           hovertemplate=f"{escape(name)}<br>normal quantile %{{x:.3f}}<br>value %{{y:,.4~r}}<extra></extra>")
        low, high = np.nanmin(normal), np.nanmax(normal)
        slope, middle = _line(normal, values)
        figure.add_scatter(x=[low, high], y=[middle + slope * low, middle + slope * high], mode="lines", showlegend=False, hoverinfo="skip",
                           line={"color": styles[name].color if len(series) > 1 else LINE, "width": 1.5, "dash": "dash"})
    framed(figure, x="standard normal quantile (standard deviations)", y=what, title=title, note=note_lost(lost),
           legend=list(series) if len(series) > 1 else ())
    figure.update_yaxes(range=span(y_range or shared_range(*series.values())))
    figure.update_xaxes(range=span(shared_range(normal)))
    return Drawing(NAME, figure, f"Q-Q plot of {what} against a normal distribution. {_words(normal, series)}.", _table(normal, series))


def _line(normal: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope and middle of the normal through the quartiles."""
    ok = np.isfinite(normal) & np.isfinite(values)
    if not ok.any():
        return 0.0, 0.0
    x1, x3 = np.percentile(normal[ok], [25, 75])
    y1, y3 = np.percentile(values[ok], [25, 75])
    slope = (y3 - y1) / (x3 - x1) if x3 > x1 else 0.0
    return float(slope), float((y1 + y3) / 2 - slope * (x1 + x3) / 2)


def _words(normal: np.ndarray, series: dict[str, np.ndarray]) -> str:
    parts = []
    for name, values in series.items():
        slope, middle = _line(normal, values)
        if np.isfinite(values).any():
            far = float(np.nanmax(np.abs(values - middle)))
            ratio = f", {number(far / slope)} robust standard deviations from the middle" if slope > 0 else ""
            parts.append(f"{name + ': ' if len(series) > 1 else ''}the farthest value lies {number(far)}{ratio} "
                         f"(a normal sample of this size reaches {number(float(np.nanmax(np.abs(normal))))})")
    return "; ".join(parts)


def _table(normal: np.ndarray, series: dict[str, np.ndarray]) -> pd.DataFrame:
    keep = np.unique(np.concatenate([np.linspace(0, len(normal) - 1, min(41, len(normal))).round().astype(int)]))
    return pd.DataFrame({"normal quantile": normal[keep], **{name: v[keep] for name, v in series.items()}})
