"""Scores of two models' logits in Triton: every logit is read once. README.md has the maths.

A program has a token. Its logits come in strips; sums over the vocabulary are kept lane by lane in float32, about the largest logit so far. When a
larger one comes, which is seldom, the lanes are added up and scaled down in float64, so that no rounding is shared by all of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of

STRIP_BYTES = 8_192
"""Of one model's logits that a program reads at a time: 16 or 8 a thread, which leaves room for two programs beside one another."""
WARPS = 8


@triton.jit
def scores_kernel(p_ptr, q_ptr, target_ptr, out_ptr, p_stride, q_stride, WIDTH: tl.constexpr, STRIP: tl.constexpr):
    """out float64 [tokens, 4]: both losses, KL, 1 where the most likely tokens are one.

    top, at: the largest logit so far and where it stands first; whole, lanes: sums of the weights exp(z - top), those before it came and those since
    (x: of the float model's weights times p - q).
    """
    row = tl.program_id(0).to(tl.int64)
    p_ptr += row * p_stride
    q_ptr += row * q_stride
    lanes_p = tl.zeros((STRIP,), dtype=tl.float32)
    top_p, at_p, whole_p = tl.full((), float("-inf"), tl.float32), tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64)
    lanes_q, lanes_x, top_q, at_q, whole_q, whole_x = lanes_p, lanes_p, top_p, at_p, whole_p, whole_p
    for start in range(0, WIDTH, STRIP):
        column = start + tl.arange(0, STRIP)
        inside = column < WIDTH
        p = tl.load(p_ptr + column, mask=inside, other=float("-inf")).to(tl.float32)
        q = tl.load(q_ptr + column, mask=inside, other=float("-inf")).to(tl.float32)
        high_p, high_q = tl.max(p, axis=0), tl.max(q, axis=0)
        if high_p > top_p:
            down = tl.exp(top_p.to(tl.float64) - high_p.to(tl.float64))
            whole_p, whole_x = _with(whole_p, lanes_p) * down, _with(whole_x, lanes_x) * down
            lanes_p, lanes_x = tl.zeros_like(lanes_p), tl.zeros_like(lanes_x)
            top_p, at_p = high_p, tl.min(tl.where(p == high_p, column, 0x7FFFFFFF), axis=0)
        if high_q > top_q:
            whole_q = _with(whole_q, lanes_q) * tl.exp(top_q.to(tl.float64) - high_q.to(tl.float64))
            lanes_q = tl.zeros_like(lanes_q)
            top_q, at_q = high_q, tl.min(tl.where(q == high_q, column, 0x7FFFFFFF), axis=0)
        weight = tl.where(p == float("-inf"), 0.0, tl.exp(p - top_p))  # also where a whole strip is so, and top with it
        lanes_p += weight
        lanes_q += tl.where(q == float("-inf"), 0.0, tl.exp(q - top_q))
        lanes_x += tl.where(inside, weight * (p - q), 0.0)
    whole_p, whole_q, whole_x = _with(whole_p, lanes_p), _with(whole_q, lanes_q), _with(whole_x, lanes_x)
    log_p, log_q = top_p.to(tl.float64) + tl.log(whole_p), top_q.to(tl.float64) + tl.log(whole_q)
    target = tl.load(target_ptr + row)
    out = out_ptr + 4 * row
    tl.store(out, log_p - tl.load(p_ptr + target).to(tl.float64))
    tl.store(out + 1, log_q - tl.load(q_ptr + target).to(tl.float64))
    tl.store(out + 2, whole_x / whole_p - log_p + log_q)
    tl.store(out + 3, (at_p == at_q).to(tl.float64))


@triton.jit
def _with(whole, lanes):
    return whole + tl.sum(lanes.to(tl.float64), axis=0)


def launch(p: Tensor, q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both losses, KL and whether the top tokens agree, float64 [T] each, of logits [T, V] on the targets [T]."""
    count, width = p.shape
    p, q = (x if x.stride(1) == 1 else x.contiguous() for x in (p, q))
    out = torch.empty(count, 4, dtype=torch.float64, device=p.device)
    strip = STRIP_BYTES // max(p.element_size(), q.element_size())
    with on_device_of(p):
        scores_kernel[(count,)](p, q, targets.contiguous(), out, p.stride(0), q.stride(0), WIDTH=width, STRIP=strip, num_warps=WARPS)
    losses_p, losses_q, kl, same = out.unbind(1)
    return losses_p, losses_q, kl, same
