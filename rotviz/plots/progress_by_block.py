"""Progress by block: the error of a run that is still going, as its blocks finish.

The horizontal axis is fixed to the whole model from the start, so the chart fills from left to right and does not jump; the shaded part is
done. A line that shoots up early is a reason to cancel.

Source: the live loss curves of any training dashboard; the walk over the blocks is DESIGN.md section 3.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing
from rotviz.plots.frame import Range, block_axis, framed, log_axis, sentence, shared_range
from rotviz.plots.kurtosis_by_block import site_words
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import note_lost
from rotviz.plots.series import named_series, table_by
from rotviz.plots.words import escape, number

NAME = "progress-by-block"


def draw_progress_by_block(
    errors: Mapping[str, np.ndarray], blocks: int, *, done: int | None = None, unit: str = "relative MSE", y_range: Range | None = None,
    title: str | None = None,
) -> Drawing:
    """Lines of errors so far over the blocks of a model of `blocks`.

    Args:
        errors: series (a site or a method) -> errors of the blocks done so far.
        done: how many blocks are finished; None = the longest series.
        y_range: limits in data units; keep them fixed to stop the axis from moving.
    """
    if blocks < 1:
        raise BadInput(f"blocks = {blocks}: a model has at least one")
    series, lost = named_series(errors, "error")
    longest = max((len(v) for v in series.values()), default=0)
    if longest > blocks:
        raise BadInput(f"{longest} errors for a model of {blocks} blocks")
    done = longest if done is None else done
    figure, styles = go.Figure(), styles_for(series)
    for name, values in series.items():
        words = escape(site_words(name))
        figure.add_scatter(x=np.arange(len(values)), y=np.where(values > 0, values, np.nan), mode="lines+markers", name=words,
                           line={"color": styles[name].color, "dash": styles[name].dash, "width": 2},
                           marker={"symbol": styles[name].symbol, "size": 7, "color": styles[name].color},
                           hovertemplate=f"{words}<br>block %{{x}}<br>{unit} %{{y:,.4~r}}<extra></extra>")
    if not series:
        figure.add_scatter(x=[None], y=[None], showlegend=False)
    figure.add_vrect(x0=-0.5, x1=done - 0.5, fillcolor="rgba(128,128,128,0.12)", line_width=0, layer="below")
    framed(figure, x="block", y=f"{unit} (log scale)", title=title, legend=[site_words(n) for n in series],
           note=sentence(f"{done} of {blocks} blocks done.", note_lost(lost)), height=340)
    figure.update_yaxes(**log_axis(y_range or shared_range(*series.values(), log=True)))
    figure.update_xaxes(**block_axis(blocks))
    last = [f"{site_words(n)} {number(v[np.isfinite(v)][-1])}" for n, v in series.items() if np.isfinite(v).any()]
    alt = f"{done} of {blocks} blocks done. Latest {unit}: {', '.join(last) if last else 'nothing measured yet'}."
    table = table_by("block", {site_words(n): v for n, v in series.items()})
    if table.empty:
        table = table_by("block", {"note": np.array([np.nan])})
    return Drawing(NAME, figure, alt, table)
