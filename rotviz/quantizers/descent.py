"""Three ways to step along a gradient, all in the variable's own units: a step is never longer than about the rate.

    sign    v - r sign(g)                      sgd    v - r g / rms(g)
    adam    v - r m / (sqrt(u) + eps),  m and u running means (0.9, 0.999) with Adam's correction of their start       (arXiv 1412.6980)
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

OPTIMIZERS = ("sign", "sgd", "adam")
_MEAN, _SQUARE, _EPS = 0.9, 0.999, 1e-12


@dataclass
class Group:
    """A variable with its rate relative to the others; gradients are zero outside `mask`."""

    variable: Tensor
    relative_rate: float = 1.0
    mask: Tensor | None = None
    moments: list[Tensor] = field(default_factory=list)


class Descent:
    """Steps all variables of a problem."""

    def __init__(self, kind: str, groups: list[Group]) -> None:
        self.kind, self.groups, self.count = kind, groups, 0

    def step(self, loss: Tensor, rate: float) -> None:
        """One step down the loss, in place on the variables. A gradient that is not finite moves nothing."""
        gradients = torch.autograd.grad(loss, [group.variable for group in self.groups], allow_unused=True)
        self.count += 1
        for group, gradient in zip(self.groups, gradients):
            if gradient is None or not bool(torch.isfinite(gradient).all()):
                continue
            if group.mask is not None:
                gradient = gradient * group.mask
            group.variable.data.sub_(self._direction(group, gradient), alpha=rate * group.relative_rate)

    def _direction(self, group: Group, gradient: Tensor) -> Tensor:
        if self.kind == "sign":
            return gradient.sign()
        if self.kind == "sgd":
            return gradient / gradient.square().mean().sqrt().clamp_min(1e-30)
        group.moments = group.moments or [torch.zeros_like(gradient), torch.zeros_like(gradient)]
        mean, square = group.moments
        mean.lerp_(gradient, 1 - _MEAN)
        square.lerp_(gradient.square(), 1 - _SQUARE)
        return (mean / (1 - _MEAN**self.count)) / ((square / (1 - _SQUARE**self.count)).sqrt() + _EPS)
