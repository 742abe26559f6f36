"""Grids and fake quantization: round a tensor to 2^b levels and back.

    symmetric     q = clamp(round(x / s), -2^(b-1), 2^(b-1)-1),        s = c max|x| / (2^(b-1)-1),           x^ = s q
    asymmetric    q = clamp(round(x / s) + z, 0, 2^b - 1),             s = c (hi - lo) / (2^b-1),
                                                                       z = round(-c lo / s),                 x^ = s (q - z)

max, hi and lo are taken over the numbers that share a scale (`QuantSpec.granularity`): always along the last axis, either the whole
axis or groups of neighbours. c is the clip: a ratio, or searched ("mse"): of c = 1.00, 0.99, ... 0.21 the one that
minimizes sum |x - x^|^2.4, as the GPTQ and QuaRot codes do (norm 2.4, not 2).

Conventions of QuaRot (arXiv 2404.00456), which SpinQuant, DFRot and DartQuant inherit: over a whole axis lo and hi are stretched to
include 0; over groups and heads they are not. Two departures: a constant group keeps its value exactly (QuaRot clamps s at 1e-5, which moves
small weights), and 16-bit inputs are rounded in float32.

Other number formats join by registering a Grid under their name; everything else here speaks of the grid through its two methods.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rotviz.errors import unknown
from rotviz.types import Granularity, QuantSpec

CLIP_STEPS = 80
CLIP_NORM = 2.4
_SEARCH_ELEMENTS = 30_000
"""Numbers searched at a time on the CPU: they stay in a core's cache, and torch does not split operations this small over threads, so that the
rows can be shared out among threads instead (twice as fast, and far less when the machine is busy)."""
_CHECK_EVERY = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """What turns a number into a code and back: `step` [..., 1] and the code of zero, `zero` [..., 1] (0 when symmetric)."""

    step: Tensor
    zero: Tensor


class Grid(Protocol):
    """A number format: from the range of a group to its scale, and from numbers and scale to codes."""

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale: ...

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor: ...

    def values(self, codes: Tensor, scale: Scale) -> Tensor: ...


class IntegerGrid:
    """Evenly spaced levels."""

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        if spec.symmetric:
            peak = torch.maximum(high.abs(), low.abs())
            step = peak / (2 ** (spec.bits - 1) - 1)
            return Scale(_without_zeros(step), torch.zeros_like(step))
        span = high - low
        # a constant group: one step of its own size represents it exactly
        step = torch.where(span > 0, span / (2**spec.bits - 1), _without_zeros(high.abs()))
        return Scale(step, torch.round(-low / step))

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        low, high = code_range(spec)
        return (x / scale.step).round_().add_(scale.zero).clamp_(low, high)

    def values(self, codes: Tensor, scale: Scale) -> Tensor:
        return (codes - scale.zero).mul_(scale.step)


GRIDS: dict[str, Grid] = {"int": IntegerGrid()}


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes with what is needed to read them.

    codes [..., D] are whole numbers kept in the tensor's float dtype; scale.step and scale.zero are [..., groups, 1].
    """

    codes: Tensor
    scale: Scale
    spec: QuantSpec
    dtype: torch.dtype

    def values(self) -> Tensor:
        """The quantized tensor [..., D] in the dtype of the original."""
        grid = grid_of(self.spec)
        grouped = self.codes.unflatten(-1, (self.scale.step.shape[-2], -1))
        return grid.values(grouped, self.scale).flatten(-2).to(self.dtype)


def grid_of(spec: QuantSpec) -> Grid:
    """The grid of a spec's number format."""
    if spec.number_format not in GRIDS:
        raise unknown("number format", spec.number_format, GRIDS)
    return GRIDS[spec.number_format]


def code_range(spec: QuantSpec) -> tuple[int, int]:
    """Smallest and largest integer code."""
    if spec.symmetric:
        return -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
    return 0, 2**spec.bits - 1


def quantize(x: Tensor, spec: QuantSpec) -> Quantized:
    """Round x [..., D] to the grid of `spec`; scales are taken along the last axis.

    Raises:
        BadInput: the group does not divide D, or bits is 16 (there is nothing to round to).
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    grouped = wide.unflatten(-1, (-1, spec.group_for(x.shape[-1])))
    scale = find_scale(grouped, spec)
    return Quantized(grid_of(spec).codes(grouped, scale, spec).flatten(-2), scale, spec, x.dtype)


def fake_quantize(x: Tensor, spec: QuantSpec) -> Tensor:
    """x [..., D] rounded to the grid and back, in x's dtype; x itself when the spec leaves it in float."""
    return quantize(x, spec).values() if spec.quantizes else x


def find_scale(grouped: Tensor, spec: QuantSpec) -> Scale:
    """The scale of each group of `grouped` [..., groups, size], with the spec's clip."""
    low, high = group_range(grouped, spec)
    if spec.clip == "mse":
        ratio = search_clip(grouped, low, high, spec)
        return grid_of(spec).scale(low * ratio, high * ratio, spec)
    ratio = 1.0 if spec.clip == "none" else float(spec.clip)
    return grid_of(spec).scale(low * ratio, high * ratio, spec)


def group_range(grouped: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Smallest and largest number of each group, [..., groups, 1] each; stretched to include 0 over a whole axis."""
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    if spec.group == 0 and spec.granularity in (Granularity.TOKEN, Granularity.CHANNEL):
        low, high = low.clamp(max=0), high.clamp(min=0)
    return low, high


def search_clip(grouped: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """For each group the ratio 1.00, 0.99, ... 0.21 of its range with the least sum |x - Q(x)|^2.4, shape of `low`."""
    rows, lows, highs = grouped.reshape(-1, grouped.shape[-1]), low.reshape(-1, 1), high.reshape(-1, 1)
    if rows.is_cuda:
        return _search_rows(rows, lows, highs, spec).reshape(low.shape)
    step = max(1, _SEARCH_ELEMENTS // rows.shape[-1])
    parts = [slice(i, i + step) for i in range(0, len(rows), step)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(lambda part: _search_rows(rows[part], lows[part], highs[part], spec), parts))
    return torch.cat(found).reshape(low.shape)


def _search_rows(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    grid = grid_of(spec)
    best = torch.full_like(low, torch.inf)
    ratio = torch.ones_like(low)
    for i in range(CLIP_STEPS):
        candidate = 1 - i / 100
        scale = grid.scale(low * candidate, high * candidate, spec)
        error = _loss(grid.values(grid.codes(rows, scale, spec), scale).sub_(rows))
        better = error < best
        best = torch.where(better, error, best)
        ratio = torch.where(better, torch.full_like(ratio, candidate), ratio)
        if i % _CHECK_EVERY == 0 and bool((_cut_off(rows, scale, spec) > best).all()):
            break
    return ratio


def _cut_off(rows: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
    """What clipping alone loses: a bound from below on the error, which only grows as the range shrinks. Beyond the best error, no
    smaller ratio can win, and the search may stop without changing what it finds."""
    low, high = code_range(spec)
    grid = grid_of(spec)
    bottom, top = (grid.values(torch.full_like(scale.zero, code), scale) for code in (low, high))
    # half a step of room: an asymmetric grid's rounded zero moves its ends by that much
    return _loss(torch.relu(rows - top - scale.step / 2).add_(torch.relu(bottom - rows - scale.step / 2)))


def _loss(difference: Tensor) -> Tensor:
    """sum |d|^2.4 over the last axis; overwrites its input."""
    return difference.abs_().pow_(CLIP_NORM).sum(-1, keepdim=True)


def _without_zeros(step: Tensor) -> Tensor:
    """A group of zeros has no range; any step reads it back as zero, 1 among them."""
    return torch.where(step > 0, step, torch.ones_like(step))
