"""Transform, then quantize, in torch: the slow twin of triton_kernel.py.

The transformed rows stay in float32 until they are rounded to codes, also when x is bfloat16: what is fused away is the trip through memory, and
with it the rounding that the trip would have cost.
"""

import torch
from torch import Tensor

from rotviz.kernels.hadamard import reference as hadamard
from rotviz.kernels.packed import Packed
from rotviz.kernels.quantize import reference as quantize
from rotviz.types import QuantSpec


def hadamard_quantize(x: Tensor, spec: QuantSpec, signs: Tensor | None) -> Packed:
    """Codes of x D H / sqrt(n), one scale a token. x [..., n]."""
    wide = x if x.dtype == torch.float64 else x.float()
    packed = quantize.quantize(hadamard.hadamard(wide, signs, inverse=False), spec)
    return Packed(packed.data, packed.step, packed.zero, spec, packed.width, x.dtype)
