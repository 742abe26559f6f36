"""Tokens and numbers as text that is safe and legible in a figure.

Plotly reads a few HTML tags, entities and $TeX$ in every label, so text that came from a model or a user goes through `escape`.
White space in tokens is made visible: a space is ·, a line break ↵, a tab ⇥, an empty token ∅, a piece of the character before ⋯.
"""

import html
import math
import textwrap
import unicodedata
from collections.abc import Sequence

from rotviz.errors import BadInput
from rotviz.types import CONTINUED

_MARKS = {" ": "·", "\u00a0": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u200b": "·", CONTINUED: "⋯"}

_JOINER = "\u200d"
_SKIN_TONES = "🏻🏼🏽🏾🏿"


def visible(token: str) -> str:
    """The token with its white space and control characters shown."""
    if token == "":
        return "∅"
    return "".join(_MARKS.get(c) or (f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c) for c in token)


def units(tokens: Sequence[str]) -> list[range]:
    """Ranges of tokens that only make sense together: the pieces of one character, and marks that join the one before (accents, skin tones)."""
    starts, before = [], ""
    for i, text in enumerate(tokens):
        if i == 0 or not (_joins(text) or before.endswith(_JOINER)):
            starts.append(i)
        before = before if text == CONTINUED else text
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(tokens)])]


def unit_text(tokens: Sequence[str], unit: range) -> str:
    """What the tokens of a unit spell."""
    return "".join(tokens[i] for i in unit if tokens[i] != CONTINUED)


def _joins(text: str) -> bool:
    return text == CONTINUED or (text != "" and (unicodedata.category(text[0]) in ("Mn", "Mc", "Me") or text[0] in _SKIN_TONES or text[0] == _JOINER))


def escape(text: str) -> str:
    """Text that Plotly shows as it is: no tags, no TeX, no template placeholders."""
    return html.escape(str(text), quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def short(text: str, limit: int) -> str:
    """At most `limit` characters, the cut shown by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def token_label(token: str, limit: int = 32) -> str:
    """A token for a hover text or a tick: visible, cut, escaped."""
    return escape(short(visible(token), limit))


def number(value: float) -> str:
    """A number for a reader: four significant digits, thousands separated, powers of ten only when they help."""
    if value is None or not math.isfinite(value):
        return "no number"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def count(n: int, noun: str) -> str:
    """`3 tokens`, `1 token`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def wrapped(text: str, width: int = 48) -> str:
    """Escaped text with line breaks for Plotly, so that it fits below the axes of a figure 360 px wide, as on a phone."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, width))


def check_tokens(tokens: Sequence[str], expected: int) -> None:
    """Raises BadInput unless there is one token text for each row."""
    if len(tokens) != expected:
        raise BadInput(f"{len(tokens)} token texts for {expected} tokens: give one text for each")
