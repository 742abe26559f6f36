"""Products of quantized activations and quantized weights: int4 x int4 and int8 x int8, int32 sums, a scale a token and a scale a channel.

    y_tn = s_t s_n (sum_k q_tk w_nk - z_t sum_k w_nk)

Weights are symmetric; the second term is there for asymmetric activations, and sum_k w_nk is known before (`channel_sums`).
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.integer_matmul import reference
from rotviz.kernels.integer_matmul.reference import channel_sums as channel_sums
from rotviz.kernels.packed import Packed
from rotviz.kernels.quantize import includes_zero

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LONGEST = 65_535
"""Inputs whose products surely fit: 65,535 * 128 * 128 for the sum and as much for the zeros stay below 2^31 together."""


def integer_matmul(x: Packed, weight: Packed, sums: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """x [..., D] times the transpose of weight [N, D] -> [..., N] in x's dtype.

    Args:
        x: activations, one scale a token, symmetric or not.
        weight: symmetric, one scale an output channel.
        sums: `channel_sums(weight)`, int32 [N], where they are kept from before; only asymmetric x needs them.
        backend: auto, torch or triton.

    Raises:
        BadInput: the widths differ, a scale is not per token or channel, the weights are asymmetric, or the backend cannot run.
    """
    _check(x, weight)
    if not takes_triton(x.data, backend, obstacle(x, weight)):
        return reference.integer_matmul(x, weight, sums)
    from rotviz.kernels.integer_matmul.triton_kernel import launch

    if sums is None:
        sums = weight.step if x.zero is None else channel_sums(weight)  # not read for symmetric x
    leading, channels = x.data.shape[:-1], weight.data.shape[0]
    y = torch.empty(leading.numel(), channels, dtype=x.dtype, device=x.data.device)
    if y.numel():
        launch(x, weight, sums, y)
    return y.reshape(*leading, channels)


def obstacle(x: Packed, weight: Packed) -> str | None:
    """Why the Triton kernel does not cover this call, or None."""
    if x.dtype not in KERNEL_DTYPES:
        return f"it writes float32, bfloat16 and float16, not {x.dtype}"
    if x.two_a_byte != weight.two_a_byte:
        return "activations and weights must both be in half a byte or both in a byte"
    if x.spec.number_format != "int":
        return f"zeros of the grid {x.spec.number_format} are not whole"
    if x.zero is not None and not includes_zero(x.spec):
        return "the zeros of activations whose range need not reach 0 may not fit int32"
    return f"sums over {x.width} inputs may not fit int32" if x.width > LONGEST else None


def _check(x: Packed, weight: Packed) -> None:
    if weight.data.ndim != 2 or x.width != weight.width:
        raise BadInput(f"weights [N, {weight.width}] cannot multiply rows of {x.width}")
    if x.groups != 1 or weight.groups != 1 or not weight.spec.symmetric:
        raise BadInput("the integer product needs one scale a token, one scale an output channel, and symmetric weights; use weight_only_matmul, "
                       "or quantize with group = 0")
