"""From numbers that lie on an integer grid back to their codes and steps, exactly.

Weight quantizers hand back fake-quantized numbers v = fl(s k), k whole. To store them in bits, s and k are found again. For each group:

    1  guess     s0 = peak / j         with peak = max|v| (symmetric) or max v - min v (asymmetric), j the number of steps that it spans
    2  multiples k_i = round(v_i / s0)
    3  step      every v_i says where s lies: (|v_i| - h_i) / |k_i| <= s <= (|v_i| + h_i) / |k_i|, h_i half the way to v_i's neighbours;
                 s is the float32 number in the middle of what all of them allow
    4  proof     fl(s k_i) = v_i for every number, bit for bit; otherwise the next j

On the grid with a float minimum ("int_min") the multiples are k_i - z with one z a group, not whole: k_i = round((v_i - min v) / s0), a line
through (k_i, v_i) gives s and z nearly, and z is pinned by the smallest |v_i|, whose neighbours are nearest: z = k_i - v_i / s. Numbers of
float32 around it, nearest first, go through steps 3 and 4. In 16 bits too little is left of the smallest number to find it.

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
_ZEROS = sorted(range(-64, 65), key=abs)
"""Where a float zero is looked for around its guess, in units of float32's resolution there."""
_OFF_THE_LINE = 0.1
"""In steps: numbers whose codes come from the wrong number of steps lie further from the line than this, or the proof fails."""
_UNUSED = 15
"""How many codes below the smallest number are reckoned with."""
RECOVERED = ("int", "int_min")
"""Formats whose codes can be read back."""


def recover(values: Tensor, spec: QuantSpec) -> Quantized:
    """Codes, steps and zeros of numbers [N, D] that were rounded to the integer grid of `spec` (or to one with fewer bits).

    Raises:
        BadInput: the spec is of none of the RECOVERED formats, or the numbers of some group lie on no such grid.
    """
    if not spec.quantizes or spec.number_format not in RECOVERED:
        raise BadInput(f"codes are recovered from the integer grids ({', '.join(RECOVERED)}) with 2 to 8 bits, not from {spec.number_format!r} "
                       f"with {spec.bits}")
    group = spec.group_for(values.shape[-1])
    rows = values.reshape(-1, group)
    read = _recover_rows if spec.number_format == "int" else _recover_minimum
    found = [read(part, spec) for part in rows.split(max(1, _CHUNK // group))]
    codes, step, zero = (torch.cat(parts) for parts in zip(*found))
    shape = (*values.shape[:-1], values.shape[-1] // group)
    return Quantized(codes.reshape(values.shape), Scale(step.reshape(*shape, 1), zero.reshape(*shape, 1)), spec, values.dtype)


def _recover_rows(rows: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [R, n], step and zero [R, 1], float32, of groups as rows, where zero is a level."""
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
        raise _on_no_grid(left, rows, spec)
    zero = torch.zeros_like(step) if spec.symmetric else -multiples.amin(-1, keepdim=True)
    return multiples + zero, step, zero


def _recover_minimum(rows: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [R, n], step and zero [R, 1], float32, of groups as rows, where the smallest number is a level and zero need not be."""
    wide = rows.double()
    low, high = wide.aminmax(dim=-1, keepdim=True)
    # a constant group is one step away from zero, or on it
    codes, step = torch.zeros_like(wide, dtype=torch.float32), torch.where(low == 0, torch.ones_like(low), low.abs()).float()
    zero = -low.sign().float()
    left = torch.nonzero((high > low).squeeze(-1)).squeeze(-1)
    last = code_range(spec)[1]
    for spanned in _spans(spec):
        v = wide[left]
        k = ((v - low[left]) / ((high - low)[left] / spanned)).round()
        straight = _is_straight(v, k)
        tried, k = left[straight], k[straight]
        for first in range(min(last - spanned, _UNUSED) + 1):  # where a clip reaches past the numbers, the first of them is not at code 0
            if not len(tried):
                break
            s, z, fits = _fit_line(wide[tried], k + first, rows.dtype)
            done = tried[fits]
            codes[done], step[done], zero[done] = k[fits].float() + first, s[fits], z[fits]
            tried, k = tried[~fits], k[~fits]
        left = left[torch.isin(left, tried) | ~straight]
        if not len(left):
            break
    if len(left):
        raise _on_no_grid(left, rows, spec)
    return codes, step, zero


def _fit_line(v: Tensor, k: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Step and float zero [R, 1] of numbers v [R, n] at codes k, and which rows they reproduce."""
    middle, mean, slope = _line(v, k)
    step, zero = slope.float(), (middle - mean / slope).float()
    left, fits = torch.arange(len(v), device=v.device), torch.zeros(len(v), dtype=torch.bool, device=v.device)
    near = v.abs().argmin(-1, keepdim=True)
    for _ in range(2):  # the smallest number knows the zero best, the largest the step
        zero[left] = (k.gather(-1, near)[left] - v.gather(-1, near)[left] / step[left].double()).float()
        step[left] = _step_for(v[left], (k[left].float() - zero[left]).double(), dtype)[0]
    start, size, peak = zero.double(), zero.abs(), v.abs().amax(-1, keepdim=True)
    unit = (size.nextafter(torch.full_like(size, torch.inf)) - size).double()
    for away in _ZEROS:
        if not len(left):
            break
        z = (start[left] + away * unit[left]).float()
        s, same = _step_for(v[left], (k[left].float() - z).double(), dtype, peak[left])
        done = left[same]
        step[done], zero[done], fits[done] = s[same], z[same], True
        left = left[~same]
    return step, zero, fits


def _is_straight(v: Tensor, k: Tensor) -> Tensor:
    """Which rows lie on a line over their codes, as they do where these come from the right number of steps."""
    middle, mean, slope = _line(v, k)
    return (((v - mean) - slope * (k - middle)).abs().amax(-1, keepdim=True) < _OFF_THE_LINE * slope).squeeze(-1)


def _line(v: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean code, mean number and slope [R, 1] of the line of least squares."""
    middle, mean = k.mean(-1, keepdim=True), v.mean(-1, keepdim=True)
    return middle, mean, ((k - middle) * (v - mean)).sum(-1, keepdim=True) / (k - middle).square().sum(-1, keepdim=True)


def _on_no_grid(left: Tensor, rows: Tensor, spec: QuantSpec) -> BadInput:
    return BadInput(f"{len(left)} of {len(rows)} groups of {rows.dtype} weights do not lie on an integer grid of {spec.bits} bits, so they "
                    "cannot be packed; quantize in float32 (dtype = 'float32'), where every code can be read back")


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
    step, same = _step_for(v, k, dtype)
    low, high = code_range(spec)
    inside = (k >= low) & (k <= high) if spec.symmetric else k - k.amin(-1, keepdim=True) <= high - low
    return k.float(), step, same & inside.all(-1)


def _step_for(v: Tensor, multiples: Tensor, dtype: torch.dtype, peak: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The float32 step [R, 1] in the middle of what all of v [R, n] = fl(step multiples) allow, and which rows it reproduces.

    peak: what float64 numbers are judged relative to; None = each to itself.
    """
    size, whole = v.abs(), multiples.abs()
    below, above = _half_units(size, dtype)
    used = whole > 0
    least = torch.where(used, (size - below) / whole, -torch.inf).amax(-1, keepdim=True)
    most = torch.where(used, (size + above) / whole, torch.inf).amin(-1, keepdim=True)
    step = ((least + most) / 2).float()
    step = torch.where(step.double() < least, step.nextafter(torch.full_like(step, torch.inf)), step)
    step = torch.where(step.double() > most, step.nextafter(torch.zeros_like(step)), step)
    read = multiples.float() * step
    if dtype == torch.float64:
        return step, ((read.double() - v).abs() <= _FLOAT64_TOLERANCE * (size if peak is None else peak)).all(-1)
    return step, (read.to(dtype).double() == v).all(-1)


def _half_units(size: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Half the way to the next number below, and above, in that dtype. Below a power of two the numbers lie twice as close."""
    mantissa, exponent = torch.frexp(size)
    epsilon = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
    above = torch.ldexp(torch.full_like(size, epsilon / 4), exponent)
    return torch.where(mantissa == 0.5, above / 2, above), above
