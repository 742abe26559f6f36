"""Who has which color. A method keeps its color, dash and symbol in every figure, so that no legend has to be learnt twice.

The hues are Okabe and Ito's for color-blind readers, a few darkened so that each stands out from a white and from a dark page at
3:1 or more (tests/plots checks this). Color never speaks alone: lines have dashes and symbols as well.
Vermilion with a diamond belongs to massive tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

GREY, BLUE, ORANGE, GREEN = "#868686", "#0072B2", "#C47F00", "#009E73"
PURPLE, SKY, OLIVE, VIOLET, BROWN, VERMILION = "#C4689A", "#3A95D0", "#8C8000", "#7A6FD0", "#A0694B", "#D55E00"

SEQUENTIAL = "Cividis"
LINES = [[0.0, "#4C8FC4"], [0.25, "#8C8000"], [0.6, "#C47F00"], [1.0, "#D55E00"]]  # thin lines: every step stands out from both pages
DIVERGING = [[0.0, "#0072B2"], [0.25, "#6FB1DB"], [0.5, "#E8E8E8"], [0.75, "#E9A06B"], [1.0, "#B84E00"]]

MASSIVE = {"symbol": "diamond", "color": VERMILION, "size": 10, "line": {"color": "#FFFFFF", "width": 1.2}}


@dataclass(frozen=True, slots=True)
class Style:
    """How a series looks: by color, by dash and by symbol."""

    color: str
    dash: str
    symbol: str

    def faded(self, opacity: float) -> str:
        """The color, let through."""
        r, g, b = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({r},{g},{b},{opacity})"


NAMED = {
    "none": Style(GREY, "solid", "circle"), "float": Style(GREY, "solid", "circle"),
    "orthogonal": Style(ORANGE, "dash", "square"), "hadamard": Style(BLUE, "solid", "star"),
    "dartquant": Style(GREEN, "dashdot", "triangle-up"), "dfrot": Style(PURPLE, "longdash", "cross"),
    "spinquant": Style(SKY, "dot", "x"), "peak": Style(VIOLET, "dash", "hexagon"),
    "rtn": Style(OLIVE, "solid", "circle"), "gptq": Style(VIOLET, "dash", "square"),
    "omniquant": Style(BROWN, "dashdot", "triangle-up"), "rounding": Style(GREEN, "longdash", "cross"),
    "attn_in": Style(BLUE, "solid", "circle"), "o_in": Style(ORANGE, "dash", "square"),
    "mlp_in": Style(GREEN, "dashdot", "triangle-up"), "down_in": Style(PURPLE, "longdash", "cross"),
    "key": Style(SKY, "dot", "x"), "value": Style(OLIVE, "longdashdot", "triangle-down"), "resid": Style(GREY, "solid", "circle"),
}

SPARE = (
    Style(BLUE, "solid", "circle"), Style(ORANGE, "dash", "square"), Style(GREEN, "dashdot", "triangle-up"),
    Style(PURPLE, "longdash", "cross"), Style(SKY, "dot", "x"), Style(OLIVE, "longdashdot", "triangle-down"),
    Style(VIOLET, "dash", "hexagon"), Style(BROWN, "dot", "star"), Style(GREY, "dashdot", "pentagon"),
)

LOOKS = tuple(Style(one.color, other.dash, other.symbol)
              for k in range(len(SPARE)) for one, other in zip(SPARE, SPARE[k:] + SPARE[:k]))
"""The spare styles, then their colors with each other's dashes and symbols."""


def styles_for(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name: its own when the name is known, else one that nobody else in the figure has (while they last)."""
    ordered = list(dict.fromkeys(str(n) for n in names))
    styles = {n: NAMED[n.lower()] for n in ordered if n.lower() in NAMED}
    for name in ordered:
        if name in styles:
            continue
        colors, looks = {s.color for s in styles.values()}, {(s.color, s.symbol) for s in styles.values()}
        free = [s for s in SPARE if s.color not in colors] or [s for s in LOOKS if (s.color, s.symbol) not in looks]
        styles[name] = free[0] if free else LOOKS[len(styles) % len(LOOKS)]
    return styles


def style_of(name: str) -> Style:
    """The style of one method; an unknown name looks like the first spare one."""
    return styles_for([name])[str(name)]
