"""Token strip: the text itself, each token colored by a number, massive tokens marked.

HTML, not Plotly, so that any script wraps, can be selected and is read by a screen reader. A token's box is colored on a log scale
(cividis) with black or white letters, whichever stands out more, so it reads the same on a light and on a dark page. Massive tokens have
a thick vermilion border and a diamond. Spaces are ·, line breaks ↵. Tokens that are pieces of one character share a box, which has the color of the
largest number among them and says them all.

Source: the colored texts of Neuronpedia and CircuitsVis, with numbers about precision instead of features.
"""

import html
from collections.abc import Collection, Sequence

import numpy as np

from rotviz.plots.pool import cleaned
from rotviz.plots.token_boxes import MASSIVE_KEY, box, listed, named
from rotviz.plots.words import check_tokens, count, number, unit_text, units

LIMIT = 2048
_CIVIDIS = ("#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838")
_BAR = "<span style='display:inline-block;width:120px;height:0.8em;border-radius:3px;background:linear-gradient(to right,{})'></span>"


def draw_token_strip(
    tokens: Sequence[str], values: np.ndarray | None = None, massive: Collection[int] = (), *, what: str = "value", log: bool = True,
    value_min: float | None = None, value_max: float | None = None, first: int = 0, chosen: int | None = None, limit: int = LIMIT,
) -> str:
    """HTML of the text, tokens colored by values [T] and massive ones marked.

    Args:
        values: a number for each token; None = no colors.
        massive: the indices of massive tokens.
        what: the number's name, for titles and the legend.
        log: color on a log scale.
        value_min, value_max: limits of the color scale in data units, to share between strips.
        first: the number of the first token, where the strip is a part of a text; `massive` and `chosen` count as the whole text does.
        chosen: a token that is looked at: underlined.
        limit: tokens shown at most; the strip says how many it leaves out.
    """
    numbers = cleaned(values, 1, "values")[0] if values is not None else None
    if numbers is not None:
        check_tokens(tokens, len(numbers))
    if not len(tokens):
        return "<p>Nothing to show: 0 tokens.</p>"
    low, high = _limits(numbers, log, value_min, value_max)
    marked = set(int(i) for i in massive if first <= i < first + len(tokens))
    boxes = []
    for unit in units(tokens[:limit]):
        text, known = unit_text(tokens, unit), [] if numbers is None else [float(numbers[i]) for i in unit]
        where = range(first + unit[0], first + unit[-1] + 1)
        heavy, here = any(i in marked for i in where), chosen in where
        said = named(where, text) + (f", {what} {', '.join(number(v) for v in known)}" if known else "") + (", massive" if heavy else "")
        finite = [v for v in known if np.isfinite(v)]
        boxes.append(box(text, said + (", the chosen one" if here else ""), _color(max(finite), low, high, log) if finite else None, heavy,
                         chosen=here))
    rest = f"… and {count(len(tokens) - limit, 'more token')}." if len(tokens) > limit else ""
    legend = _legend(numbers is not None, bool(marked), what, low, high, log)
    return listed(boxes, _summary(tokens, numbers, marked, what, first), legend, rest)


def _limits(numbers: np.ndarray | None, log: bool, low: float | None, high: float | None) -> tuple[float, float]:
    finite = numbers[np.isfinite(numbers)] if numbers is not None else np.empty(0)
    if log:
        finite = finite[finite > 0]
    bottom = low if low is not None else float(finite.min()) if finite.size else 0.1
    top = high if high is not None else float(finite.max()) if finite.size else 1.0
    bottom = max(bottom, top * 1e-7, 1e-300) if log else bottom
    return bottom, top if top > bottom else bottom + (abs(bottom) or 1.0)


def _color(value: float, low: float, high: float, log: bool) -> str:
    if log:
        value, low, high = (float(np.log(max(v, 1e-300))) for v in (value, low, high))
    place = min(max((value - low) / (high - low), 0.0), 1.0)
    return _CIVIDIS[min(int(place * len(_CIVIDIS)), len(_CIVIDIS) - 1)]


def _legend(colored: bool, marked: bool, what: str, low: float, high: float, log: bool) -> list[str]:
    parts = []
    if colored:
        scale = f"{number(low)}&nbsp;{_BAR.format(','.join(_CIVIDIS))}&nbsp;{number(high)}"
        parts.append(f"{html.escape(what)}{' (log scale)' if log else ''}: {scale}")
    return [*parts, MASSIVE_KEY] if marked else parts


def _summary(tokens: Sequence[str], numbers: np.ndarray | None, marked: set[int], what: str, first: int) -> str:
    words = f"Text of {count(len(tokens), 'token')}"
    if numbers is not None and np.isfinite(numbers).any():
        top = int(np.nanargmax(numbers))
        words += f"; largest {what} {number(numbers[top])} at token {first + top}"
    return words + (f"; {count(len(marked), 'massive token')}" if marked else "")
