"""Kurtosis by block: how heavy the tails of each site are.

Excess kurtosis is E[(x - mean)^4] / variance^2 - 3: 0 for a normal distribution, -1.2 for a uniform one, 3 for Laplace, and in the tens of
thousands for a site with massive activations. Heavy tails make a uniform grid waste its levels, so lower is easier. The axis is linear
between -1 and 1 and logarithmic beyond, since values can be negative and span six decades. Color and symbol are the site; with
several methods the dash is the method.

Source: kurtosis figures of SpinQuant (2405.16406, Fig. 3) and DartQuant (2511.04063, Table 19).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, block_axis, framed, shared_range, symlog, symlog_axis
from rotviz.plots.palette import GREY, styles_for
from rotviz.plots.pool import note_lost
from rotviz.plots.series import Series, any_number, named_series, table_by
from rotviz.plots.words import count, escape, number
from rotviz.types import SITE_WORDS

NAME = "kurtosis-by-block"
_DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")


def draw_kurtosis_by_block(
    kurtosis: Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]], *, y_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Lines of excess kurtosis [L] over the blocks.

    Args:
        kurtosis: site -> values, or method -> site -> values.
        y_range: limits in data units, to share between figures; `shared_range(..., symmetric_log=True)` makes them.
    """
    nested = any(isinstance(v, Mapping) for v in kurtosis.values())
    by_method: dict[str, Any] = dict(kurtosis) if nested else {"": kurtosis}
    lines: dict[tuple[str, str], np.ndarray] = {}
    lost = 0
    for method, sites in by_method.items():
        series, bad = named_series(sites, "kurtosis")
        lost += bad
        lines |= {(str(method), site): values for site, values in series.items()}
    flat: Series = {label(method, site): values for (method, site), values in lines.items()}
    if not any_number(flat):
        return nothing(NAME, "0 finite kurtosis values", title)
    methods, sites_seen = list(by_method), list(dict.fromkeys(site for _, site in lines))
    figure = _lines(lines, methods, sites_seen)
    legend = [site_words(s) for s in sites_seen] + (methods if len(methods) > 1 else [])
    framed(figure, x="block", y="excess kurtosis (linear to ±1, log beyond)", title=title, legend=legend, note=note_lost(lost))
    figure.update_yaxes(**symlog_axis(y_range or shared_range([-1.2, 1.0], *lines.values(), symmetric_log=True)), zeroline=True)
    length = max(len(v) for v in lines.values())
    figure.update_xaxes(**block_axis(length))
    table = table_by("block", flat)
    return Drawing(NAME, figure, _alt(flat, table), table)


def site_words(site: str) -> str:
    """`attention input` for `attn_in`; any other name as it is."""
    return {str(k): v for k, v in SITE_WORDS.items()}.get(site, site)


def label(method: str, site: str) -> str:
    """`hadamard, MLP input`, or the site alone when there is one method."""
    return f"{method}, {site_words(site)}" if method else site_words(site)


def _lines(lines: dict[tuple[str, str], np.ndarray], methods: list[str], sites: list[str]) -> go.Figure:
    figure, styles = go.Figure(), styles_for(sites)
    dash = {m: _DASHES[i % len(_DASHES)] for i, m in enumerate(methods)}
    for (method, site), values in lines.items():
        look = styles[site]
        figure.add_scatter(
            x=np.arange(len(values)), y=symlog(values), mode="lines+markers", name=escape(site_words(site)), legendgroup=site,
            showlegend=method == methods[0], line={"color": look.color, "dash": dash[method], "width": 2}, customdata=values,
            marker={"symbol": look.symbol, "size": 6, "color": look.color},
            hovertemplate=f"{escape(label(method, site))}<br>block %{{x}}<br>excess kurtosis %{{customdata:,.4~r}}<extra></extra>",
        )
    if len(methods) > 1:
        for method in methods:
            figure.add_scatter(x=[None], y=[None], mode="lines", name=escape(method),
                               line={"color": GREY, "dash": dash[method], "width": 2})
    return figure


def _alt(flat: Series, table: pd.DataFrame) -> str:
    name = max((n for n in flat if np.isfinite(flat[n]).any()), key=lambda n: np.nanmax(flat[n]))
    block = int(np.nanargmax(flat[name]))
    medians = [f"{n} {number(float(np.nanmedian(v)))}" for n, v in flat.items() if np.isfinite(v).any()]
    return (f"Excess kurtosis over {count(len(table), 'block')}. The largest, {number(flat[name][block])}, is {name} in block {block}. "
            f"Medians: {', '.join(medians[:8])}{' and others' if len(medians) > 8 else ''}.")
