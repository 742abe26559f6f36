"""The power grid: codes are even steps of sign(x)|x|^a, so that levels crowd near zero where a < 1 and at the ends where a > 1.

    code = round(qmax sign(x) |x|^a / max|x|^a)        x^ = sign(code) max|x| (|code| / qmax)^(1/a)

With s = max|x| / qmax^(1/a) that is code = round(sign(x) (|x|/s)^a) and x^ = sign(code) s |code|^(1/a): one step, as on the integer grid, which it
equals for a = 1 (the code -qmax-1 included). Power functions are the only continuous automorphisms of (R+, *), so products of codes stay codes
(PowerQuant, arXiv 2301.09858; a learned by gradient: NUPES, arXiv 2308.05600).

One exponent for a tensor, found by golden section on [0.1, 1.5] where sum |x - x^|^2 is least: it has one minimum for bell-shaped weights. The
search sees at most SAMPLE groups, evenly spread, with each group's whole range; the clip is searched afterwards with the exponent fixed.
"""

import math

import torch
from torch import Tensor

from rotviz.numerics.scale import Scale, round_through, without_zeros
from rotviz.types import QuantSpec

LOWEST, HIGHEST = 0.1, 1.5
TOLERANCE = 1e-3
SAMPLE = 256
_SMALLEST = 1e-8
"""Below this share of a step, |x|^a has no gradient: its slope at zero is infinite for a < 1."""


class PowerGrid:
    """Levels at the 1/a-th powers of even steps. `exponent` is a; None until bound to a tensor."""

    def __init__(self, exponent: Tensor | float | None = None) -> None:
        self.exponent = exponent

    def bound(self, grouped: Tensor, spec: QuantSpec) -> "PowerGrid":
        return self if self.exponent is not None else PowerGrid(best_exponent(grouped, spec))

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        peak = torch.maximum(high.abs(), low.abs())
        exponent = torch.as_tensor(self.exponent, dtype=peak.dtype, device=peak.device)
        step = without_zeros(peak / (2 ** (spec.bits - 1) - 1) ** (1 / exponent))
        return Scale(step, torch.zeros_like(step), exponent)

    def code_range(self, spec: QuantSpec) -> tuple[int, int]:
        return -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        low, high = self.code_range(spec)
        return _signed_power(x / scale.step, scale.exponent).round_().clamp_(low, high)

    def values(self, codes: Tensor, scale: Scale) -> Tensor:
        return _signed_power(codes, 1 / scale.exponent) * scale.step

    def place(self, x: Tensor, scale: Scale) -> Tensor:
        return _smooth_power(x / scale.step, scale.exponent)

    def read(self, codes: Tensor, scale: Scale) -> Tensor:
        return _smooth_power(codes, 1 / scale.exponent) * scale.step

    def through(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        return self.read(round_through(self.place(x, scale)).clamp(*self.code_range(spec)), scale)


def best_exponent(grouped: Tensor, spec: QuantSpec) -> float:
    """The exponent with the least sum of squared errors of [..., groups, size], each group scaled to its largest number."""
    rows = grouped.reshape(-1, grouped.shape[-1])
    rows = rows[:: max(1, len(rows) // SAMPLE)]
    peak = rows.abs().amax(-1, keepdim=True)

    def error(exponent: float) -> float:
        grid = PowerGrid(exponent)
        scale = grid.scale(-peak, peak, spec)
        return float((grid.values(grid.codes(rows, scale, spec), scale) - rows).square().sum())

    return golden_section(error, LOWEST, HIGHEST)


def golden_section(loss, low: float, high: float) -> float:
    """Where a function with one minimum between `low` and `high` is least, to TOLERANCE."""
    shrink = (math.sqrt(5) - 1) / 2
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = loss(right)
    return (low + high) / 2


def _signed_power(x: Tensor, exponent: Tensor) -> Tensor:
    # the power of one is the number itself to the last bit, which pow alone does not promise
    return torch.where(exponent == 1, x, x.abs().pow(exponent) * x.sign())


def _smooth_power(x: Tensor, exponent: Tensor) -> Tensor:
    """The same with a finite gradient at zero, for x and exponent."""
    size = x.abs().clamp_min(_SMALLEST)
    raised = torch.exp(exponent * size.log()) * x.sign()
    exact = _signed_power(x, exponent).detach()
    return raised + (exact - raised).detach()
