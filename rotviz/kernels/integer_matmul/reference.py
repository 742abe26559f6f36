"""Products of integer codes in torch: the slow twin of triton_kernel.py.

The sums are whole numbers below 2^53, so a float64 product has them exactly, on any device; the two scales multiply in float32.
"""

import torch
from torch import Tensor

from rotviz.kernels.packed import Packed


def integer_matmul(x: Packed, weight: Packed) -> Tensor:
    """s_t s_n (sum_k q_tk w_nk - z_t sum_k w_nk), x [..., D], weight [N, D] -> [..., N] in x's dtype."""
    q, w = x.codes().double(), weight.codes().double()
    sums = q @ w.T
    if x.zero is not None:
        sums = sums - x.zero.double() * channel_sums(weight).double()
    return (sums.float() * x.step * weight.step.squeeze(-1)).to(x.dtype)


def channel_sums(weight: Packed) -> Tensor:
    """sum_k w_nk of the codes of each output channel, int32 [N]."""
    return weight.codes().sum(-1, dtype=torch.int32)
