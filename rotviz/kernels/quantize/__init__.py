"""Quantize to packed codes and back, in two steps or in one: per token, per channel, per group or per head, symmetric or not.

The grid, the range, the clip and the rounding are those of rotviz.numerics.grids, bit for bit; README.md repeats the formulas. A searched
clip ("mse") is the reference's business: it is for weights, which are quantized once.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.packed import FORMATS, Packed, check_spec, code_dtype, two_a_byte
from rotviz.kernels.quantize import reference
from rotviz.numerics import grids
from rotviz.types import Granularity, QuantSpec

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_GROUP = 65_536


def quantize(x: Tensor, spec: QuantSpec, *, backend: str = "auto") -> Packed:
    """Round x [..., D] to the grid of `spec`, 2 to 8 bits, and pack the codes.

    Raises:
        BadInput: the spec leaves x in float or is no integer grid, its group does not divide D, or the backend cannot run.
    """
    group = check_spec(spec, x.shape[-1])
    if not takes_triton(x, backend, obstacle(x, spec, group)):
        return reference.quantize(x, spec)
    from rotviz.kernels.quantize.triton_kernel import launch_quantize

    packed = room_for(x, spec, group)
    if x.numel():
        launch_quantize(x.contiguous(), packed, group, clip_ratio(spec), includes_zero(spec))
    return packed


def dequantize(packed: Packed, *, backend: str = "auto") -> Tensor:
    """The numbers [..., D] that the codes stand for, in the dtype they had before."""
    if not takes_triton(packed.data, backend, None if packed.dtype in KERNEL_DTYPES else f"it writes no {packed.dtype}"):
        return reference.dequantize(packed)
    from rotviz.kernels.quantize.triton_kernel import launch_dequantize

    y = torch.empty(*packed.data.shape[:-1], packed.width, dtype=packed.dtype, device=packed.data.device)
    if y.numel():
        launch_dequantize(packed, y)
    return y


def fake_quantize(x: Tensor, spec: QuantSpec, *, backend: str = "auto") -> Tensor:
    """x [..., D] rounded to the grid of `spec` and back, in x's dtype; x itself when the spec leaves it in float.

    It is `rotviz.numerics.grids.fake_quantize`, bit for bit and for every number format, with one trip through memory on a GPU where the kernel
    covers the spec. What needs a gradient goes to the reference.

    Raises:
        BadInput: the group does not divide D, or the backend cannot run.
    """
    if not spec.quantizes:
        return x
    group = spec.group_for(x.shape[-1])
    if not takes_triton(x, backend, _unlearned(x) or obstacle(x, spec, group, packed=False)):
        return grids.fake_quantize(x, spec)
    from rotviz.kernels.quantize.triton_kernel import launch_fake_quantize

    rows, back = as_it_lies(x)
    y = torch.empty_like(rows)
    if rows.numel():
        launch_fake_quantize(rows, y, spec, group, clip_ratio(spec), includes_zero(spec))
    return y.permute(back)


def as_it_lies(x: Tensor) -> tuple[Tensor, list[int]]:
    """x [..., D] with its leading axes in the order in which they lie in memory, contiguous, and the permutation that undoes it: heads of a cache
    are rows that lie token by token, and rows may be rounded in any order."""
    order = [*sorted(range(x.ndim - 1), key=lambda axis: -x.stride(axis)), x.ndim - 1]
    return x.permute(order).contiguous(), [order.index(axis) for axis in range(x.ndim)]


def _unlearned(x: Tensor) -> str | None:
    return "it has no gradient" if x.requires_grad and torch.is_grad_enabled() else None


def obstacle(x: Tensor, spec: QuantSpec, group: int, packed: bool = True) -> str | None:
    """Why the Triton kernel does not cover this call, or None; `packed`: the codes are kept."""
    if spec.number_format not in FORMATS:
        return f"it rounds to {' and '.join(FORMATS)}, not to {spec.number_format}"
    if x.dtype not in KERNEL_DTYPES:
        return f"it reads float32, bfloat16 and float16, not {x.dtype}"
    if group > LARGEST_GROUP or (packed and two_a_byte(spec) and group % 2):
        return f"it keeps an even group of at most {LARGEST_GROUP} numbers on chip, not {group}"
    return "the clip is searched, which only the reference does" if spec.clip == "mse" else None


def room_for(x: Tensor, spec: QuantSpec, group: int) -> Packed:
    """A Packed for x [..., D] whose tensors are not written yet."""
    leading, width = x.shape[:-1], x.shape[-1]
    data = torch.empty(*leading, width // 2 if two_a_byte(spec) else width, dtype=code_dtype(spec), device=x.device)
    step = torch.empty(*leading, width // group, dtype=torch.float32, device=x.device)
    return Packed(data, step, None if spec.symmetric else torch.empty_like(step), spec, width, x.dtype)


def clip_ratio(spec: QuantSpec) -> float:
    """The share of the range that is kept.

    Raises:
        BadInput: the clip is to be searched.
    """
    if spec.clip == "mse":
        raise BadInput("a searched clip has no fixed ratio; give a ratio or none")
    return 1.0 if spec.clip == "none" else float(spec.clip)


def includes_zero(spec: QuantSpec) -> bool:
    """Whether the range is stretched to include 0: over whole axes it is, over groups and heads not."""
    return spec.group == 0 and spec.granularity in (Granularity.TOKEN, Granularity.CHANNEL)
