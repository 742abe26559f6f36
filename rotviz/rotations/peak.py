"""Peak: R1 and R2 learned so that each token's largest number is small, then settled on the grid; rotviz's own method.

A b-bit grid has 2^b levels between a token's extremes, so the step of the grid, and with it the error of every channel, is set by the one largest
number (numerics/objectives.py). Whip and DFRot reach for that indirectly: Whip lifts what is near zero, DFRot moves rows towards the values that
they were rounded to. Here the squared peak itself goes down, smoothed as a p-norm so that a token's several largest numbers share the slope,

    1. min over orthogonal R of  mean over tokens of (sum_i |(x R)_i|^p)^(2/p)              by QR-Orth, p = 8
    2. a few rounds of rounding and weighted Procrustes (DFRot's, gamma 10)                 R1 only

The second phase is DFRot's idea from a better start: from a Hadamard matrix it gains on massive tokens alone, from the bottom of the first phase on
ordinary tokens too. The first token of every window is always among the sampled ones, because a massive token that is not seen is not helped.
What this gains on SmolLM2-135M, and what else was tried, is in docs/decisions/0002-learned-rotations.md.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from rotviz.config import setting
from rotviz.numerics.objectives import peak
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS, Learned, LearningStep, LearningTask, Specs
from rotviz.rotations.alternation import Alternation
from rotviz.rotations.learning import R1_SITES, START_HELP, Watch, build_start, evaluated_grid, sampled, watched_rows
from rotviz.rotations.qr_learner import Schedule, learn_r1, learn_r2
from rotviz.types import Site, Slot


@ROTATIONS.register("peak")
@dataclass(frozen=True, slots=True)
class Peak:
    """The p-norm of rotated tokens by QR-Orth."""

    summary: ClassVar[str] = "R1 and R2 learned from sampled activations so that each token's largest number, which sets its grid, is small."
    learned_slots: ClassVar[tuple[Slot, ...]] = (Slot.R1, Slot.R2)

    start: str = setting("hadamard", START_HELP)
    power: float = setting(8.0, "p of the norm that stands for the peak: higher is nearer to it and less smooth", minimum=2.5, maximum=64)
    steps: int = setting(200, "steps of R1 and of each block's R2 on the peak", minimum=0)
    rounds: int = setting(15, "rounds of rounding and Procrustes on R1 afterwards", minimum=0)
    gamma: float = setting(10.0, "weight of massive tokens in those rounds (its square multiplies their error)", minimum=0)
    batch: int = setting(16_384, "rows in a step of R1", minimum=64)
    share: float = setting(0.1, "share of the calibration tokens that are sampled", minimum=0.0001, maximum=1)
    rate: float = setting(0.0, "learning rate of R1; 0 = found by itself", minimum=0)
    head_rate: float = setting(0.0, "learning rate of R2; 0 = found by itself", minimum=0)

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """Where learning starts."""
        return build_start(self.start, slot, size, generator)

    def scope(self, specs: Specs) -> Mapping[str, Any]:
        """The grid: it says what a peak is, and the last rounds settle on it."""
        return {"grid": repr(evaluated_grid(specs))}

    def learn(self, task: LearningTask) -> Generator[LearningStep, None, Learned]:
        """Sample, then R1 in two phases, then R2 block by block."""
        sample = yield from sampled(task, self.share, (*R1_SITES, Site.O_IN), 0.2, sinks=True)
        schedule = Schedule("Peak", peak(self.power), self.steps, self.batch, self.rate, self.head_rate)
        plan = task.plan
        if plan.r1 is not None:
            watched, grid = watched_rows(task), evaluated_grid(task.specs)
            low = yield from learn_r1(task, sample, schedule, watched, (0.2, 0.65))
            watch = Watch(watched.to(task.source.device), grid)
            settle = Alternation(task, sample, grid, self.gamma, self.rounds, "Peak", "weighted_error", watch)
            plan = replace(plan, r1=(yield from settle.improve(low.dense(), (0.65, 0.75), self.steps + 1)))
        if plan.r2:
            plan = replace(plan, r2=(yield from learn_r2(task, sample, schedule, (0.75, 1.0))))
        return Learned(plan, sample.tokens, f"{self.steps} and {self.rounds} rounds for R1, {self.steps} for each block's R2")
