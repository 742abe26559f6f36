"""Grids and fake quantization: round a tensor to 2^b levels and back.

    symmetric     q = clamp(round(x / s), -2^(b-1), 2^(b-1)-1),        s = c max|x| / (2^(b-1)-1),           x^ = s q
    asymmetric    q = clamp(round(x / s) + z, 0, 2^b - 1),             s = c (hi - lo) / (2^b-1),
                                                                       z = round(-c lo / s),                 x^ = s (q - z)

max, hi and lo are taken over the numbers that share a scale (`QuantSpec.granularity`): always along the last axis, either the whole
axis or groups of neighbours. c is the clip: a ratio, or searched ("mse"): of c = 1.00, 0.99, ... 0.21 the one that
minimizes sum |x - x^|^2.4, as the GPTQ and QuaRot codes do (norm 2.4, not 2).

Conventions of QuaRot (arXiv 2404.00456), which SpinQuant, DFRot and DartQuant inherit: over a whole axis lo and hi are stretched to
include 0; over groups and heads they are not. Two departures: a constant group keeps its value exactly, times the clip ratio (QuaRot clamps s at
1e-5, which moves small weights), and 16-bit inputs are rounded in float32. The ratio moves both ends toward 0, not toward the middle: of a group
that lies on one side of 0, far from it, more is cut off than the ratio says.

On the asymmetric grid zero is a level: z is a whole number. With a float minimum ("int_min", GGUF's type 1: Q4_1) it need not be, and lo and hi are
levels instead: q = clamp(round((x - c lo) / s), 0, 2^b - 1), x^ = s q + c lo. A weight that was stored so comes back without any error.

Other number formats join as a Grid in GRIDS under the name that rotviz.types.FORMATS describes (float_grids.py, power_grid.py); everything else
here speaks of the grid through its methods.

Learned quantizers need a gradient through the rounding. `through` gives it: round() has the gradient of the identity and clamp() that of a
clamp, so the scale is learned as in LSQ (arXiv 1902.08153). `place` and `read` are its halves, for learning the rounding itself.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rotviz.numerics.float_grids import E2M1, E4M3, BlockFloatGrid, FloatGrid, MxScale, NvScale
from rotviz.numerics.power_grid import PowerGrid
from rotviz.numerics.scale import Scale, divided, round_through, without_zeros
from rotviz.types import Granularity, QuantSpec

CLIP_STEPS = 80
CLIP_NORM = 2.4
_SEARCH_ELEMENTS = 30_000
"""Numbers searched at a time on the CPU: they stay in a core's cache, and torch does not split operations this small over threads, so that the
rows can be shared out among threads instead (twice as fast, and far less when the machine is busy)."""
_CHECK_EVERY = 6
_REMEMBERED_ELEMENTS = 30_000
_REMEMBERED = 2048
_FOUND: dict[tuple[str, tuple[int, ...], str], Tensor] = {}
"""Ratios that were found for whole weights, by their contents: recipes that differ in activations only round the same rotated weights, and
searching a 135M model takes longer than evaluating it. A thousandth of the weights' size."""


class Grid(Protocol):
    """A number format: from the range of a group to its scale, and from numbers and scale to codes."""

    def bound(self, grouped: Tensor, spec: QuantSpec) -> "Grid":
        """This grid with what all groups of a tensor [..., groups, size] have in common (an exponent, a tensor's scale) fixed."""

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        """The scale of groups that reach from `low` to `high`, [..., 1] each."""

    def code_range(self, spec: QuantSpec) -> tuple[int, int]:
        """Smallest and largest code."""

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        """The nearest code of each number, a whole number in x's dtype."""

    def values(self, codes: Tensor, scale: Scale) -> Tensor:
        """Codes read back; may overwrite its input."""

    def through(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        """values(codes(x)) with a gradient for x and scale."""


class CodedGrid(Grid, Protocol):
    """A grid whose codes may be fractions, so that rounding itself can be learned."""

    def place(self, x: Tensor, scale: Scale) -> Tensor:
        """Where each number lies between the codes, before rounding; differentiable."""

    def read(self, codes: Tensor, scale: Scale) -> Tensor:
        """The numbers at codes, fractions among them; differentiable."""


class IntegerGrid:
    """Evenly spaced levels."""

    def bound(self, grouped: Tensor, spec: QuantSpec) -> "IntegerGrid":
        return self

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        if spec.symmetric:
            peak = torch.maximum(high.abs(), low.abs())
            step = divided(peak, 2 ** (spec.bits - 1) - 1)
            return Scale(without_zeros(step), torch.zeros_like(step))
        step = _step_of_span(low, high, spec.bits)
        return Scale(step, torch.round(-low / step))

    def code_range(self, spec: QuantSpec) -> tuple[int, int]:
        if spec.symmetric:
            return -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1
        return 0, 2**spec.bits - 1

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        low, high = self.code_range(spec)
        return (x / scale.step).round_().add_(scale.zero).clamp_(low, high)

    def values(self, codes: Tensor, scale: Scale) -> Tensor:
        return (codes - scale.zero).mul_(scale.step)

    def place(self, x: Tensor, scale: Scale) -> Tensor:
        return x / scale.step + scale.zero

    def read(self, codes: Tensor, scale: Scale) -> Tensor:
        return (codes - scale.zero) * scale.step

    def through(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        return self.read(round_through(self.place(x, scale)).clamp(*self.code_range(spec)), scale)


def _step_of_span(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The step of an asymmetric grid; a constant group is one step of its own size, which represents it exactly."""
    span = high - low
    return torch.where(span > 0, divided(span, 2**bits - 1), without_zeros(high.abs()))


class MinimumGrid(IntegerGrid):
    """Evenly spaced levels from a float minimum up: `zero` is where 0 would lie between the codes, not rounded."""

    def scale(self, low: Tensor, high: Tensor, spec: QuantSpec) -> Scale:
        step = _step_of_span(low, high, spec.bits)
        return Scale(step, -low / step)

    def codes(self, x: Tensor, scale: Scale, spec: QuantSpec) -> Tensor:
        low, high = self.code_range(spec)
        return (x / scale.step).add_(scale.zero).round_().clamp_(low, high)


GRIDS: dict[str, Grid] = {
    "int": IntegerGrid(),
    "int_min": MinimumGrid(),
    "power": PowerGrid(),
    "fp8": FloatGrid(E4M3),
    "fp4": FloatGrid(E2M1),
    "mxfp4": BlockFloatGrid(E2M1, MxScale()),
    "nvfp4": BlockFloatGrid(E2M1, NvScale()),
}


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
    return GRIDS[spec.number_format]


def code_range(spec: QuantSpec) -> tuple[int, int]:
    """Smallest and largest code."""
    return grid_of(spec).code_range(spec)


def quantize(x: Tensor, spec: QuantSpec) -> Quantized:
    """Round x [..., D] to the grid of `spec`; scales are taken along the last axis.

    Raises:
        BadInput: the group does not divide D, or bits is 16 (there is nothing to round to).
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    grouped = wide.unflatten(-1, (-1, spec.group_for(x.shape[-1])))
    grid = grid_of(spec).bound(grouped, spec)
    scale = find_scale(grouped, spec, grid)
    return Quantized(grid.codes(grouped, scale, spec).flatten(-2), scale, spec, x.dtype)


def fake_quantize(x: Tensor, spec: QuantSpec) -> Tensor:
    """x [..., D] rounded to the grid and back, in x's dtype; x itself when the spec leaves it in float."""
    return quantize(x, spec).values() if spec.quantizes else x


def fake_quantize_through(x: Tensor, spec: QuantSpec) -> Tensor:
    """`fake_quantize` with a gradient: rounding passes it on as it is, and the scale follows the range of x."""
    if not spec.quantizes:
        return x
    grouped = x.unflatten(-1, (-1, spec.group_for(x.shape[-1])))
    grid = grid_of(spec).bound(grouped.detach(), spec)
    low, high = group_range(grouped, spec)
    ratio = clip_ratio(grouped.detach(), low.detach(), high.detach(), spec, grid)
    return grid.through(grouped, grid.scale(low * ratio, high * ratio, spec), spec).flatten(-2)


def find_scale(grouped: Tensor, spec: QuantSpec, grid: Grid | None = None) -> Scale:
    """The scale of each group of `grouped` [..., groups, size], with the spec's clip. `grid`: already bound to the whole tensor."""
    grid = grid or grid_of(spec).bound(grouped, spec)
    low, high = group_range(grouped, spec)
    ratio = clip_ratio(grouped, low, high, spec, grid)
    return grid.scale(low * ratio, high * ratio, spec)


def clip_ratio(grouped: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, grid: Grid) -> Tensor | float:
    """The share of each group's range that is kept: the spec's ratio, or the searched one in the shape of `low`."""
    if spec.clip == "mse":
        return search_clip(grouped, low, high, spec, grid)
    return 1.0 if spec.clip == "none" else float(spec.clip)


def group_range(grouped: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Smallest and largest number of each group, [..., groups, 1] each; stretched to include 0 over a whole axis."""
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    if spec.group == 0 and spec.granularity in (Granularity.TOKEN, Granularity.CHANNEL):
        low, high = low.clamp(max=0), high.clamp(min=0)
    return low, high


def search_clip(grouped: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, grid: Grid | None = None) -> Tensor:
    """For each group the ratio 1.00, 0.99, ... 0.21 of its range with the least sum |x - Q(x)|^2.4, shape of `low`."""
    grid = grid or grid_of(spec).bound(grouped, spec)
    rows, lows, highs = grouped.reshape(-1, grouped.shape[-1]), low.reshape(-1, 1), high.reshape(-1, 1)
    if rows.is_cuda:
        return _search_rows(rows, lows, highs, spec, grid).reshape(low.shape)
    if rows.numel() < _REMEMBERED_ELEMENTS or grid is not grid_of(spec):  # a grid that is bound to its numbers has no name to remember
        return _search_parts(rows, lows, highs, spec, grid).reshape(low.shape)
    key = hashlib.blake2b(rows.contiguous().numpy()).hexdigest(), tuple(rows.shape), repr(spec)
    ratio = _FOUND.get(key)
    if ratio is None:
        ratio = _FOUND[key] = _search_parts(rows, lows, highs, spec, grid)
        while len(_FOUND) > _REMEMBERED:
            _FOUND.pop(next(iter(_FOUND)), None)
    return ratio.clone().reshape(low.shape)


def _search_parts(rows: Tensor, lows: Tensor, highs: Tensor, spec: QuantSpec, grid: Grid) -> Tensor:
    step = max(1, _SEARCH_ELEMENTS // rows.shape[-1])
    parts = [slice(i, i + step) for i in range(0, len(rows), step)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(lambda part: _search_rows(rows[part], lows[part], highs[part], spec, grid), parts))
    return torch.cat(found)


def _search_rows(rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, grid: Grid) -> Tensor:
    best = torch.full_like(low, torch.inf)
    ratio = torch.ones_like(low)
    for i in range(CLIP_STEPS):
        candidate = 1 - i / 100
        scale = grid.scale(low * candidate, high * candidate, spec)
        error = _loss(grid.values(grid.codes(rows, scale, spec), scale).sub_(rows))
        better = error < best
        best = torch.where(better, error, best)
        ratio = torch.where(better, torch.full_like(ratio, candidate), ratio)
        if i % _CHECK_EVERY == 0 and bool((_cut_off(rows, scale, spec, grid) > best).all()):
            break
    return ratio


def _cut_off(rows: Tensor, scale: Scale, spec: QuantSpec, grid: Grid) -> Tensor:
    """What clipping alone loses: a bound from below on the error, which only grows as the range shrinks. Beyond the best error, no
    smaller ratio can win, and the search may stop without changing what it finds."""
    low, high = grid.code_range(spec)
    bottom, top = (grid.values(torch.full_like(scale.zero, code), scale) for code in (low, high))
    # half a step of room: an asymmetric grid's rounded zero moves its ends by that much
    return _loss(torch.relu(rows - top - scale.step / 2).add_(torch.relu(bottom - rows - scale.step / 2)))


def _loss(difference: Tensor) -> Tensor:
    """sum |d|^2.4 over the last axis; overwrites its input."""
    return difference.abs_().pow_(CLIP_NORM).sum(-1, keepdim=True)
