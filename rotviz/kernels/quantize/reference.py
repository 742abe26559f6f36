"""Quantize and dequantize in torch, through rotviz.numerics.grids: the slow twin of triton_kernel.py, and what fake quantization does."""

import torch
from torch import Tensor

from rotviz.kernels.packed import Packed, pack
from rotviz.numerics import grids
from rotviz.types import QuantSpec


def quantize(x: Tensor, spec: QuantSpec) -> Packed:
    """x [..., D] rounded to the grid of `spec`, packed."""
    return pack(grids.quantize(x, spec))


def dequantize(packed: Packed) -> Tensor:
    """The numbers [..., D] that the codes stand for, computed in float32, in the dtype they had."""
    return values(packed).to(packed.dtype)


def values(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """step (q - zero) for every code, [..., D] in that dtype."""
    codes = packed.codes().to(dtype).unflatten(-1, (packed.groups, -1))
    if packed.zero is not None:
        codes = codes - packed.zero.to(dtype).unsqueeze(-1)
    return (codes * packed.step.to(dtype).unsqueeze(-1)).flatten(-2)
