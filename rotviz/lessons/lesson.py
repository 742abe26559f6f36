"""What a lesson is: an idea, its mathematics, a few dials, and a question whose answer is measured on the live numbers.

A lesson knows no page. It gets the material (the rows of one site) and where its dials stand, and says what it found: the question, the
possible answers, which of them is true *here*, and the figures that show why. So nobody can learn an answer by heart: another model, block,
site or dial may have another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.evaluation.lens import sample
from rotviz.evaluation.sites import Turn, massive_rows, rounded, site_rows
from rotviz.numerics.errors import relative_mse
from rotviz.plots.drawing import Drawing
from rotviz.types import QuantSpec, Site

Dials = Mapping[str, Any]
Figure = tuple[Drawing, str]
"""A drawing and the sentence that says how to read it."""


@dataclass(frozen=True)
class Dial:
    """One control of a lesson. With options it is a choice among them, with a boolean default a switch, else a slider from low to high."""

    key: str
    label: str
    default: Any
    low: float = 0
    high: float = 0
    step: float = 1
    options: tuple[str, ...] = ()
    help: str = ""


@dataclass(frozen=True)
class Finding:
    """What a lesson measured.

    Attributes:
        question, answers, right: the question, its answers, and the place of the true one.
        why: what was measured and why it came out so, for after the guess.
        before: figures that may be seen before guessing.
        after: those that reveal.
    """

    question: str
    answers: tuple[str, ...]
    right: int
    why: str
    before: tuple[Figure, ...]
    after: tuple[Figure, ...]


@dataclass(frozen=True)
class Lesson:
    """A lesson of one screen: `idea` in three sentences, `formulas` in TeX, `notes` for whoever speaks."""

    name: str
    title: str
    idea: str
    formulas: tuple[str, ...]
    dials: tuple[Dial, ...]
    find: Callable[["Material", Dials], Finding]
    notes: str


@dataclass(frozen=True)
class Material:
    """The rows of one site that a lesson looks at: an even sample, every massive token among them.

    Behind a norm the rows are without its gain, as a rotation finds them.

    Attributes:
        rows: [T, width] float32.
        texts: the text of the token of each row.
        positions: which rows of the capture these are.
        massive: which rows belong to massive tokens.
        stand_in: whether none was massive, so that the row with the largest peak stands in for one.
    """

    capture: Capture
    block: int
    site: Site
    rows: Tensor
    texts: tuple[str, ...]
    positions: np.ndarray
    massive: np.ndarray
    stand_in: bool

    def turned(self, method: str, seed: int = 0) -> Tensor:
        """The same rows under a rotation."""
        if method == "none":
            return self.rows
        return site_rows(self.capture, self.block, self.site, Turn(method, seed))[torch.from_numpy(self.positions)]

    def error(self, rows: Tensor, spec: QuantSpec, which: np.ndarray | None = None) -> float:
        """The share of energy that rounding loses, as a run would round here; of some rows only."""
        if which is not None:
            rows = rows[torch.from_numpy(which)]
        return relative_mse(rows, rounded(rows, self.site, spec, self.capture.head_width)) if len(rows) else float("nan")

    @property
    def ordinary(self) -> np.ndarray:
        """Which rows are not massive."""
        return ~self.massive

    @property
    def heaviest(self) -> int:
        """The row of a massive token with the largest peak."""
        peaks = peak_ratios(self.rows).numpy().copy()
        peaks[~self.massive] = -1
        return int(peaks.argmax())


def material(capture: Capture, block: int, site: Site) -> Material:
    """The rows of a site for a lesson."""
    rows, massive = capture.site(block, site, folded=True), massive_rows(capture, block, site)
    kept = sample(massive, rows.shape[1])
    owners = capture.tokens_of_rows(block, site)
    texts = tuple(capture.tokens[t if owners is None else int(owners[t])] for t in kept)
    rows, massive = rows[torch.from_numpy(kept)].contiguous(), massive[kept]
    stand_in = not massive.any()
    if stand_in:
        massive = np.zeros_like(massive)
        massive[int(peak_ratios(rows).argmax())] = True
    return Material(capture, block, site, rows, texts, kept, massive, stand_in)


def peak_ratios(rows: Tensor) -> Tensor:
    """max|x| / rms of every row."""
    return rows.abs().amax(-1) / rows.square().mean(-1).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)


def typical(rows: Tensor, which: np.ndarray) -> int:
    """The row, among some, whose peak ratio is the median."""
    places = np.flatnonzero(which)
    ratios = peak_ratios(rows)[torch.from_numpy(places)].numpy()
    return int(places[np.argsort(ratios, kind="stable")[len(places) // 2]])


def nearest(value: float, candidates: Sequence[float]) -> int:
    """The place of the candidate that comes nearest as a factor."""
    return min(range(len(candidates)), key=lambda i: abs(log(max(value, 1e-12)) - log(candidates[i])))


def percent(share: float) -> str:
    """A share of energy with two digits."""
    return (f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.2g}") + "\u00a0%"


def with_bits(bits: int, symmetric: bool = True, clip: float = 1.0) -> QuantSpec:
    """A grid for each token."""
    return replace(QuantSpec(), bits=int(bits), symmetric=symmetric, clip=float(clip))
