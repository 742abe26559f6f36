"""y = x W^T in Triton with weights that stay packed until they are in registers. README.md has the maths and the tiling.

The two codes of a byte belong to neighbouring channels. They are taken apart and put side by side in registers, so that x is read as it lies, and
the weights are the first operand of the product, which may come from registers:

    y^T = W x^T

Codes less their zero are small whole numbers, exact in 16 bits; the step multiplies the block's sum in float32, once an output instead of once a
weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import multiprocessors, on_device_of
from rotviz.kernels.choice import interpreting
from rotviz.kernels.packed import Packed
from rotviz.kernels.tiles import as_float, stored, tile_place
from rotviz.kernels.weight_only_matmul import block_inputs

DECODE_ROWS = 16


@triton.jit
def weight_only_matmul_kernel(
    x_ptr, data_ptr, step_ptr, zero_ptr, y_ptr, rows, channels,
    D: tl.constexpr, SHARE: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """One tile [BLOCK_N, BLOCK_M] of W x^T over SHARE blocks of input channels; y is [splits, rows, channels]."""
    row_tile, channel_tile = tile_place(rows, channels, BLOCK_M, BLOCK_N)
    m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = channel_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    x_row = x_ptr + m.to(tl.int64)[None, :] * D
    BYTES: tl.constexpr = BLOCK_K // 2 if PACKED else BLOCK_K
    PER_ROW: tl.constexpr = D // 2 if PACKED else D
    w_row = data_ptr + n.to(tl.int64)[:, None] * PER_ROW
    TYPE: tl.constexpr = tl.float32 if WIDE else x_ptr.dtype.element_ty
    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for i in range(SHARE):
        block = split * SHARE + i
        place = block * BYTES + tl.arange(0, BYTES)
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        data = tl.load(w_row + place[None, :], mask=(n < channels)[:, None] & (place < PER_ROW)[None, :], other=0).to(tl.int32)
        x = tl.load(x_row + k[:, None], mask=(m < rows)[None, :] & (k < D)[:, None], other=0.0).to(TYPE)
        scale_at = n * (D // GROUP) + block * BLOCK_K // GROUP
        scale_ok = n < tl.where(block * BLOCK_K < D, channels, 0)
        step = tl.load(step_ptr + scale_at, mask=scale_ok, other=0.0)
        w = as_float(tl.reshape(tl.join(data & 15, data >> 4), (BLOCK_N, BLOCK_K)) if PACKED else data, 4 if PACKED else 8, SYMMETRIC)
        if not SYMMETRIC:
            w -= tl.load(zero_ptr + scale_at, mask=scale_ok, other=0.0)[:, None]
        acc += tl.dot(w.to(TYPE), x, input_precision="ieee") * step[:, None]
    out = y_ptr + split.to(tl.int64) * rows * channels + m.to(tl.int64)[None, :] * channels + n[:, None]
    tl.store(out, stored(acc, y_ptr.dtype.element_ty, WIDE), mask=(m < rows)[None, :] & (n < channels)[:, None])


def launch(x: Tensor, weight: Packed, y: Tensor, splits: int | None = None) -> None:
    """Write x [M, D] times the transposed weights [N, D] into y [M, N]; all contiguous. splits: shares of D; None = as the GPU needs."""
    rows, width = x.shape
    channels, group = weight.data.shape[0], weight.width // weight.groups
    decode = rows <= DECODE_ROWS
    block_m, block_n = (16, 64) if decode else (64, 128)
    block_k = block_inputs(group, width)
    if x.dtype == torch.float32:  # multiplied without tensor cores, and larger tiles do not fit the registers
        block_m, block_n, block_k = (16 if decode else 32), 32, 32
    blocks, tiles = triton.cdiv(width, block_k), triton.cdiv(channels, block_n) * triton.cdiv(rows, block_m)
    if splits is None:
        splits = max(1, min(blocks // 4, 4 * multiprocessors(x.device) // tiles)) if decode else 1
    out = y if splits == 1 else torch.empty(splits, rows, channels, dtype=torch.float32, device=x.device)
    with on_device_of(x):
        weight_only_matmul_kernel[(tiles, splits)](
            x, weight.data, weight.step, weight.step if weight.zero is None else weight.zero, out, rows, channels,
            D=width, SHARE=triton.cdiv(blocks, splits), GROUP=group, SYMMETRIC=weight.spec.symmetric, PACKED=weight.two_a_byte, WIDE=interpreting(),
            BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=4 if decode else 8)
    if splits > 1:
        y.copy_(out.sum(0))


