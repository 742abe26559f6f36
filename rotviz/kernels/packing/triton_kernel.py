"""Two 4-bit codes in a byte, in Triton; reference.py defines the layout. Loads and stores are neighbours, so memory is the only cost."""

import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of

BLOCK = 1024


@triton.jit
def pack_kernel(codes_ptr, data_ptr, count, BLOCK: tl.constexpr):
    """data[j] = low half of codes[2j] | low half of codes[2j + 1] << 4, j < count."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    pair = start + tl.arange(0, BLOCK)
    both = start * 2 + tl.arange(0, 2 * BLOCK)
    codes = tl.load(codes_ptr + both, mask=both < 2 * count, other=0).to(tl.int32)
    first, second = tl.split(tl.reshape(codes, (BLOCK, 2)))
    tl.store(data_ptr + pair, ((first & 15) | ((second & 15) << 4)).to(tl.uint8), mask=pair < count)


@triton.jit
def unpack_kernel(data_ptr, codes_ptr, count, SIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """codes[2j], codes[2j + 1] from data[j], j < count."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    pair = start + tl.arange(0, BLOCK)
    data = tl.load(data_ptr + pair, mask=pair < count, other=0).to(tl.int32)
    codes = tl.reshape(tl.join(data & 15, data >> 4), (2 * BLOCK,))
    if SIGNED:
        codes = (codes ^ 8) - 8
    both = start * 2 + tl.arange(0, 2 * BLOCK)
    tl.store(codes_ptr + both, codes.to(tl.int8), mask=both < 2 * count)


def launch_pack(codes: Tensor, data: Tensor) -> None:
    """Write codes (contiguous, an even number of them) into data, uint8."""
    with on_device_of(codes):
        pack_kernel[(triton.cdiv(data.numel(), BLOCK),)](codes, data, data.numel(), BLOCK=BLOCK)


def launch_unpack(data: Tensor, codes: Tensor, signed: bool) -> None:
    """Write the codes of data (contiguous uint8) into codes, int8."""
    with on_device_of(data):
        unpack_kernel[(triton.cdiv(data.numel(), BLOCK),)](data, codes, data.numel(), SIGNED=signed, BLOCK=BLOCK)
