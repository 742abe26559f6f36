"""Two 4-bit codes in a byte, in torch: the slow twin of triton_kernel.py and the definition of the layout.

    byte j = (code 2j AND 15) OR (code 2j+1 AND 15) << 4

Signed codes -8..7 are kept in two's complement, unsigned ones 0..15 as they are: the bytes do not say which, the reader must know.
"""

import torch
from torch import Tensor


def pack(codes: Tensor) -> Tensor:
    """Codes [..., D] of any integer dtype -> uint8 [..., D / 2]; only the low four bits of a code count."""
    pairs = (codes.to(torch.int16) & 15).unflatten(-1, (-1, 2))
    return (pairs[..., 0] | (pairs[..., 1] << 4)).to(torch.uint8)


def unpack(data: Tensor, signed: bool) -> Tensor:
    """uint8 [..., D / 2] -> int8 [..., D]."""
    wide = data.to(torch.int16)
    codes = torch.stack((wide & 15, wide >> 4), dim=-1).flatten(-2)
    return (((codes ^ 8) - 8) if signed else codes).to(torch.int8)
