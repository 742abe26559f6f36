"""What the strips of text share: the box of a token, ink that stands out, the list around them.

A box is a visible unit: mostly one token, several where they are pieces of one character (rotviz.plots.words.units). Its title and its label say
everything that its color says.
"""

import html
from collections.abc import Iterable

from rotviz.plots.palette import VERMILION
from rotviz.plots.words import visible

_DIAMOND = f"<span aria-hidden='true' style='color:{VERMILION};background:#FFFFFF;border-radius:3px;margin-inline-end:0.2em'>◆</span>"
_BOX = "display:inline-block;max-width:100%;white-space:pre-wrap;padding:0 0.18em;margin:0 1px;border-radius:4px;line-height:1.5;"


def ink(background: str) -> str:
    """Black or white, whichever has more contrast with the background."""
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"


def box(text: str, said: str, background: str | None, massive: bool, mark: str = "", chosen: bool = False) -> str:
    """One unit of text.

    Args:
        said: title and label.
        background: a color, or None for the page's own.
        massive: with a thick border and a diamond.
        mark: a letter before the text that says what the color says.
        chosen: underlined, as what is looked at.
    """
    style = _BOX + (f"background:{background};color:{ink(background)};" if background else "")
    style += f"border:3px solid {VERMILION};" if massive else "border:1px solid rgba(128,128,128,0.45);"
    style += "text-decoration:underline 3px;text-underline-offset:4px;font-weight:700;" if chosen else ""
    title = html.escape(said, quote=True)
    letter = f"<span aria-hidden='true' style='font-size:12px;font-weight:700;margin-inline-end:0.25em'>{html.escape(mark)}</span>" if mark else ""
    shown = f"{_DIAMOND if massive else ''}{letter}<bdi>{html.escape(visible(text))}</bdi>"
    return f'<span role="listitem" title="{title}" aria-label="{title}" style="{style}">{shown}</span>{"<br>" * min(text.count(chr(10)), 3)}'


def named(unit: range, text: str) -> str:
    """`token 3 “冬”`, `tokens 3–5 “冬”`."""
    return f"{f'token {unit[0]}' if len(unit) == 1 else f'tokens {unit[0]}–{unit[-1]}'} “{visible(text)}”"


def listed(boxes: Iterable[str], label: str, legend: Iterable[str], left_out: str = "") -> str:
    """The boxes as a list with its label, the legend above it and what is left out below."""
    parts = "".join(f"<span>{part}</span>" for part in legend)
    style = "display:flex;gap:1.5em;flex-wrap:wrap;font-size:13px;margin-bottom:0.4em"
    above = f"<div aria-hidden='true' style='{style}'>{parts}</div>" if parts else ""
    below = f"<p style='margin:0.4em 0 0'>{left_out}</p>" if left_out else ""
    return (f"{above}<div role='list' aria-label=\"{html.escape(label, quote=True)}\" dir='auto' style='line-height:2.1;overflow-wrap:anywhere;"
            f"white-space:normal;font-size:15px'>{''.join(boxes)}</div>{below}")


MASSIVE_KEY = f"<span style='color:{VERMILION}'>◆</span> massive token"
