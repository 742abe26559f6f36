"""Token strip: the text itself, each token coloured by a number, massive tokens marked.

HTML, not Plotly, so that any script wraps, can be selected and is read by a screen reader. A token's box is coloured on a log scale
(cividis) with black or white letters, whichever stands out more, so it reads the same on a light and on a dark page. Massive tokens have
a thick vermilion border and a diamond. Spaces are ·, line breaks ↵.

Source: the coloured texts of Neuronpedia and CircuitsVis, with numbers about precision instead of features.
"""

import html
from collections.abc import Collection, Sequence

import numpy as np

from rotviz.plots.palette import VERMILION
from rotviz.plots.pool import cleaned
from rotviz.plots.words import check_tokens, count, number, visible

LIMIT = 2048
_CIVIDIS = ("#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838")
_DIAMOND = f"<span aria-hidden='true' style='color:{VERMILION};background:#FFFFFF;border-radius:3px;margin-inline-end:0.2em'>◆</span>"
_BAR = "<span style='display:inline-block;width:120px;height:0.8em;border-radius:3px;background:linear-gradient(to right,{})'></span>"


def draw_token_strip(
    tokens: Sequence[str], values: np.ndarray | None = None, massive: Collection[int] = (), *, what: str = "value", log: bool = True,
    value_min: float | None = None, value_max: float | None = None, limit: int = LIMIT,
) -> str:
    """HTML of the text, tokens coloured by values [T] and massive ones marked.

    Args:
        values: a number for each token; None = no colours.
        massive: the indices of massive tokens.
        what: the number's name, for titles and the legend.
        log: colour on a log scale.
        value_min, value_max: limits of the colour scale in data units, to share between strips.
        limit: tokens shown at most; the strip says how many it leaves out.
    """
    numbers = cleaned(values, 1, "values")[0] if values is not None else None
    if numbers is not None:
        check_tokens(tokens, len(numbers))
    if not len(tokens):
        return "<p>Nothing to show: 0 tokens.</p>"
    low, high = _limits(numbers, log, value_min, value_max)
    marked = set(int(i) for i in massive)
    shown = range(min(len(tokens), limit))
    boxes = "".join(_box(i, tokens[i], None if numbers is None else float(numbers[i]), i in marked, what, low, high, log) for i in shown)
    label = html.escape(_summary(tokens, numbers, marked, what), quote=True)
    rest = f"<p style='margin:0.4em 0 0'>… and {count(len(tokens) - limit, 'more token')}.</p>" if len(tokens) > limit else ""
    legend = _legend(numbers is not None, bool(marked), what, low, high, log)
    return (f"{legend}<div role='list' aria-label=\"{label}\" dir='auto' style='line-height:2.1;overflow-wrap:anywhere;white-space:normal;"
            f"font-size:15px'>{boxes}</div>{rest}")


def _limits(numbers: np.ndarray | None, log: bool, low: float | None, high: float | None) -> tuple[float, float]:
    finite = numbers[np.isfinite(numbers)] if numbers is not None else np.empty(0)
    if log:
        finite = finite[finite > 0]
    bottom = low if low is not None else float(finite.min()) if finite.size else 0.1
    top = high if high is not None else float(finite.max()) if finite.size else 1.0
    bottom = max(bottom, top * 1e-7, 1e-300) if log else bottom
    return bottom, top if top > bottom else bottom + (abs(bottom) or 1.0)


def _colour(value: float, low: float, high: float, log: bool) -> str:
    if log:
        value, low, high = (float(np.log(max(v, 1e-300))) for v in (value, low, high))
    place = min(max((value - low) / (high - low), 0.0), 1.0)
    return _CIVIDIS[min(int(place * len(_CIVIDIS)), len(_CIVIDIS) - 1)]


def _ink(background: str) -> str:
    """Black or white, whichever has more contrast with the background."""
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"


def _box(index: int, token: str, value: float | None, massive: bool, what: str, low: float, high: float, log: bool) -> str:
    has = value is not None and np.isfinite(value)
    said = f"token {index} “{visible(token)}”" + (f", {what} {number(value)}" if value is not None else "")
    said += ", massive" if massive else ""
    style = "display:inline-block;max-width:100%;white-space:pre-wrap;padding:0 0.18em;margin:0 1px;border-radius:4px;line-height:1.5;"
    if has and value is not None:
        background = _colour(value, low, high, log)
        style += f"background:{background};color:{_ink(background)};"
    style += f"border:3px solid {VERMILION};" if massive else "border:1px solid rgba(128,128,128,0.45);"
    mark = _DIAMOND if massive else ""
    title = html.escape(said, quote=True)
    text = f"<bdi>{html.escape(visible(token))}</bdi>"
    line_break = "<br>" * min(token.count("\n"), 3)
    return f'<span role="listitem" title="{title}" aria-label="{title}" style="{style}">{mark}{text}</span>{line_break}'


def _legend(coloured: bool, marked: bool, what: str, low: float, high: float, log: bool) -> str:
    parts = []
    if coloured:
        scale = f"{number(low)}&nbsp;{_BAR.format(','.join(_CIVIDIS))}&nbsp;{number(high)}"
        parts.append(f"<span>{html.escape(what)}{' (log scale)' if log else ''}: {scale}</span>")
    if marked:
        parts.append(f"<span><span style='color:{VERMILION}'>◆</span> massive token</span>")
    style = "display:flex;gap:1.5em;flex-wrap:wrap;font-size:13px;margin-bottom:0.4em"
    return f"<div aria-hidden='true' style='{style}'>{''.join(parts)}</div>" if parts else ""


def _summary(tokens: Sequence[str], numbers: np.ndarray | None, massive: set[int], what: str) -> str:
    words = f"Text of {count(len(tokens), 'token')}"
    if numbers is not None and np.isfinite(numbers).any():
        top = int(np.nanargmax(numbers))
        words += f"; largest {what} {number(numbers[top])} at token {top}"
    return words + (f"; {count(len(massive), 'massive token')}" if massive else "")
