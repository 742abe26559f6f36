"""Alternating rounding and orthogonal Procrustes on sampled rows: the core of DFRot, and the last phase of Peak.

    T = Q(X R),   R <- argmin over orthogonal R of sum_t w_t |x_t R - t_t|^2 = U V^T,   U S V^T = X^T W T        w = gamma^2 on massive tokens, else 1

The rows are never gathered: X^T W T adds up site by site. Rounding to a grid that moves with R can make a step worse, so the best R is kept.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rotviz.capture.sample import SiteSample
from rotviz.kernels.quantize import fake_quantize
from rotviz.numerics.massive import dfrot_massive_mask
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.numerics.procrustes import procrustes
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import LearningStep, LearningTask
from rotviz.rotations.learning import R1_SITES, Watch, exact
from rotviz.types import QuantSpec, Site


@dataclass
class Alternation:
    """Improve an R1 on a sample.

    Attributes:
        task, sample: what it learns from.
        spec: the grid that is aimed at.
        gamma: weight of massive tokens; its square multiplies their error.
        iterations: how many rounds.
        name: of the method.
        measure: what the weighted error is called in the news.
        watch: what tells the errors of ordinary and massive tokens, where a method has told them before by other rows than the sample's.
        massive: whether the sample has massive tokens; known after `improve`.
    """

    task: LearningTask
    sample: SiteSample
    spec: QuantSpec
    gamma: float
    iterations: int
    name: str
    measure: str = "loss"
    watch: Watch | None = None
    massive: bool = field(default=False)
    _masks: dict[tuple[int, Site], Tensor] = field(default_factory=dict, repr=False)
    """Which rows of a place are massive: known from the rows alone, so found once."""

    def improve(self, start: Tensor, shares: tuple[float, float], first_step: int = 0) -> Generator[LearningStep, None, Rotation]:
        """The best R1 by the weighted loss, from a start [D, D]; the news run between two fractions and count steps from `first_step`."""
        rotation = best = start.to(self.task.source.device, torch.float32)
        lowest = float("inf")
        for done in range(self.iterations + 1):
            errors, product = self._round(rotation)
            if errors[self.measure] < lowest:
                best, lowest = rotation, errors[self.measure]
            fraction = shares[0] + (shares[1] - shares[0]) * done / max(self.iterations, 1)
            told = errors if self.watch is None else {self.measure: errors[self.measure], **self.watch(rotation)}
            yield LearningStep(fraction, f"R1 iteration {done} of {self.iterations}: weighted error {errors[self.measure]:.4g}",
                               {"step": float(first_step + done), **told, "orthogonality": orthogonality_error(rotation)})
            rotation = procrustes(product).float()
        self.massive = "massive" in errors
        return exact(best, self.name)

    def _round(self, rotation: Tensor) -> tuple[dict[str, float], Tensor]:
        """Relative errors of a rotation (weighted, "ordinary", "massive"), and X^T W Q(X R), which the next one comes from."""
        product = torch.zeros_like(rotation, dtype=torch.float64)
        sums = torch.zeros(4, dtype=torch.float64)  # errors and energies of ordinary, of massive tokens
        for place in ((block, site) for block in range(self.sample.blocks) for site in R1_SITES):
            self.task.stop_if_cancelled()
            rows = self.sample.rows(*place).to(rotation.device)
            if place not in self._masks:
                self._masks[place] = dfrot_massive_mask(rows)
            massive = self._masks[place]
            turned = rows @ rotation
            rounded = fake_quantize(turned, self.spec)
            weight = torch.where(massive, self.gamma**2, 1.0).to(rows.dtype)
            product += ((rows * weight[:, None]).T @ rounded).double()
            error, energy = (turned - rounded).square().sum(-1), rows.square().sum(-1)
            sums += torch.stack([x[mask].sum(dtype=torch.float64) for mask in (~massive, massive) for x in (error, energy)]).cpu()
        ordinary, ordinary_energy, massive, massive_energy = sums.tolist()
        loss = (ordinary + self.gamma**2 * massive) / max(ordinary_energy + self.gamma**2 * massive_energy, 1e-300)
        named = {"ordinary": (ordinary, ordinary_energy), "massive": (massive, massive_energy)}
        return {self.measure: loss} | {name: error / energy for name, (error, energy) in named.items() if energy}, product
