"""Effect by switch: what every setting of a study did, a row for each switch, so that it is seen which choices matter.

A dot is one run: the base recipe with that switch turned. The line joins a switch's least and largest result, its effect; rows are sorted by it. The
band is where one more seed of the base would fall, so that dots inside it cannot be told from luck. The axis is logarithmic: equal lengths are equal
factors. The largest and the smallest dot of a row are named where they lie outside the band.

Source: the tornado diagrams of sensitivity analysis (Eschenbach, Interfaces 22(6), 1992); which switches to turn follows arXiv 2308.07662.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, SMALL, Range, framed, log_axis, shared_range
from rotviz.plots.palette import BLUE, GREY, ORANGE
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number, short

NAME = "effect-by-switch"
BAND = "rgba(128,128,128,0.18)"
ROW, LABEL = 58, 30


def draw_effect_by_switch(
    values: Mapping[str, Mapping[str, float]], *, base: float | None = None, band: Range | None = None, what: str = "KL, nats a token",
    x_range: Range | None = None, title: str | None = None,
) -> Drawing:
    """Dots of positive values by setting, a row for each switch.

    Args:
        values: switch -> setting -> value.
        base: the base recipe's value, a dashed line.
        band: where one more seed of the base would fall.
        what: the value in words.
        x_range: limits in data units, to share between figures.
    """
    rows = {name: _positive(name, settings) for name, settings in values.items()}
    lost = sum(len(settings) for settings in values.values()) - sum(len(settings) for settings in rows.values())
    rows = dict(sorted(((n, s) for n, s in rows.items() if s), key=lambda item: _effect(item[1])))
    if not rows:
        return nothing(NAME, f"0 of {count(len(values), 'switch').replace('switchs', 'switches')} have a positive number", title)
    band = band if band is not None and np.isfinite(band).all() and band[0] > 0 else None
    everything = [v for settings in rows.values() for v in settings.values()]
    limits = x_range or shared_range(everything, band or [], [base if base else np.nan], log=True)
    figure = go.Figure()
    for row, (name, settings) in enumerate(rows.items()):
        _row(figure, row, name, settings, band, what)
    framed(figure, x=f"{what} (log scale)", title=title, note=note_lost(lost), height=96 + ROW * len(rows) + (34 if title else 0))
    figure.update_xaxes(**log_axis(limits))
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=[escape(short(n, 18)) for n in rows], range=[-0.6, len(rows) - 0.4], showgrid=False,
                        zeroline=False)
    if band:
        figure.add_vrect(x0=band[0], x1=band[1], fillcolor=BAND, line_width=0, layer="below")
    if base:
        figure.add_vline(x=base, line={"color": LINE, "dash": "dash", "width": 1.4})
    for row, settings in enumerate(rows.values()):
        _name_ends(figure, row, settings, band, limits)
    table = pd.DataFrame([{"switch": name, "setting": s, what: v, "times the base": v / base if base else np.nan}
                          for name, settings in reversed(rows.items()) for s, v in settings.items()])
    return Drawing(NAME, figure, _alt(rows, band, what), table)


def _positive(name: str, settings: Mapping[str, float]) -> dict[str, float]:
    found = cleaned(np.array(list(settings.values())), 1, name)[0].tolist()
    return {s: v for s, v in zip(settings, found) if v > 0}


def _row(figure: go.Figure, row: int, name: str, settings: Mapping[str, float], band: Range | None, what: str) -> None:
    found = np.array(list(settings.values()))
    figure.add_scatter(x=[found.min(), found.max()], y=[row, row], mode="lines", line={"color": LINE, "width": 3}, hoverinfo="skip", showlegend=False)
    kinds = [_kind(v, band) for v in found]
    figure.add_scatter(
        x=found, y=np.full(len(found), row), mode="markers", showlegend=False, cliponaxis=False,
        text=[f"{escape(name)}: {escape(s)}<br>{escape(what)} {number(v)}" for s, v in settings.items()], hovertemplate="%{text}<extra></extra>",
        marker={"size": 11, "color": [k[0] for k in kinds], "symbol": [k[1] for k in kinds], "line": {"width": 1, "color": "#FFFFFF"}})


def _kind(value: float, band: Range | None) -> tuple[str, str]:
    """Color and symbol: below the band, inside (or none), above."""
    if band is None or band[0] <= value <= band[1]:
        return GREY, "circle"
    return (BLUE, "triangle-left") if value < band[0] else (ORANGE, "triangle-right")


def _name_ends(figure: go.Figure, row: int, settings: Mapping[str, float], band: Range | None, limits: Range) -> None:
    """The setting at either end of a row, below it the smallest and above it the largest, kept inside the axes."""
    ends = [(min(settings, key=settings.get), -17), (max(settings, key=settings.get), 17)]
    for setting, shift in ends if len(settings) > 1 else ends[:1]:
        value = settings[setting]
        if band is not None and band[0] <= value <= band[1]:
            continue
        right = math.log(value / limits[0]) > 0.5 * math.log(limits[1] / limits[0])
        figure.add_annotation(x=math.log10(value), y=row, text=escape(short(setting, LABEL)), showarrow=False, font_size=SMALL, yshift=shift,
                              xanchor="right" if right else "left", xshift=8 if right else -8)


def _effect(settings: Mapping[str, float]) -> float:
    return max(settings.values()) / min(settings.values())


def _alt(rows: Mapping[str, Mapping[str, float]], band: Range | None, what: str) -> str:
    parts = [f"{name} a factor {number(_effect(s))} ({short(min(s, key=s.get), LABEL)} least, {short(max(s, key=s.get), LABEL)} most)"
             for name, s in reversed(rows.items())]
    seeds = f" One more seed of the base would fall between {number(band[0])} and {number(band[1])}." if band else ""
    return f"Effect of each switch on {what}, largest first: {'; '.join(parts)[:700]}.{seeds}"
