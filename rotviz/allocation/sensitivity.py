"""What rounding a weight is thought to cost the model's loss, before anything is rounded.

    curvature     1/2 sum_ij H_ij e_ij^2        H_ij = E_t[g_ti^2 x_tj^2], the diagonal of the empirical Fisher matrix (K-FAC's independence
                                                of numbers, arXiv 1503.05671); e = w - Q_b(w)
    first order   |sum_j G_ij e_ij|             G = E_t[g_t x_t^T], the mean gradient: Taylor's linear term of each output channel
    both          their sum

by output channel, for every number of bits to choose from; a tensor's cost is the sum over its channels. L is the mean next-token loss of the float
model, x_t what enters the linear, g_t the gradient of token t's loss at its output: costs are nats a token.

Curvature is the default because it won: SmolLM2-135M at 3 bits on average, asymmetric groups of 64, KL 1.00 against 1.07 by both and 1.22 by the
first order alone, where equal bits have 1.39 (benchmarks/results/mixed_precision.json). Near a minimum the mean gradient is mostly noise of the
calibration set. Importance in this form is ours; the paper that proposed it (arXiv 2308.07662) could be read only in its abstract.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rotviz.allocation import CHOICES, Units
from rotviz.numerics.grids import fake_quantize
from rotviz.types import QuantSpec

KINDS = ("curvature", "both", "first")


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of one weight [N, D] or some of its rows: the mean gradient of the loss, and the mean square of each token's."""

    mean: Tensor
    square: Tensor


@dataclass
class GradientSums:
    """Adds up both from what a linear sees: inputs x [T, D] and the gradient g [T, N] of the summed loss at its output.

    mean = sum_t g_t x_t^T / n,   square = sum_t g_t^2 (x_t^2)^T / n        n is what the loss is a mean over: tokens, or images

    Each token's gradient is squared, not a window's sum of them, which would be as much smaller as the window is long and hide where single tokens
    care. No weight's gradient is ever formed by autograd. `rows` are the output channels that are looked at, all by default.
    """

    total: Tensor
    squares: Tensor
    rows: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, rows: Tensor | None = None) -> "GradientSums":
        """Nothing yet, for a weight [N, D]. Sums are float64 for a float64 weight, float32 otherwise."""
        seen = weight if rows is None else weight[rows]
        nothing = torch.zeros_like(seen, dtype=torch.promote_types(weight.dtype, torch.float32))
        return cls(nothing, nothing.clone(), rows)

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Some tokens' inputs [T, D] and gradients [T, N]."""
        x, gradient = x.to(self.total), (gradient if self.rows is None else gradient[:, self.rows]).to(self.total)
        self.total.addmm_(gradient.T, x)
        self.squares.addmm_(gradient.square().T, x.square())

    def mean(self, count: int) -> Gradient:
        """The averages over `count` tokens or images."""
        return Gradient(self.total / count, self.squares / count)


def row_costs(weight: Tensor, gradient: Gradient, spec: QuantSpec, choices: tuple[int, ...] = CHOICES,
              kind: str = "curvature") -> Tensor:
    """The cost of rounding each output channel of a weight [N, D] to each choice of bits: float64 [N, choices]."""
    found = []
    for bits in choices:
        error = (weight - fake_quantize(weight, replace(spec, bits=bits))).double()
        first = (gradient.mean.double() * error).sum(-1).abs()
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
