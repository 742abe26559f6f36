"""Color scales of the maps. On a log scale the cells hold log10 of the value, the color bar's ticks and the hover the value itself."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rotviz.plots.frame import SMALL, decades, tick_words
from rotviz.plots.words import escape

DECADES = 7  # a log scale reaches at most this far below its top


@dataclass(frozen=True)
class Heat:
    """What a heat map trace needs: color numbers, their limits, the color bar."""

    z: np.ndarray
    low: float
    high: float
    bar: dict[str, Any]


def heat(values: np.ndarray, title: str, *, log: bool, color_max: float | None, color_min: float | None = None) -> Heat:
    """Colors for magnitudes (not negative); NaN stays empty. Limits are in data units."""
    finite = values[np.isfinite(values)]
    top = color_max or (float(finite.max()) if finite.size else 1.0) or 1.0
    bar: dict[str, Any] = {"title": {"text": escape(title), "side": "right", "font_size": 13}, "thickness": 14, "tickfont_size": SMALL,
                           "outlinewidth": 0, "xpad": 6}
    if not log or not (finite > 0).any():
        return Heat(values.astype(np.float32), color_min or 0.0, top, bar)
    positive = finite[finite > 0]
    bottom = color_min or (float(np.quantile(positive, 0.01)) if positive.size else top / 10)
    bottom = min(max(bottom, top * 10.0**-DECADES), top / 1.5)
    with np.errstate(divide="ignore"):
        z = np.log10(np.maximum(values, bottom * 0.1)).astype(np.float32)
    ticks = decades(bottom, top)
    bar |= {"tickvals": list(np.log10(ticks)), "ticktext": [tick_words(t) for t in ticks]}
    return Heat(z, float(np.log10(bottom)), float(np.log10(top)), bar)
