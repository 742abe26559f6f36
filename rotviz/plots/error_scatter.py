"""Error scatter: every token's quantization error under two methods.

Each point is a token, x its error with method A, y with method B, both on the same log scale. Above the diagonal A is better, below it
B is. Ordinary tokens form one cloud; massive tokens (diamonds) sit apart, and which side of the diagonal they lie on decides far more
than their number: that is why a Hadamard rotation beats a random orthogonal one.

Source: DFRot (2412.00648, Fig. 1 and 4), its 3-D scatter in two dimensions.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.frame import LINE, Range, framed, log_axis, sentence, shared_range
from rotviz.plots.palette import MASSIVE, SKY
from rotviz.plots.pool import cleaned, note_lost
from rotviz.plots.words import check_tokens, count, escape, number, token_label, visible

NAME = "error-scatter"
POINTS = 3000


def draw_error_scatter(
    error_a: np.ndarray, error_b: np.ndarray, tokens: Sequence[str], *, name_a: str = "A", name_b: str = "B",
    massive: Collection[int] = (), axis_range: Range | None = None, what: str = "relative error", title: str | None = None,
) -> Drawing:
    """Log-log scatter of error_a [T] against error_b [T], a point for each token.

    Args:
        tokens: T token texts.
        name_a, name_b: the methods' names.
        massive: the indices of massive tokens.
        axis_range: limits of both axes in data units, to share between figures.
    """
    a, lost_a = cleaned(error_a, 1, "error_a")
    b, lost_b = cleaned(error_b, 1, "error_b")
    if len(a) != len(b):
        raise BadInput(f"error_a has {len(a)} tokens and error_b {len(b)}: as many are needed")
    check_tokens(tokens, len(a))
    known = np.isfinite(a) & np.isfinite(b) & (a >= 0) & (b >= 0)
    if not known.any() or not ((a[known] > 0) | (b[known] > 0)).any():
        return nothing(NAME, f"no token with a positive error among {len(a):,}", title)
    limits = axis_range or shared_range(a[known], b[known], log=True)
    zeros = int((known & ((a == 0) | (b == 0))).sum())
    is_massive = np.isin(np.arange(len(a)), list(massive))
    figure = go.Figure()
    figure.add_scatter(x=limits, y=limits, mode="lines", line={"color": LINE, "dash": "dash", "width": 1.5}, hoverinfo="skip",
                       showlegend=False)
    drawn = _drawn(a, b, known & ~is_massive, limits)
    _points(figure, a, b, drawn, tokens, (name_a, name_b), limits,
            {"color": SKY, "symbol": "circle", "size": 5, "opacity": 0.65}, "ordinary tokens")
    heavy = np.flatnonzero(known & is_massive)
    if len(heavy):
        _points(figure, a, b, heavy, tokens, (name_a, name_b), limits, MASSIVE, "massive tokens")
    ordinary = int((known & ~is_massive).sum())
    below, above = int((b < a)[known].sum()), int((b > a)[known].sum())
    ties = int(known.sum()) - below - above
    note = sentence(f"Above the diagonal {name_a} is better ({above:,}), below it {name_b} ({below:,}), of {int(known.sum()):,} tokens.",
                    f"{count(zeros, 'token')} with no error at all drawn at the edge." if zeros else "",
                    f"{len(drawn):,} of {ordinary:,} ordinary tokens drawn." if len(drawn) < ordinary else "", note_lost(lost_a + lost_b))
    framed(figure, x=f"{what} with {name_a} (log scale)", y=f"{what} with {name_b} (log scale)", title=title, note=note,
           legend=["ordinary tokens", "massive tokens"] if len(heavy) else ())
    figure.update_xaxes(**log_axis(limits))
    figure.update_yaxes(**log_axis(limits))
    alt = (f"{what.capitalize()} of {count(int(known.sum()), 'token')} with {name_a} and with {name_b}. {name_b} is better on {below:,}, "
           f"{name_a} on {above:,}, {ties:,} tie; medians {number(float(np.median(a[known])))} and {number(float(np.median(b[known])))}."
           f"{_massive_words(a, b, heavy, name_a, name_b)}")
    return Drawing(NAME, figure, alt, _table(a, b, known, is_massive, tokens, (name_a, name_b)))


def _drawn(a: np.ndarray, b: np.ndarray, which: np.ndarray, limits: Range) -> np.ndarray:
    """The tokens to draw: all when few, else evenly spaced in the order of B / A, so that the farthest from the diagonal stay."""
    found = np.flatnonzero(which)
    if len(found) <= POINTS:
        return found
    floor = limits[0]
    order = found[np.argsort(np.log(np.maximum(b[found], floor) / np.maximum(a[found], floor)), kind="stable")]
    return order[np.linspace(0, len(order) - 1, POINTS).round().astype(int)]


def _points(figure: go.Figure, a: np.ndarray, b: np.ndarray, which: np.ndarray, tokens: Sequence[str], names: tuple[str, str],
            limits: Range, marker: dict, name: str) -> None:
    edge = limits[0] * 1.02
    text = [f"token {t} {token_label(tokens[t])}<br>{escape(names[0])} {number(a[t])}<br>{escape(names[1])} {number(b[t])}" for t in which]
    figure.add_scatter(x=np.maximum(a[which], edge), y=np.maximum(b[which], edge), mode="markers", marker=marker, name=name, text=text,
                       hovertemplate="%{text}<extra></extra>", cliponaxis=False)


def _massive_words(a: np.ndarray, b: np.ndarray, heavy: np.ndarray, name_a: str, name_b: str) -> str:
    if not len(heavy):
        return ""
    wins = int((b[heavy] < a[heavy]).sum())
    means = f"means {number(a[heavy].mean())} and {number(b[heavy].mean())}"
    return f" Of {count(len(heavy), 'massive token')}, {name_b} is better on {wins} ({means})."


def _table(a: np.ndarray, b: np.ndarray, known: np.ndarray, is_massive: np.ndarray, tokens: Sequence[str],
           names: tuple[str, str]) -> pd.DataFrame:
    heavy = np.flatnonzero(known & is_massive)[:50]
    gap = np.where(known, np.abs(a - b), -1)
    others = [t for t in np.argsort(-gap, kind="stable") if known[t] and t not in set(heavy)][:30]
    return pd.DataFrame([{"token index": int(t), "token": visible(tokens[t]), "massive": bool(is_massive[t]), f"{names[0]} (A)": a[t],
                          f"{names[1]} (B)": b[t]} for t in (*heavy, *others)])
