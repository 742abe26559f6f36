"""Token winners: the text itself, each token in the color and with the letter of the method that serves it best.

Rotations spread over tokens unevenly: one that is better on average may lose on the few tokens that every later one attends to. HTML as the token
strip is, and for the same reasons; a method keeps the color that it has in every figure, and its letter says the same without color.

Source: rotviz's own; the colored text is that of Neuronpedia and CircuitsVis.
"""

import html
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from rotviz.plots.palette import styles_for
from rotviz.plots.pool import cleaned
from rotviz.plots.token_boxes import MASSIVE_KEY, box, ink, listed, named
from rotviz.plots.token_strip import LIMIT
from rotviz.plots.words import check_tokens, count, number, unit_text, units


def draw_token_winners(tokens: Sequence[str], values: Mapping[str, np.ndarray], massive: Collection[int] = (), *, what: str = "error",
                       limit: int = LIMIT) -> str:
    """HTML of the text, each token marked by the method with the least of values[method] [T].

    Args:
        massive: the indices of massive tokens.
        what: the number's name, for titles.
        limit: tokens shown at most; the strip says how many it leaves out.
    """
    series = {name: cleaned(found, 1, name)[0] for name, found in values.items()}
    for found in series.values():
        check_tokens(tokens, len(found))
    if not len(tokens) or not series:
        return f"<p>Nothing to show: {count(len(tokens), 'token')}, {count(len(series), 'method')}.</p>"
    names, looks, letters = list(series), styles_for(series), letters_for(list(series))
    table, marked = np.stack(list(series.values())), {int(i) for i in massive}
    best, boxes = winners(table), []
    for unit in units(tokens[:limit]):
        text, heavy = unit_text(tokens, unit), any(i in marked for i in unit)
        total = table[:, list(unit)].mean(axis=1, keepdims=True)
        found = int(winners(total)[0])
        numbers = ", ".join(f"{name} {number(float(v))}" for name, v in zip(names, total[:, 0], strict=True))
        won = f"{names[found]} is best; " if found >= 0 else ""
        said = f"{named(unit, text)}, {won}{what}: {numbers}" + (", massive" if heavy else "")
        boxes.append(box(text, said, looks[names[found]].color if found >= 0 else None, heavy, letters[names[found]] if found >= 0 else ""))
    counts = {name: int((best == i).sum()) for i, name in enumerate(names)}
    label = f"Text of {count(len(tokens), 'token')} by the method that serves each best: " + ", ".join(f"{n} {c}" for n, c in counts.items())
    legend = [_key(name, letters[name], looks[name].color, counts[name]) for name in names] + ([MASSIVE_KEY] if marked else [])
    rest = f"… and {count(len(tokens) - limit, 'more token')}." if len(tokens) > limit else ""
    return listed(boxes, label, legend, rest)


def winners(table: np.ndarray) -> np.ndarray:
    """For each column of table [methods, T] the row with the least number, the first of equals; -1 where none is finite."""
    known = np.isfinite(table)
    return np.where(known.any(axis=0), np.where(known, table, np.inf).argmin(axis=0), -1)


def letters_for(names: Sequence[str]) -> dict[str, str]:
    """A letter for each name: its first, or a number where that is taken."""
    found: dict[str, str] = {}
    for i, name in enumerate(names):
        letter = name[:1].upper()
        found[name] = letter if letter and letter not in found.values() else str(i + 1)
    return found


def _key(name: str, letter: str, color: str, wins: int) -> str:
    style = f"background:{color};color:{ink(color)};border-radius:4px;padding:0 0.35em;font-weight:700"
    return f"<span style='{style}'>{html.escape(letter)}</span> {html.escape(name)} ({count(wins, 'token')})"
