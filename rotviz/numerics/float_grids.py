"""Floating-point formats of 8 and 4 bits, with a scale for each row or group, or with the block scales of MX and NV.

    E4M3    sign, 4 bits of exponent (bias 7), 3 of mantissa; largest 448, no infinity            (FP8, arXiv 2209.05433)
    E2M1    0 0.5 1 1.5 2 3 4 6 and their negatives                                               (FP4)
    fp8, fp4    x^ = s level,  s = c max|x| / largest level, one float32 for each row or group
    mxfp4       blocks of 32;  s = 2^(floor(log2 c max|x|) - 2), an E8M0 number                   (OCP Microscaling 1.0, arXiv 2310.10537)
    nvfp4       blocks of 16;  s = t E4M3(c max|x| / (6 t)),  t = max over the tensor / (448 * 6), a float32

A code is the signed index of a level in order, so that neighbours differ by one as they do on the integer grid: 0 is zero, -3 is minus the third
positive level. A number halfway between two levels goes to the one with the even index, which is IEEE's rule (an even index is an even mantissa).

Choices. The floor in MX's scale is the standard's: a block's largest number may lie above the largest level (up to 8 for 6) and is cut there;
clip = "mse" finds out where the next power of two is worth it. NV's float32 scale is taken over the whole weight; for activations and the KV
cache over one token (or head), since a token's rounding must not depend on the others in its batch.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from rotviz.numerics.scale import Scale, without_zeros
from rotviz.types import Granularity, QuantSpec

E8M0_LIMIT = 127
"""Exponents of E8M0 reach from -127 to 127."""


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A small floating-point format: sign, `exponent` and `mantissa` bits; its positive patterns end at `largest`."""

    exponent: int
    mantissa: int
    bias: int
    largest: float

    @property
    def largest_exponent(self) -> int:
        """The power of two of the largest level."""
        return int(torch.tensor(self.largest).log2().floor())


E4M3 = FloatFormat(4, 3, 7, 448.0)
E2M1 = FloatFormat(2, 1, 1, 6.0)


@cache
def levels(kind: FloatFormat) -> Tensor:
    """The levels from zero up, float64 on the CPU, ascending; not to be changed."""
    steps = 2**kind.mantissa
    subnormal = [2.0 ** (1 - kind.bias) * m / steps for m in range(steps)]
    normal = [2.0 ** (e - kind.bias) * (1 + m / steps) for e in range(1, 2**kind.exponent) for m in range(steps)]
    return torch.tensor([v for v in subnormal + normal if v <= kind.largest], dtype=torch.float64)


def nearest_index(size: Tensor, kind: FloatFormat) -> Tensor:
    """For numbers of at least zero the index of the nearest level (ties to the even index), in the same dtype."""
    table = levels(kind).to(size)
    halfway = (table[1:] + table[:-1]) / 2
    below = torch.bucketize(size.contiguous(), halfway)                # a number on the middle stays below ...
    above = torch.bucketize(size.contiguous(), halfway, right=True)    # ... or goes above: take the even one
    return torch.where(below % 2 == 0, below, above).to(size.dtype)


class FloatGrid:
    """Levels of a floating-point format; one float32 scale for each group."""

    def __init__(self, kind: FloatFormat) -> None:
        self.kind = kind

    def bound(self, grouped: Tensor, spec: QuantSpec) -> "FloatGrid":
        return self

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        step = without_zeros(torch.maximum(high.abs(), low.abs()) / self.kind.largest)
        return Scale(step, torch.zeros_like(step))

    def code_range(self, spec: QuantSpec) -> tuple[int, int]:
        last = len(levels(self.kind)) - 1
        return -last, last

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        place = x / scale.step
        return nearest_index(place.abs(), self.kind).mul_(place.sign())

    def values(self, codes: Tensor, scale: Scale) -> Tensor:
        return levels(self.kind).to(codes)[codes.abs().long()] * codes.sign() * scale.step

    def through(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        place = (x / scale.step).clamp(-self.kind.largest, self.kind.largest)
        with torch.no_grad():
            one = Scale(torch.ones_like(scale.step), scale.zero)
            moved = self.values(self.codes(place, one, spec), one) - place
        return (place + moved) * scale.step


class BlockScale(Protocol):
    """How the scale of a block is stored: the nearest number that the format of scales has."""

    def bound(self, grouped: Tensor, kind: FloatFormat, spec: QuantSpec) -> "BlockScale": ...

    def step(self, peak: Tensor, kind: FloatFormat) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class MxScale:
    """A power of two, E8M0."""

    def bound(self, grouped: Tensor, kind: FloatFormat, spec: QuantSpec) -> "MxScale":
        return self

    def step(self, peak: Tensor, kind: FloatFormat) -> Tensor:
        exponent = torch.frexp(without_zeros(peak)).exponent - 1       # floor(log2), without log2's rounding
        exponent = (exponent - kind.largest_exponent).clamp(-E8M0_LIMIT, E8M0_LIMIT)
        return torch.where(peak.isfinite(), torch.ldexp(torch.ones_like(peak), exponent), torch.nan)  # E8M0's NaN, as the standard has it


@dataclass(frozen=True, slots=True)
class NvScale:
    """An E4M3 number times a float32 number of the tensor, `tensor`: None until bound."""

    tensor: Tensor | None = field(default=None, compare=False)

    def bound(self, grouped: Tensor, kind: FloatFormat, spec: QuantSpec) -> "NvScale":
        """Fix the tensor's scale from its largest number: over the whole of a weight, over a row of anything else."""
        whole = spec.granularity in (Granularity.CHANNEL, Granularity.GROUP) and grouped.ndim == 3
        peak = grouped.abs().amax() if whole else grouped.abs().amax(dim=(-2, -1), keepdim=True)
        return replace(self, tensor=without_zeros(peak / (E4M3.largest * kind.largest)))

    def step(self, peak: Tensor, kind: FloatFormat) -> Tensor:
        index = nearest_index(peak / (kind.largest * self.tensor), E4M3).clamp_min(1)  # a scale of zero would read everything back as zero
        return levels(E4M3).to(peak)[index.long()] * self.tensor


class BlockFloatGrid(FloatGrid):
    """Levels of a floating-point format with a stored scale for each block."""

    def __init__(self, kind: FloatFormat, stored: BlockScale) -> None:
        super().__init__(kind)
        self.stored = stored

    def bound(self, grouped: Tensor, spec: QuantSpec) -> "BlockFloatGrid":
        return BlockFloatGrid(self.kind, self.stored.bound(grouped, self.kind, spec))

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        step = self.stored.step(torch.maximum(high.abs(), low.abs()).detach(), self.kind)
        return Scale(step, torch.zeros_like(step))
