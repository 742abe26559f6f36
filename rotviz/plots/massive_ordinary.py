"""Massive and ordinary: what rounding loses on the two kinds of tokens, under many rotations.

Each mark is a rotation: across, its error on ordinary tokens; up, its error on massive ones. This is DFRot's finding in one figure: random
orthogonal and Hadamard rotations stand in one column, for on ordinary tokens they lose the same, and far apart in height, for a Hadamard matrix turns
a spike into a few levels that a grid holds and an orthogonal one into Gaussian numbers that it does not. A learned rotation is worth something
where it goes further down or further left than all seeds.

Source: DFRot (2412.00648, Fig. 2 and 4), both of its comparisons in one plane.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import Range, framed, log_axis, sentence, shared_range, span
from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import count, escape, number

NAME = "massive-ordinary"
LEAST = 1.5  # neither axis spans less than this ratio, so that a spread of a percent does not look like a gulf
LOG_FROM = 6.0  # ratio of the largest to the smallest

Errors = Mapping[str, tuple[np.ndarray, np.ndarray]]


def draw_massive_ordinary(
    errors: Errors, *, labels: Mapping[str, Sequence[str]] | None = None, x_range: Range | None = None, y_range: Range | None = None,
    what: str = "relative error", title: str | None = None,
) -> Drawing:
    """A mark for each rotation; several of one method (seeds) share its look.

    Args:
        errors: method -> (error on ordinary tokens [N], error on massive tokens [N]).
        labels: method -> what each of its N rotations is called in the hover; None = its number.
        x_range, y_range: limits in data units, to share between figures.
    """
    series, lost = {}, 0
    for name, (ordinary, massive) in errors.items():
        if len(ordinary) != len(massive):
            raise BadInput(f"{name} has {len(ordinary)} errors on ordinary tokens and {len(massive)} on massive ones: as many are needed")
        (a, bad_a), (b, bad_b) = cleaned(ordinary, 1, name), cleaned(massive, 1, name)
        series[name], lost = (a, b), lost + bad_a + bad_b
    drawn = {name: np.isfinite(a) & np.isfinite(b) & (a > 0) & (b >= 0) for name, (a, b) in series.items()}
    if not any(ok.any() for ok in drawn.values()):
        return nothing(NAME, f"0 of {count(len(series), 'method')} have errors on both kinds of tokens", title)
    xs = np.concatenate([a[drawn[n]] for n, (a, _) in series.items()])
    ys = np.concatenate([b[drawn[n]] for n, (_, b) in series.items()])
    (across, log_x), (up, log_y) = _axis(xs, x_range), _axis(ys, y_range)
    figure, styles = go.Figure(), styles_for(series)
    for name, (a, b) in series.items():
        which, look = np.flatnonzero(drawn[name]), styles[name]
        calls = (labels or {}).get(name) or [f"number {i}" for i in range(len(a))]
        text = [f"{escape(name)}, {escape(calls[i])}<br>ordinary {number(a[i])}<br>massive {number(b[i])}" for i in which]
        figure.add_scatter(x=a[which], y=np.maximum(b[which], up[0] * 1.02 if log_y else 0.0), mode="markers", name=escape(name), text=text,
                           hovertemplate="%{text}<extra></extra>", cliponaxis=False,
                           marker={"color": look.color, "symbol": look.symbol, "size": 11, "opacity": 0.85})
    zeros = int((ys == 0).sum()) if log_y else 0
    framed(figure, x=f"{what}, ordinary tokens{' (log scale)' if log_x else ''}", title=title, legend=list(series),
           y=f"{what}, massive tokens{' (log scale)' if log_y else ''}",
           note=sentence("A mark is a rotation; down and left is better.",
                         f"{count(zeros, 'rotation')} without any error on massive tokens drawn at the edge." if zeros else "", note_lost(lost)))
    figure.update_xaxes(**(log_axis(across) if log_x else {"range": span(across), "nticks": 6}))
    figure.update_yaxes(**(log_axis(up) if log_y else {"range": span(up)}))
    table = _table(series, drawn)
    parts = [f"{r['method']} {number(r['ordinary, mean'])} and {number(r['massive, mean'])} ({count(int(r['rotations']), 'rotation')})"
             for _, r in table.iterrows() if r["rotations"]]
    return Drawing(NAME, figure, f"Mean {what} on ordinary and on massive tokens: {'; '.join(parts)}.", table)


def _axis(values: np.ndarray, given: Range | None) -> tuple[Range, bool]:
    """Limits of an axis, and whether it is logarithmic: only where the numbers are far apart, for a short log axis has no round ticks."""
    positive = values[values > 0]
    if not positive.size:
        return given or (0.0, 1.0), False
    log = bool(positive.max() / positive.min() > LOG_FROM)
    low, high = shared_range(values, log=log)
    if not log and high - low < (LEAST - 1) * high:
        middle, reach = (low + high) / 2, (LEAST - 1) * high / 2
        low, high = max(middle - reach, 0.0), middle + reach
    return given or (low, high), log


def _table(series: dict[str, tuple[np.ndarray, np.ndarray]], drawn: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = []
    for name, both in series.items():
        row: dict[str, object] = {"method": name, "rotations": int(drawn[name].sum())}
        for kind, values in zip(("ordinary", "massive"), both, strict=True):
            found = values[drawn[name]]
            some = len(found) > 0
            row |= {f"{kind}, mean": found.mean() if some else np.nan, f"{kind}, smallest": found.min() if some else np.nan,
                    f"{kind}, largest": found.max() if some else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)
