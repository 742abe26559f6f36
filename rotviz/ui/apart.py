"""What the page Weights says of weights alone, activations alone and both: which half a rotation rescues, which it spoils, and what resolves it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rotviz.errors import RotvizError
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.waterfall import NONE, OWN, PLAINEST, Apart, apart, rotation_name
from rotviz.plots.apart import PARTS
from rotviz.reports.runs import dig, result_of
from rotviz.store.runs import RunRecord
from rotviz.ui.weights import LOUDER, short
from rotviz.ui.words import capital

LITTLE = 1e-3
"""Divergences (nats a token) below this are nothing in words: no factor is made of them."""


def rows_of(recipe: Recipe, rotations: Sequence[str], methods: Sequence[str]) -> tuple[list[Apart], list[str]]:
    """Every rotation with every weight method, and why some are left out."""
    found, refused = [], []
    for method in methods:
        for rotation in rotations:
            try:
                found.append(apart(recipe, OWN if rotation == rotation_name(recipe) else rotation, method))
            except RotvizError as error:
                refused.append(f"{rotation} · {method}: {error}")
    return found, list(dict.fromkeys(refused))


def name_of(row: Apart) -> str:
    """`hadamard · gptq`."""
    return f"{row.rotation} · {row.method}"


def divergences(row: Apart, done: Mapping[str, RunRecord]) -> np.ndarray:
    """KL of weights alone, activations alone, both; NaN where there is no result."""
    return np.array([_of(recipe, done, "divergence", "kl_nats") for recipe in row.recipes])


def apart_table(rows: Sequence[Apart], done: Mapping[str, RunRecord]) -> pd.DataFrame:
    """A row for each rotation and method: perplexity of the three, and the median error of the weights where they are rounded."""
    parts = [part.removesuffix(" alone") for part in PARTS]
    return pd.DataFrame([{
        "rotation": row.rotation, "weights": row.method,
        **{f"perplexity, {part}": _of(recipe, done, "perplexity", "quantized", "value") for part, recipe in zip(parts, row.recipes, strict=True)},
        **{f"KL, {part}": value for part, value in zip(parts, divergences(row, done), strict=True)},
        "weights' error, median": weight_error(row, done)} for row in rows])


def weight_error(row: Apart, done: Mapping[str, RunRecord]) -> float:
    """The median relative squared error of a row's weights, in the basis in which they are rounded."""
    record = done.get(row.weights.fingerprint)
    errors = [entry["relative_mse"] for entry in result_of(record)["weight_errors"]] if record else []
    return float(np.median(errors)) if errors else math.nan


def apart_words(rows: Sequence[Apart], done: Mapping[str, RunRecord]) -> str:
    """What each rotation does to either half under plain rounding, why, and which row has the least of both."""
    found = {(row.rotation, row.method): divergences(row, done) for row in rows}
    said = [words for row in rows if row.method == PLAINEST and row.rotation != NONE
            for words in [_against(row, found, {(r.rotation, r.method): weight_error(r, done) for r in rows})] if words]
    known = {name_of(row): found[row.rotation, row.method][2] for row in rows if np.isfinite(found[row.rotation, row.method][2])}
    if len(known) > 1:
        best, worst = min(known, key=known.get), max(known, key=known.get)
        said.append(f"Of the rows with a result for both, **{best}** loses least (KL {short(known[best])}) and {worst} most ({short(known[worst])}).")
    return " ".join(said)


def _against(row: Apart, found: Mapping[tuple[str, str], np.ndarray], errors: Mapping[tuple[str, str], float]) -> str:
    """A rotation against none, both with plainly rounded weights."""
    plain, turned = found.get((NONE, row.method)), found[row.rotation, row.method]
    if plain is None or not (np.isfinite(plain[:2]).all() and np.isfinite(turned[:2]).all()):
        return ""
    weights, inputs = (_change(float(a), float(b)) for a, b in zip(plain[:2], turned[:2], strict=True))
    before, after = errors[NONE, row.method], errors[row.rotation, row.method]
    return (f"**{capital(row.rotation)}** {_done_to('activations', inputs)} (KL {short(plain[1])} → {short(turned[1])}) and "
            f"{_done_to(f'{row.method} weights', weights)} ({short(plain[0])} → {short(turned[0])}). {_why(weights, before, after)}").rstrip()


def _change(before: float, after: float) -> float:
    """How many times as much is lost; what is next to nothing counts as LITTLE."""
    return max(after, LITTLE) / max(before, LITTLE)


def _done_to(half: str, factor: float) -> str:
    if 1 / LOUDER <= factor <= LOUDER:
        return f"hardly changes what {half} lose alone"
    verb, size = ("multiplies", factor) if factor > 1 else ("divides", 1 / factor)
    return f"{verb} what {half} lose alone by {short(size)}"


def _why(factor: float, before: float, after: float) -> str:
    """The weights' own error beside what the model makes of it."""
    if not (math.isfinite(before) and math.isfinite(after)) or factor < LOUDER:
        return ""
    if after > LOUDER * before:
        grown = "from nothing" if before < 1e-9 else f"from {short(before)}"
        return f"The rotated weights fit this grid worse: their median relative error grows {grown} to {short(after)}."
    return (f"Not because the rotated weights fit the grid worse (median relative error {short(before)} → {short(after)}): the norms' gains are "
            "folded into them, so that errors meet the stream's largest channels at full size. The tab *One linear* takes one apart.")


def _of(recipe: Recipe, done: Mapping[str, RunRecord], *path: str) -> float:
    value = dig(getattr(done.get(recipe.fingerprint), "result", None), *path)
    return math.nan if value is None else float(value)
