"""Products of integer codes in torch: the slow twin of triton_kernel.py.

The sums are whole numbers below 2^53, so a float64 product has them exactly, on any device; where they stay below 2^24 (4-bit codes of up to 139,000
inputs) a float32 product has them too, in half the time. The two scales multiply in float32.
"""

import torch
from torch import Tensor

from rotviz.kernels.packed import BYTE, NIBBLE, Packed


def integer_matmul(x: Packed, weight: Packed, sums: Tensor | None = None) -> Tensor:
    """s_t s_n (sum_k q_tk w_nk - z_t sum_k w_nk), x [..., D], weight [N, D] -> [..., N] in x's dtype. `sums`: channel_sums(weight)."""
    largest = x.width * _largest_code(x) * _largest_code(weight)
    exact = torch.float32 if largest < 2**24 else torch.float64
    products = (x.codes().to(exact) @ weight.codes().to(exact).T).double()
    if x.zero is not None:
        products = products - x.zero.double() * (channel_sums(weight) if sums is None else sums).double()
    return (products.float() * x.step * weight.step.squeeze(-1)).to(x.dtype)


def _largest_code(packed: Packed) -> int:
    """The largest magnitude that a code of the packed tensor's layout can have."""
    bits = NIBBLE if packed.two_a_byte else BYTE
    return 2 ** (bits - 1) if packed.spec.symmetric else 2**bits - 1


def channel_sums(weight: Packed) -> Tensor:
    """sum_k w_nk of the codes of each output channel, int32 [N]."""
    return weight.codes().sum(-1, dtype=torch.int32)
