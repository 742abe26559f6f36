"""What rounding a weight is thought to cost the model's loss, before anything is rounded.

    first order   sum |g (w - Q_b(w))|                            g = dL/dw, averaged over the calibration windows
    curvature     1/2 sum H (w - Q_b(w))^2                        H = mean g^2, the diagonal of the empirical Fisher matrix
    both          their sum

by output channel, for every number of bits to choose from; a tensor's cost is the sum over its channels. L is the mean next-token loss of the float
model. The two kinds are ways to look, not bounds: with g near 0 at a trained minimum the first is mostly noise of the calibration set, and the
second takes weights as independent. Importance in this form is ours; the paper that proposed it (arXiv 2308.07662) could be read only in its
abstract.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rotviz.allocation import CHOICES, Units
from rotviz.numerics.grids import fake_quantize
from rotviz.types import QuantSpec

KINDS = ("both", "first", "curvature")


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of one weight [N, D]: the mean gradient over the windows, and the mean of its square."""

    mean: Tensor
    square: Tensor


@dataclass
class GradientSums:
    """Adds up a weight's gradients window by window, in float64 where that is cheap and never in less than float32."""

    total: Tensor | None = None
    squares: Tensor | None = None
    count: int = 0

    def add(self, gradient: Tensor) -> None:
        """The gradient [N, D] of one window's mean loss."""
        wide = gradient.detach().float() if gradient.dtype.itemsize < 4 else gradient.detach()
        self.total = wide.clone() if self.total is None else self.total.add_(wide)
        self.squares = wide.square() if self.squares is None else self.squares.addcmul_(wide, wide)
        self.count += 1

    def mean(self) -> Gradient:
        """The averages so far."""
        return Gradient(self.total / self.count, self.squares / self.count)


def row_costs(weight: Tensor, gradient: Gradient, spec: QuantSpec, choices: tuple[int, ...] = CHOICES, kind: str = "both") -> Tensor:
    """The cost of rounding each output channel of a weight [N, D] to each choice of bits: float64 [N, choices]."""
    found = []
    for bits in choices:
        error = (weight - fake_quantize(weight, replace(spec, bits=bits))).double()
        first = (gradient.mean.double() * error).abs().sum(-1)
        curvature = 0.5 * (gradient.square.double() * error.square()).sum(-1)
        found.append({"first": first, "curvature": curvature, "both": first + curvature}[kind])
    return torch.stack(found, dim=-1)


def units_of(weights: Mapping[str, Tensor], costs: Mapping[str, Tensor], by_row: bool, choices: tuple[int, ...] = CHOICES,
             labels: Mapping[str, str] | None = None) -> Units:
    """Units from weights [N, D] and row costs [N, choices], both by name and in the same order: tensors, or with `by_row` output channels.

    `labels` are the units' names, block and roles ("7.down").
    """
    numbers, magnitude, cost, names = [], [], [], []
    for name, weight in weights.items():
        names += [labels[name]] * (len(weight) if by_row else 1) if labels else []
        if by_row:
            numbers.append(torch.full((len(weight),), weight.shape[1], dtype=torch.int64))
            magnitude.append(weight.abs().double().mean(-1))
            cost.append(costs[name])
        else:
            numbers.append(torch.tensor([weight.numel()]))
            magnitude.append(weight.abs().double().mean()[None])
            cost.append(costs[name].sum(0, keepdim=True))
    return Units(torch.cat(numbers), torch.cat(magnitude).cpu(), torch.cat(cost).cpu(), choices, tuple(names))


def bits_by_name(bits: Tensor, weights: Mapping[str, Tensor], by_row: bool) -> dict[str, int | Tensor]:
    """A strategy's answer for `units_of`'s units, by name: a number, or one for each output channel [N]."""
    if not by_row:
        return dict(zip(weights, bits.tolist()))
    return dict(zip(weights, bits.split([len(w) for w in weights.values()])))
