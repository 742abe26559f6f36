"""What every number format needs: the scale of a group, and rounding with a gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scale:
    """What turns a number into a code and back: `step` [..., 1] and the code of zero, `zero` [..., 1] (0 when symmetric).

    exponent: of a power grid, one for the tensor; None for every other.
    """

    step: Tensor
    zero: Tensor
    exponent: Tensor | None = None

    def group(self, index: int) -> "Scale":
        """The scale of one group of [..., groups, 1], its axis gone: [..., 1]."""
        return Scale(self.step[..., index, :], self.zero[..., index, :], self.exponent)


def round_through(x: Tensor) -> Tensor:
    """round(x) with the gradient of x (the straight-through estimator)."""
    return x + (x.round() - x).detach()


def divided(x: Tensor, number: float) -> Tensor:
    """x / number, correctly rounded on every device: by a Python number torch divides on a CPU, and multiplies with the rounded reciprocal on a
    GPU, where half of all 4-bit steps would be one unit in the last place away (torch's BinaryDivTrueKernel.cu)."""
    return x / torch.full_like(x, number)


def without_zeros(step: Tensor) -> Tensor:
    """A group of zeros has no range; any step reads it back as zero, 1 among them. (A group with a NaN keeps the step NaN.)"""
    return torch.where(step == 0, torch.ones_like(step), step)
