"""The Hadamard transform in Triton: rows stay on chip, one read and one write of memory. The maths is in README.md, the cut in plan.py.

`turned` is the tile that the fused kernel (hadamard_quantize) shares: it loads ROWS rows, multiplies along the three axes of the cube and hands
back [ROWS, padded row] in float32, numbers beyond the width being zero times whatever: the caller masks them.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of
from rotviz.kernels.choice import interpreting
from rotviz.kernels.hadamard.plan import Plan, pieces_for, plan
from rotviz.kernels.tiles import dot_exact, stored, sylvester_tile
from rotviz.numerics.hadamard import base_matrix, hadamard_base, sylvester


@triton.jit
def turned(
    x_ptr, table_ptr, signs_ptr, first_row, count, table_in, table_out, scale,
    N: tl.constexpr, FIRST: tl.constexpr, MIDDLE: tl.constexpr, LAST: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, SIGNED: tl.constexpr, PIECES_FIRST: tl.constexpr, PIECES: tl.constexpr, WIDE: tl.constexpr,
):
    """Rows first_row ... of x [count, N], signed, times H_N: float32 [ROWS, PADDED MIDDLE LAST], scaled."""
    S: tl.constexpr = MIDDLE * LAST
    COLUMNS: tl.constexpr = ROWS * S
    column = tl.arange(0, COLUMNS)
    row = first_row + column // S
    within = column % S
    out_index = tl.arange(0, PADDED)
    acc = tl.zeros((COLUMNS, PADDED), dtype=tl.float32)
    for start in range(0, PADDED, CHUNK):
        index = start + tl.arange(0, CHUNK)
        offset = index[:, None] * S + within[None, :]
        ok = (index < FIRST)[:, None] & (row < count)[None, :]
        tile = tl.load(x_ptr + row.to(tl.int64)[None, :] * N + offset, mask=ok, other=0.0)
        if SIGNED:
            flips = tl.load(signs_ptr + offset, mask=ok, other=0).to(tl.float32)
            tile = (tile.to(tl.float32) * flips).to(x_ptr.dtype.element_ty)  # exact
        h = tl.load(table_ptr + out_index[None, :] * table_out + index[:, None] * table_in)
        if PIECES_FIRST > 1:
            acc = dot_exact(tl.trans(tile.to(tl.float32)), h, acc, PIECES_FIRST, WIDE)
        elif WIDE:
            acc = tl.dot(tl.trans(tile.to(tl.float32)), h.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(tl.trans(tile), h.to(tile.dtype), acc)
    acc = tl.trans(acc * scale)
    if LAST > 1:
        SIDE: tl.constexpr = LAST if LAST >= 16 else 16
        flat = tl.reshape(acc, (PADDED * COLUMNS // SIDE, SIDE))
        acc = dot_exact(flat, sylvester_tile(SIDE, LAST), tl.zeros_like(flat), PIECES, WIDE)
    if MIDDLE > 1:
        flat = tl.reshape(tl.permute(tl.reshape(acc, (PADDED * ROWS, MIDDLE, LAST)), (0, 2, 1)), (PADDED * ROWS * LAST, MIDDLE))
        flat = dot_exact(flat, sylvester_tile(MIDDLE, MIDDLE), tl.zeros_like(flat), PIECES, WIDE)
        acc = tl.permute(tl.reshape(flat, (PADDED * ROWS, LAST, MIDDLE)), (0, 2, 1))
    return tl.reshape(tl.permute(tl.reshape(acc, (PADDED, ROWS, S)), (1, 0, 2)), (ROWS, PADDED * S))


@triton.jit
def hadamard_kernel(
    x_ptr, y_ptr, table_ptr, signs_ptr, count, table_in, table_out, scale,
    N: tl.constexpr, FIRST: tl.constexpr, MIDDLE: tl.constexpr, LAST: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, SIGNS_BEFORE: tl.constexpr, SIGNS_AFTER: tl.constexpr, PIECES_FIRST: tl.constexpr, PIECES: tl.constexpr,
    WIDE: tl.constexpr,
):
    """y = x D H / sqrt(n), or x H^T D / sqrt(n) with the table read the other way round and the signs after."""
    first_row = tl.program_id(0) * ROWS
    y = turned(x_ptr, table_ptr, signs_ptr, first_row, count, table_in, table_out, scale,
               N, FIRST, MIDDLE, LAST, PADDED, ROWS, CHUNK, SIGNS_BEFORE, PIECES_FIRST, PIECES, WIDE)
    row = first_row + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED * MIDDLE * LAST)
    if SIGNS_AFTER:
        y = y * tl.load(signs_ptr + column, mask=column < N, other=0).to(tl.float32)[None, :]
    ok = (row < count)[:, None] & (column < N)[None, :]
    tl.store(y_ptr + row.to(tl.int64)[:, None] * N + column[None, :], stored(y, y_ptr.dtype.element_ty, WIDE), mask=ok)


def launch(x: Tensor, y: Tensor, signs: Tensor | None, inverse: bool) -> None:
    """Write the transform of x [T, n] into y [T, n]; both contiguous, signs int8 [n] or None."""
    count, n = x.shape
    if not count:
        return
    cut, table = prepared(n, x)
    strides = (1, cut.padded) if inverse else (cut.padded, 1)
    with on_device_of(x):
        hadamard_kernel[(triton.cdiv(count, cut.rows),)](
            x, y, table, table if signs is None else signs, count, *strides, n**-0.5, **constants(cut, x),
            SIGNS_BEFORE=signs is not None and not inverse, SIGNS_AFTER=signs is not None and inverse, num_warps=cut.warps)


def prepared(n: int, x: Tensor) -> tuple[Plan, Tensor]:
    """The cut for x's dtype, and the first factor on x's device in the 16-bit dtype that it is multiplied in: nothing to convert on chip."""
    cut = plan(n, x.dtype != torch.float32)
    assert cut is not None, "the choice has made sure that the width is covered"
    return cut, first_factor(cut, x.device, torch.float16 if x.dtype == torch.float16 else torch.bfloat16)


def constants(cut: Plan, x: Tensor) -> dict[str, int | bool]:
    """The compile-time numbers of a cut."""
    first, others = pieces_for(x.dtype != torch.float32)
    return {"N": cut.n, "FIRST": cut.first, "MIDDLE": cut.middle, "LAST": cut.last, "PADDED": cut.padded, "ROWS": cut.rows,
            "CHUNK": cut.chunk, "PIECES_FIRST": first, "PIECES": others, "WIDE": interpreting()}


@functools.lru_cache(maxsize=64)
def first_factor(cut: Plan, device: torch.device, dtype: torch.dtype) -> Tensor:
    """H_F1 = H_K (x) S of +-1 with zeros around it, [padded, padded]: every row begins at a multiple of 16 bytes, and a load needs no mask."""
    made = hadamard_base(cut.n)
    with torch.inference_mode(False):
        table = torch.zeros(cut.padded, cut.padded, device=device, dtype=dtype)
        table[: cut.first, : cut.first] = torch.kron(base_matrix(made.base), sylvester(cut.first // made.base)).to(device, dtype)
    return table
