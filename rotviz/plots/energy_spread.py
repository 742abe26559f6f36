"""Energy spread: over how many channels the energy of a number or a token is spread, the largest channel first.

The curve is the share of energy in the k largest channels. A spike is a line at 100 % from the first channel on; energy spread evenly is the
dashed line k / D. Where a curve crosses 90 % stands how many channels hold 90 % of the energy: one for a spike, 0.9 D at best. The lower the
curve, the smaller the largest number, and with it the step of the grid.

Source: the Lorenz curve (1905) of economics; sorted channel norms are FlatQuant's (2410.09426).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, framed, log_axis
from rotviz.plots.palette import BLUE, MASSIVE, Style, styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import escape, number

NAME = "energy-spread"
HEIGHT = 340
POINTS = 160
OWN = {"the spike": Style(MASSIVE["color"], "solid", "diamond"), "its whole token": Style(BLUE, "dash", "circle")}


def draw_energy_spread(energies: Mapping[str, np.ndarray], *, share: float = 0.9, title: str | None = None) -> Drawing:
    """Cumulative shares of energies [D] each, none negative, sorted.

    Args:
        energies: name -> energy of each channel.
        share: the share that is marked.
    """
    series, lost = {}, 0
    for name, values in energies.items():
        found, bad = cleaned(values, 1, name)
        series[str(name)], lost = np.nan_to_num(found), lost + bad
    series = {name: np.sort(v)[::-1].cumsum() / v.sum() for name, v in series.items() if v.sum() > 0}
    if not series:
        return nothing(NAME, "0 energy in every channel", title)
    figure, styles = go.Figure(), styles_for(series) | {n: s for n, s in OWN.items() if n in series}
    widest = max(len(v) for v in series.values())
    for name, shares in series.items():
        at, look = _points(len(shares)), styles[name]
        figure.add_scatter(x=at, y=100 * shares[at - 1], name=escape(name), mode="lines",
                           line={"color": look.color, "dash": look.dash, "width": 2.4},
                           hovertemplate=f"{escape(name)}<br>%{{x:,}} channels<br>%{{y:.1f}} % of the energy<extra></extra>")
        k = _needed(shares, share)
        figure.add_scatter(x=[k], y=[100 * shares[k - 1]], mode="markers", marker={"color": look.color, "symbol": look.symbol, "size": 11},
                           showlegend=False, hovertemplate=f"{k:,} channels hold {100 * share:.0f} %<extra></extra>")
    at = _points(widest)
    figure.add_scatter(x=at, y=100 * at / widest, name="spread evenly", mode="lines", line={"color": LINE, "dash": "dot", "width": 1.6},
                       hovertemplate="spread evenly<br>%{x:,} channels, %{y:.1f} %<extra></extra>")
    figure.add_hline(y=100 * share, line={"color": LINE, "dash": "dash", "width": 1.2})
    figure.add_annotation(x=0, xref="paper", xanchor="left", y=100 * share, yanchor="top", text=f"{100 * share:.0f} %", showarrow=False,
                          font_size=SMALL)
    framed(figure, x="channels, the largest first (log scale)", y="share of the energy, %", title=title, height=HEIGHT,
           legend=[*series, "spread evenly"], note=note_lost(lost))
    figure.update_xaxes(**log_axis((0.9, widest * 1.15)))
    figure.update_yaxes(range=[0, 104], nticks=6)
    return Drawing(NAME, figure, _words(series, share, widest), _table(series, widest))


def _points(width: int) -> np.ndarray:
    """Numbers of channels, dense where they are few."""
    return np.unique(np.geomspace(1, width, POINTS).round().astype(int))


def _needed(shares: np.ndarray, share: float) -> int:
    return int(np.searchsorted(shares, share * (1 - 1e-6)) + 1)


def _words(series: Mapping[str, np.ndarray], share: float, widest: int) -> str:
    parts = [f"{name}: the largest channel holds {number(100 * v[0])} % and {_needed(v, share):,} hold {100 * share:.0f} %"
             for name, v in series.items()]
    even = int(np.ceil(share * widest))
    return f"Share of the energy in the largest of {widest:,} channels. {'; '.join(parts)}. Spread evenly it would take {even:,}."


def _table(series: Mapping[str, np.ndarray], widest: int) -> pd.DataFrame:
    ks = np.unique(np.geomspace(1, widest, 14).round().astype(int))
    return pd.DataFrame({"channels": ks, **{f"{n}, %": [100 * v[min(k, len(v)) - 1] for k in ks] for n, v in series.items()}})
