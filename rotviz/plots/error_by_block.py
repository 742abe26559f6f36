"""Error by block: how far the quantized model is from the float one after each block, a line per method.

Two measures: relative MSE, |x - Q(x)|^2 / |x|^2 on a log axis (lower is better), or SQNR = -10 log10 of it in dB (higher is better; each
bit is worth about 6 dB). Solid lines are accumulated, with all earlier blocks quantized too; dotted lines are isolated, this block alone.
A solid line that climbs while the dotted one is flat is error handed on; a dotted peak is a block that hurts by itself.

Source: the layer-wise error figures of AIMET's QuantAnalyzer and of SmoothQuant-style ablations.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, Range, block_axis, framed, log_axis, shared_range, span
from rotviz.plots.palette import GREY, styles_for
from rotviz.plots.pool import note_lost
from rotviz.plots.series import Series, any_number, named_series, table_by
from rotviz.plots.words import count, escape, number

NAME = "error-by-block"
RELATIVE_MSE, SQNR_DB = "relative MSE", "SQNR (dB)"


def draw_error_by_block(
    errors: Mapping[str, np.ndarray], *, isolated: Mapping[str, np.ndarray] | None = None, unit: str = RELATIVE_MSE,
    y_range: Range | None = None, now: int | None = None, title: str | None = None,
) -> Drawing:
    """Lines of errors [L] by method over the blocks.

    Args:
        errors: method -> error with all earlier blocks quantized too.
        isolated: method -> error with this block alone quantized, dotted.
        unit: what the numbers are; one that ends in "(dB)" is drawn on a linear axis, any other on a log axis.
        y_range: limits in data units, to share between figures.
        now: the block that is looked at, marked by a line.
    """
    decibel = unit.endswith("(dB)")
    solid, lost = named_series(errors, "error")
    dotted, lost_too = named_series(isolated or {}, "error")
    everything: Series = {**solid, **{f"{name} (isolated)": v for name, v in dotted.items()}}
    if not any_number(everything):
        return nothing(NAME, f"0 finite errors for {len(errors)} methods", title)
    figure, styles = go.Figure(), styles_for([*solid, *dotted])
    for kind, group in (("", solid), (" (isolated)", dotted)):
        for name, values in group.items():
            look = styles[name]
            figure.add_scatter(
                x=np.arange(len(values)), y=values if decibel else np.where(values > 0, values, np.nan), mode="lines+markers",
                name=escape(name), legendgroup=name, showlegend=not kind or name not in solid,
                line={"color": look.color, "width": 2, "dash": "dot" if kind else "solid"},
                marker={"symbol": look.symbol + ("-open" if kind else ""), "size": 7, "color": look.color},
                hovertemplate=f"{escape(name + kind)}<br>block %{{x}}<br>{unit} %{{y:,.4~r}}<extra></extra>",
            )
    legend = list(styles)
    if dotted:
        legend += ["accumulated", "isolated"]
        for name, dash in (("accumulated", "solid"), ("isolated", "dot")):
            figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line={"color": GREY, "dash": dash, "width": 2})
    framed(figure, x="block", y=unit if decibel else f"{unit} (log scale)", title=title, note=note_lost(lost + lost_too),
           legend=legend)
    limits = y_range or shared_range(*everything.values(), log=not decibel)
    figure.update_yaxes(**({"range": span(limits)} if decibel else log_axis(limits)))
    length = max(len(v) for v in everything.values())
    figure.update_xaxes(**block_axis(length))
    if now is not None and 0 <= now < length:
        figure.add_vline(x=now, line={"color": LINE, "dash": "dash", "width": 1.4})
    return Drawing(NAME, figure, _alt(everything, unit, decibel, length), table_by("block", everything))


def _alt(series: Series, unit: str, decibel: bool, length: int) -> str:
    worst = np.nanargmin if decibel else np.nanargmax
    parts = []
    for name, values in series.items():
        if np.isfinite(values).any():
            i, last = int(worst(values)), values[np.isfinite(values)][-1]
            parts.append(f"{name}: worst {number(values[i])} in block {i}, {number(last)} at the end")
    return f"{unit} over {count(length, 'block')}. {'; '.join(parts[:6])}{'; and others' if len(parts) > 6 else ''}."
