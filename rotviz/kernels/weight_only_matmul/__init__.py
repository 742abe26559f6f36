"""y = x W^T with weights that stay in 4 or 8 bits, for decoding (few rows: memory decides) and prefill (many rows: arithmetic decides).

W is packed with a step, and a zero when asymmetric, a group of inputs or a whole output channel; x is float32, bfloat16 or float16.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.packed import Packed
from rotviz.kernels.weight_only_matmul import reference

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weight_only_matmul(x: Tensor, weight: Packed, *, backend: str = "auto") -> Tensor:
    """x [..., D] times the transpose of packed weights [N, D] -> [..., N] in x's dtype.

    Raises:
        BadInput: the widths differ, or the backend cannot run.
    """
    if weight.data.ndim != 2 or x.shape[-1:] != (weight.width,):
        raise BadInput(f"weights [N, {weight.width}] cannot multiply rows of shape {tuple(x.shape)}")
    if not takes_triton(x, backend, obstacle(x, weight)):
        return reference.weight_only_matmul(x, weight)
    from rotviz.kernels.weight_only_matmul.triton_kernel import launch

    rows = x.reshape(-1, weight.width).contiguous()
    y = torch.empty(rows.shape[0], weight.data.shape[0], dtype=x.dtype, device=x.device)
    if y.numel():
        launch(rows, weight, y)
    return y.reshape(*x.shape[:-1], weight.data.shape[0])


def obstacle(x: Tensor, weight: Packed) -> str | None:
    """Why the Triton kernel does not cover this call, or None."""
    if x.dtype not in KERNEL_DTYPES:
        return f"it multiplies float32, bfloat16 and float16, not {x.dtype}"
    if not block_inputs(weight.width // weight.groups, weight.width):
        return f"groups of {weight.width // weight.groups} inputs are not a multiple of 32"
    return None


def block_inputs(group: int, width: int) -> int:
    """Input channels in a block of the kernel: within one group, or any number where a row is one group; 0 = no block fits."""
    return next((b for b in (128, 64, 32) if group % b == 0), 64 if group == width else 0)
