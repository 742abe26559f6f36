"""DFRot: a rotation refined for massive tokens (arXiv 2412.00648, COLM 2025).

Randomized Hadamard rotations beat random orthogonal ones on massive tokens alone: a few spikes become a few levels that a 4-bit grid holds, where a
Haar rotation makes them Gaussian. Such tokens are rare and decide. DFRot makes them count,

    min over orthogonal R of  sum_ordinary |x R - Q(x R)|^2 + gamma^2 sum_massive |x R - Q(x R)|^2

and alternates: with R fixed, round, T = Q(X R); with T fixed, the best R is the orthogonal Procrustes solution for X^T W T (numerics/procrustes.py).
A token is massive when rounding it *un-rotated* loses little (numerics/massive.py). One calibration window is enough; only R1 is learned.

Defaults are the paper's: gamma 100, 100 iterations, from a randomized Hadamard matrix, one window of 2,048 tokens, all norm outputs of all blocks.
Departures: the grid may be the one that is evaluated (`grid`; the released code always aims at the symmetric one), and the best R by the
weighted loss is kept (the code accepts every step: rounding to a moving grid can make a step worse). Rows are never gathered: X^T W T adds
up site by site.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from rotviz.config import setting
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS, Learned, LearningStep, LearningTask, Specs
from rotviz.rotations.alternation import Alternation
from rotviz.rotations.learning import R1_SITES, START_HELP, bits_near, build_start, evaluated_grid, sampled
from rotviz.types import QuantSpec, Slot


@ROTATIONS.register("dfrot")
@dataclass(frozen=True, slots=True)
class DFRot:
    """Weighted alternating quantization and Procrustes."""

    summary: ClassVar[str] = "R1 refined so that massive tokens round well: alternates rounding and weighted orthogonal Procrustes on one window."
    learned_slots: ClassVar[tuple[Slot, ...]] = (Slot.R1,)

    start: str = setting("hadamard", START_HELP)
    gamma: float = setting(100.0, "weight of massive tokens (its square multiplies their error); 1 = all alike", minimum=0)
    iterations: int = setting(100, "rounds of rounding and Procrustes", minimum=0)
    windows: int = setting(1, "calibration windows that are looked at", minimum=1)
    grid: str = setting("evaluated", "grid that is aimed at: the one activations are rounded to, or the paper's symmetric one",
                        choices=("evaluated", "symmetric"))
    bits: int = setting(4, "bits of that grid, whatever bits activations have (a format with bits of its own keeps them)", minimum=2, maximum=8)

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """Where learning starts."""
        return build_start(self.start, slot, size, generator)

    def scope(self, specs: Specs) -> Mapping[str, Any]:
        """The grid that is aimed at."""
        return {"grid": repr(self._grid(specs))}

    def learn(self, task: LearningTask) -> Generator[LearningStep, None, Learned]:
        """Sample every token of a few windows, then alternate."""
        if task.plan.r1 is None:
            return Learned(task.plan, 0, "R1 0")
        few = replace(task, windows=task.windows[:self.windows])
        sample = yield from sampled(few, 1.0, R1_SITES, 0.3)
        alternation = Alternation(task, sample, self._grid(task.specs), self.gamma, self.iterations, "DFRot")
        r1 = yield from alternation.improve(task.plan.r1.dense(), (0.3, 1.0))
        note = () if alternation.massive else ("no token of the calibration windows is massive in DFRot's sense: nothing was weighted",)
        return Learned(replace(task.plan, r1=r1), sample.tokens, f"R1 {self.iterations}", note)

    def _grid(self, specs: Specs) -> QuantSpec:
        if self.grid == "symmetric":
            return QuantSpec(self.bits, symmetric=True)
        grid = evaluated_grid(specs)
        return replace(grid, bits=bits_near(self.bits, grid.number_format))
