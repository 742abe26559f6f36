"""DartQuant: rotations calibrated by the distribution of activations (arXiv 2511.04063, NeurIPS 2025).

No loss goes through the network. The inputs of the linear layers are sampled once; then, for R1 over all blocks together and for R2 head by head,

    min over orthogonal R of  mean over tokens of sum_i exp(-|(x R)_i|)            Whip

by QR-Orth: a free matrix Z takes gradient steps, R is the Q of its QR decomposition (numerics/qr_orth.py). R1 sees what q_proj and up_proj read
(norm outputs without gains), R2 of a key-value head what o_proj reads from its query heads. In memory are one site's rows and a few matrices.

The paper's settings: SGD with momentum 0.9, 10 epochs of batches of 131,072 tokens over a tenth of all tokens, Z from a random Hadamard matrix,
rate by model (table 23). Those rates are the defaults for those models; for others a rate is found by itself: the step is stated as the angle that R
turns by at first, and of a few angles the one whose loss is lowest after a few steps is taken.

Departures, each for a reason: tokens are sampled uniformly over all windows (the released code takes the first tenth of a sorted list), and the
first token of every window is always among them, because a rotation that never saw a massive token may ruin it (`sinks` off = as in the paper); the
rotation that is returned is the one after the last step, and of all checks the best; R2's rows are scaled to a root mean square of 1 first, since
Whip is flat for numbers well below 1 (`normalize` off = as in the paper); an epoch has at least ten steps, so that a small model, whose tenth
fits one batch, takes as many steps as a large one.

`loss` also offers what the paper compares Whip with (its table 22): variance, kurtosis and the quantization error itself.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from rotviz.capture.sample import SiteSample
from rotviz.config import setting
from rotviz.numerics.objectives import OBJECTIVES
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS, Learned, LearningStep, LearningTask, Specs
from rotviz.rotations.learning import R1_SITES, START_HELP, build_start, evaluated_grid, sampled, watched_rows
from rotviz.rotations.qr_learner import Schedule, learn_r1, learn_r2
from rotviz.types import Site, Slot

PUBLISHED_RATES = {(4096, 32, 32): 0.002, (5120, 40, 40): 0.01, (8192, 80, 8): 0.001, (4096, 32, 8): 0.008}
"""Table 23, R1 by (width, blocks, key-value heads): Llama-2 7B, 13B, 70B, Llama-3 8B. Llama-3 70B (0.003) has the shape of Llama-2 70B."""
EPOCH_STEPS = 10
"""Steps that an epoch has at least."""


@ROTATIONS.register("dartquant")
@dataclass(frozen=True, slots=True)
class DartQuant:
    """Whip by QR-Orth on sampled activations."""

    summary: ClassVar[str] = "R1 and R2 learned from sampled activations alone, so that few numbers stay near zero (Whip loss, QR-Orth)."
    learned_slots: ClassVar[tuple[Slot, ...]] = (Slot.R1, Slot.R2)

    loss: str = setting("whip", "what is minimized", choices=tuple(OBJECTIVES))
    start: str = setting("hadamard", START_HELP)
    optimizer: str = setting("sgd", "how the free matrix moves", choices=("sgd", "adam"))
    rate: float = setting(0.0, "learning rate of R1; 0 = the paper's for its models, else found by itself", minimum=0)
    head_rate: float = setting(0.0, "learning rate of R2; 0 = found by itself (the paper's is 0.001 without normalize)", minimum=0)
    momentum: float = setting(0.9, "momentum of sgd", minimum=0, maximum=0.999)
    epochs: int = setting(10, "passes over the sampled tokens", minimum=0)
    batch: int = setting(131_072, "rows in a step of R1", minimum=64)
    share: float = setting(0.1, "share of the calibration tokens that are sampled", minimum=0.0001, maximum=1)
    normalize: bool = setting(True, "scale R2's rows to unit root mean square, where Whip has a slope")
    sinks: bool = setting(True, "always sample the first token of every window, where massive tokens are; off = uniformly, as in the paper")

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """Where learning starts."""
        return build_start(self.start, slot, size, generator)

    def scope(self, specs: Specs) -> Mapping[str, Any]:
        """Whip knows no grid; the quantization loss aims at the activations' one."""
        return {"grid": repr(evaluated_grid(specs))} if self.loss == "quantization" else {}

    def learn(self, task: LearningTask) -> Generator[LearningStep, None, Learned]:
        """Sample, then R1, then R2 block by block."""
        sample = yield from sampled(task, self.share, (*R1_SITES, Site.O_IN), 0.2, self.sinks)
        plan, schedule = task.plan, self._schedule(task, sample)
        if plan.r1 is not None:
            plan = replace(plan, r1=(yield from learn_r1(task, sample, schedule, watched_rows(task), (0.2, 0.75))))
        if plan.r2:
            plan = replace(plan, r2=(yield from learn_r2(task, sample, schedule, (0.75, 1.0))))
        return Learned(plan, sample.tokens, f"{schedule.steps} for R1, {schedule.steps} for each block's R2")

    def _schedule(self, task: LearningTask, sample: SiteSample) -> Schedule:
        per_epoch = max(EPOCH_STEPS, sample.tokens * len(R1_SITES) * sample.blocks // self.batch)
        width = task.plan.r1.size if task.plan.r1 is not None else 0
        published = PUBLISHED_RATES if (self.loss, self.optimizer) == ("whip", "sgd") else {}  # Whip's gradient is a thousand times variance's
        rate = self.rate or published.get((width, sample.blocks, sample.kv_heads), 0.0)
        return Schedule(f"DartQuant ({self.loss})", OBJECTIVES[self.loss], self.epochs * per_epoch, self.batch, rate, self.head_rate,
                        self.optimizer, self.momentum, self.normalize)
