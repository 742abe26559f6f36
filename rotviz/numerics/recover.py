"""From numbers that lie on an integer grid back to their codes and steps, exactly.

Weight quantizers hand back fake-quantized numbers v = fl(s k), k whole. To store them in bits, s and k are found again. For each group:

    1  guess     s0 = peak / j         with peak = max|v| (symmetric) or max v - min v (asymmetric), j the number of steps that it spans
    2  multiples k_i = round(v_i / s0)
    3  step      every v_i says where s lies: (|v_i| - h_i) / |k_i| <= s <= (|v_i| + h_i) / |k_i|, h_i half the way to v_i's neighbours;
                 s is the float32 number in the middle of what all of them allow
    4  proof     fl(s k_i) = v_i for every number, bit for bit; otherwise the next j

A clipped grid nearly always reaches its last code, so the first j fits nearly all groups and the others are few. Where numbers are float32 (or
16 bits) the proof is equality: nothing is lost, whatever method made them. float64 numbers have float64 steps, which a float32 step meets to
2^-22. A group that uses few of its levels may come back with a larger step and smaller codes: the same numbers.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.numerics.grids import Quantized, code_range
from rotviz.numerics.scale import Scale
from rotviz.types import QuantSpec

_CHUNK = 1 << 22
"""Numbers looked at together; a few float64 copies of them are in memory."""
_FLOAT64_TOLERANCE = 2.0**-22


def recover(values: Tensor, spec: QuantSpec) -> Quantized:
    """Codes, steps and zeros of numbers [N, D] that were rounded to the integer grid of `spec` (or to one with fewer bits).

    Raises:
        BadInput: the spec is no integer grid, or the numbers of some group lie on none.
    """
    if not spec.quantizes or spec.number_format != "int":
        raise BadInput(f"codes are recovered from the integer grid with 2 to 8 bits, not from {spec.number_format!r} with {spec.bits}")
    group = spec.group_for(values.shape[-1])
    rows = values.reshape(-1, group)
    found = [_recover_rows(part, spec) for part in rows.split(max(1, _CHUNK // group))]
    multiples, step, zero = (torch.cat(parts) for parts in zip(*found))
    shape = (*values.shape[:-1], values.shape[-1] // group)
    return Quantized((multiples + zero).reshape(values.shape), Scale(step.reshape(*shape, 1), zero.reshape(*shape, 1)), spec, values.dtype)


def _recover_rows(rows: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Multiples [R, n], step and zero [R, 1], float32, of groups as rows."""
    wide = rows.double()
    low, high = wide.aminmax(dim=-1, keepdim=True)
    peak = torch.maximum(low.abs(), high.abs())
    reach = peak if spec.symmetric else high - low
    # a constant group is one step away from zero, or on it
    step = torch.where(peak > 0, peak, torch.ones_like(peak)).float()
    multiples = wide.sign().float()
    left = torch.nonzero((reach > 0).squeeze(-1)).squeeze(-1)
    for spanned in _spans(spec):
        if not len(left):
            break
        k, s, fits = _fit(wide[left], reach[left] / spanned, peak[left], rows.dtype, spec)
        done = left[fits]
        multiples[done], step[done] = k[fits], s[fits]
        left = left[~fits]
    if len(left):
        raise BadInput(f"{len(left)} of {len(rows)} groups of {rows.dtype} weights do not lie on an integer grid of {spec.bits} bits, so they "
                       "cannot be packed; quantize in float32 (dtype = 'float32'), where every code can be read back")
    zero = torch.zeros_like(step) if spec.symmetric else -multiples.amin(-1, keepdim=True)
    return multiples, step, zero


def _spans(spec: QuantSpec) -> list[int]:
    """How many steps the reach of a group may be, the likeliest first."""
    low, high = code_range(spec)
    if spec.symmetric:
        return [high, -low, *range(high - 1, 0, -1)]
    return list(range(high, 0, -1))


def _fit(v: Tensor, guess: Tensor, peak: Tensor, dtype: torch.dtype, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Multiples and step for a guess of the step, and which rows they reproduce."""
    guess = peak / (peak / guess).round().clamp_min(1)  # the largest number is the one that pins the step best
    k = (v / guess).round()
    size, whole = v.abs(), k.abs()
    below, above = _half_units(size, dtype)
    used = whole > 0
    least = torch.where(used, (size - below) / whole, -torch.inf).amax(-1, keepdim=True)
    most = torch.where(used, (size + above) / whole, torch.inf).amin(-1, keepdim=True)
    step = ((least + most) / 2).float()
    step = torch.where(step.double() < least, step.nextafter(torch.full_like(step, torch.inf)), step)
    step = torch.where(step.double() > most, step.nextafter(torch.zeros_like(step)), step)
    read = k.float() * step
    same = (read.double() - v).abs() <= _FLOAT64_TOLERANCE * size if dtype == torch.float64 else read.to(dtype).double() == v
    low, high = code_range(spec)
    inside = (k >= low) & (k <= high) if spec.symmetric else k - k.amin(-1, keepdim=True) <= high - low
    return k.float(), step, (same & inside).all(-1)


def _half_units(size: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Half the way to the next number below, and above, in that dtype. Below a power of two the numbers lie twice as close."""
    mantissa, exponent = torch.frexp(size)
    epsilon = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
    above = torch.ldexp(torch.full_like(size, epsilon / 4), exponent)
    return torch.where(mantissa == 0.5, above / 2, above), above
