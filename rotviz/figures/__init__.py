"""The figures of the papers, one file each: from a model, a text and a block (or from finished runs) to panels with locked axes.

    from rotviz.figures import Subject
    from rotviz.figures.make import make

    made = make("channel-ribbons", Subject(Look(model="smollm2-135m"), block=12), {"rotations": ["none", "hadamard"]})
    made.caption, made.protocol, made.drawing.figure

A preset is a frozen configuration with a registered name, the paper that it follows, and `draw`. What it draws is measured on the capture of the
chosen model and text, or read from stored runs; the figure itself is one of rotviz/plots. Streamlit is not needed: the page Figures and the
command `rotviz figure` call the same function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol

import numpy as np

from rotviz.capture.capture import Capture
from rotviz.capture.inspect import Look
from rotviz.errors import BadInput, unknown
from rotviz.evaluation.sites import Turn, site_rows
from rotviz.pipeline.saved import saved_rotations
from rotviz.plots.drawing import Drawing
from rotviz.registry import Registry
from rotviz.rotations import ROTATIONS, learns
from rotviz.store.runs import RunRecord
from rotviz.types import SITE_WORDS, Site

Say = Callable[[float, str], None]


class Needs(StrEnum):
    """What a figure is made from."""

    SITE = "one site of one block"
    DEPTH = "one site of every block"
    STREAM = "the residual stream of every block"
    WEIGHTS = "one site of one block and the weights that read it"
    RUNS = "finished runs"


@dataclass(frozen=True)
class Subject:
    """What a figure is of. Frozen, so that it can be a cache key.

    Attributes:
        look: model and text.
        block: decoder layer; None = the middle one.
        site: which tensor.
        runs: ids of finished runs, for figures of runs; empty = chosen by the figure from all of the model's.
    """

    look: Look = field(default_factory=Look)
    block: int | None = None
    site: Site = Site.MLP_IN
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One of the figure's frames: what stands over it (nothing where there is one frame only), and the drawing."""

    title: str
    drawing: Drawing


@dataclass(frozen=True)
class Seen:
    """A captured text at one site of one block, as presets read it."""

    capture: Capture
    look: Look
    block: int
    site: Site
    say: Say

    def rows(self, turn: Turn, block: int | None = None, site: Site | None = None) -> np.ndarray:
        """Rows [T, width] under a turn, of this block and site unless others are named."""
        return site_rows(self.capture, self.block if block is None else block, site or self.site, turn).numpy()

    @property
    def texts(self) -> list[str]:
        """The text of each row's token: in a mixture a token has a row of down_in for each of its experts."""
        owners = self.capture.tokens_of_rows(self.block, self.site)
        return list(self.capture.tokens) if owners is None else [self.capture.tokens[t] for t in owners.tolist()]

    def turns(self, names: Sequence[str], seed: int) -> dict[str, Turn]:
        """The rotations of a figure by what they are called in it: the method alone where that tells them apart, for then it has its own color.

        Raises:
            BadInput: no name, one twice, or one that is neither a method nor a rotation saved on this machine.
        """
        if not names or len(set(names)) < len(names):
            raise BadInput(f"rotations = {', '.join(names) or 'nothing'}: name one or more different rotations, such as none,hadamard")
        turns = [turn_of(name, seed, self.look.model) for name in names]
        methods = [turn.method for turn in turns]
        return {turn.method if methods.count(turn.method) == 1 else turn.label: turn for turn in turns}

    @property
    def place(self) -> str:
        """`MLP input (mlp_in) of block 12`."""
        return f"{SITE_WORDS[self.site]} ({self.site}) of block {self.block}"


class CapturePreset(Protocol):
    """A figure of a captured text."""

    title: ClassVar[str]
    paper: ClassVar[str]
    """The figure that it follows, with the paper's arXiv number."""
    words: ClassVar[str]
    """What it shows and how to read it, in one or two sentences."""
    needs: ClassVar[Needs]

    def draw(self, seen: Seen) -> list[Panel]:
        """The panels. Raises BadInput where the figure has no meaning for what is looked at; says what would work."""


class RunsPreset(Protocol):
    """A figure of finished runs; title, paper, words and needs as above."""

    title: ClassVar[str]
    paper: ClassVar[str]
    words: ClassVar[str]
    needs: ClassVar[Needs]

    def choose(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Those that belong in one figure, of all finished runs of a model, newest first."""

    def draw(self, records: Sequence[RunRecord]) -> list[Panel]:
        """The panels."""


FIGURES: Registry[type[CapturePreset] | type[RunsPreset]] = Registry("figure", package="rotviz.figures")


def of_runs(preset: object) -> bool:
    """Whether a figure (class or configuration) is made from runs and not from a text."""
    return preset.needs is Needs.RUNS  # type: ignore[attr-defined]


def unlearned() -> list[str]:
    """The rotations that every model has: methods that do not learn."""
    return [name for name, method in ROTATIONS.items() if not learns(method)]


def turn_of(name: str, seed: int, model: str) -> Turn:
    """A rotation by its name: a method that does not learn, or the title or the last four letters of one saved for this model.

    Raises:
        UnknownName: there is no such rotation.
    """
    if name in unlearned():
        return Turn(name, seed)
    saved = saved_rotations(model)
    for one in saved:
        if name in (one.title, one.mark):
            return Turn(one.method, one.seed, file=str(one.path))
    raise unknown("rotation", name, [*unlearned(), *(one.title for one in saved)])


def in_rms(rows: np.ndarray, wanted: bool = True) -> np.ndarray:
    """Rows in units of their own root mean square: rotations fold a norm's gain away first, so that only ratios compare."""
    size = float(np.sqrt(np.mean(np.square(rows, dtype=np.float64))))
    return rows / np.float32(size) if wanted and size > 0 else rows


def unit_words(rms: bool) -> str:
    """What the numbers of `in_rms` are called."""
    return "activation / rms" if rms else "activation"
