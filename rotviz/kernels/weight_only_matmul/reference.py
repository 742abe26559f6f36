"""y = x W^T with packed weights, in torch: unpack, dequantize, multiply. The slow twin of triton_kernel.py.

float16 and bfloat16 are multiplied in float32 and cast back; float64 stays float64, with the float32 steps widened: the truth.
"""

import torch
from torch import Tensor

from rotviz.kernels.packed import Packed
from rotviz.kernels.quantize.reference import values


def weight_only_matmul(x: Tensor, weight: Packed) -> Tensor:
    """x [..., D] times the transpose of the packed weights [N, D] -> [..., N] in x's dtype."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide @ values(weight, wide.dtype).T).to(x.dtype)
