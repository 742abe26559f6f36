"""What a learned rotation minimizes: losses of rotated activations o = x R, with their gradients in o.

    whip          sum_i exp(-|o_i|)                    DartQuant's (arXiv 2511.04063): lifts what is near zero, so that, the norm being
                                                       fixed, outliers must come down; least when all |o_i| are equal
    kurtosis      mean (o - m)^4 / var^2               how heavy the tails are
    variance      mean (o_i - m)^2                     all but constant under a rotation, as the paper says
    quantization  sum_i (o_i - Q(o_i))^2               the error itself, with the grid held fixed in the gradient
    peak          (sum_i |o_i|^p)^(2/p)                ours: a smooth square of the largest |o_i|, which sets the grid's step

The error of rounding n numbers with a step s is about n s^2 / 12 whatever the numbers are, and s is the peak over the number of levels: so
the squared peak *is* the error that a rotation can change, and unlike the error itself it has a slope. For asymmetric grids the peak is half
the range, (|o_+|_p + |o_-|_p) / 2; with groups there is one for each.

Each is a sum over tokens (rows); whip and quantization sum over channels, as in the paper. Whip is not invariant to scale: it expects rows of
root mean square 1, which is what a norm hands on; for other rows see `unit_rms`. Per channel and at unit RMS it is 0.5858 for Laplacian numbers,
0.5233 for Gaussian, 0.4752 for uniform ones, and never below exp(-1) = 0.3679, where all magnitudes are equal.

The gradient in R follows by one product, dL/dR = x^T dL/do, and adds up over batches: no graph through the rotation is kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rotviz.numerics.grids import fake_quantize
from rotviz.types import QuantSpec

Objective = Callable[[Tensor, QuantSpec], tuple[Tensor, Tensor]]
"""(o [T, C], the grid) -> (sum of the loss over the rows, its gradient [T, C])."""


def whip(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Sum over rows and channels of exp(-|o|); gradient -sign(o) exp(-|o|)."""
    lifted = o.abs().neg_().exp_()
    return lifted.sum(), lifted.mul_(o.sign()).neg_()


def quantization(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Sum of (o - Q(o))^2; gradient 2 (o - Q(o)), the rounded values being held fixed."""
    lost = o - fake_quantize(o, spec)
    return lost.square().sum(), 2 * lost


def variance(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Sum over rows of the variance over channels; gradient 2 (o - m) / C."""
    centered = o - o.mean(-1, keepdim=True)
    return centered.square().mean(-1).sum(), 2 * centered / o.shape[-1]


def kurtosis(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Sum over rows of k = mean c^4 / v^2, c = o - m, v = mean c^2; gradient 4 (c^3 - mean c^3 - k v c) / (C v^2)."""
    c = o - o.mean(-1, keepdim=True)
    v = c.square().mean(-1, keepdim=True).clamp_min(torch.finfo(o.dtype).tiny ** 0.5)
    k = c.pow(4).mean(-1, keepdim=True) / v.square()
    cubed = c.pow(3)
    gradient = 4 * (cubed - cubed.mean(-1, keepdim=True) - k * v * c) / (o.shape[-1] * v.square())
    return k.sum(), gradient


def peak(power: float) -> Objective:
    """The objective "peak" with p = `power`."""
    def objective(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        groups = o.unflatten(-1, (-1, spec.group_for(o.shape[-1])))
        value, gradient = (_peak if spec.symmetric else _half_range)(groups, power)
        return value.sum(), gradient.flatten(-2)

    return objective


def _peak(o: Tensor, power: float) -> tuple[Tensor, Tensor]:
    norm, slope = _p_norm(o.abs(), power)
    return norm.square(), slope.mul_(2 * norm).mul_(o.sign())


def _half_range(o: Tensor, power: float) -> tuple[Tensor, Tensor]:
    up, up_slope = _p_norm(o.clamp_min(0), power)
    down, down_slope = _p_norm(o.neg().clamp_min_(0), power)
    half = (up + down) / 2
    return half.square(), up_slope.sub_(down_slope).mul_(half)


def _p_norm(a: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """(sum a^p)^(1/p) over the last axis [..., 1] of numbers a >= 0 and its gradient; scaled by the largest, so that nothing overflows."""
    largest = a.amax(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
    ratio = a / largest
    lower = _raised(ratio, power - 1)
    total = torch.linalg.vecdot(lower, ratio)[..., None]
    norm = largest * total.pow(1 / power)
    return norm, lower.mul_(total.clamp_min(1e-30).pow(1 / power - 1))


def _raised(x: Tensor, power: float) -> Tensor:
    """x^power, a tensor of its own; whole powers by squaring, which is many times faster than a general power."""
    if power != int(power):
        return x.pow(power)
    result, square, rest = None, x, int(power)
    while rest:
        if rest & 1:
            result = square.clone() if result is None else result.mul_(square)
        rest >>= 1
        square = square.square() if rest else square
    return torch.ones_like(x) if result is None else result


OBJECTIVES: dict[str, Objective] = {"whip": whip, "quantization": quantization, "kurtosis": kurtosis, "variance": variance}
"""Those that the DartQuant paper compares."""


def unit_rms(rows: Tensor) -> Tensor:
    """Rows [..., C] scaled together to a root mean square of 1 (all zeros stay)."""
    return rows / rows.square().mean().sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
