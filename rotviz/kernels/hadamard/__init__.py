"""The fast Hadamard transform of rows, for every width n = K 2^t that a Hadamard matrix is known for.

    y = x D H_n / sqrt(n)            undone by            x = y H_n^T D / sqrt(n),          D = diag(signs), H_n = H_K (x) S_(2^t)

It is what `rotviz.numerics.rotation.HadamardRotation` applies, in one read and one write of memory. On a GPU the Triton kernel runs (rows of
up to 32,768 numbers after padding that fit its shared memory; float32, bfloat16, float16), elsewhere the reference. README.md has the maths and
the tiling.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import fits, takes_triton
from rotviz.kernels.hadamard import reference
from rotviz.kernels.hadamard.plan import plan

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def hadamard(x: Tensor, signs: Tensor | None = None, *, inverse: bool = False, backend: str = "auto") -> Tensor:
    """The normalized Hadamard transform along the last axis; differentiable with respect to x.

    Args:
        x: [..., n], floating point.
        signs: [n] of +-1, the diagonal of D; None = no sign flips.
        inverse: the transposed transform, which undoes the other.
        backend: auto, torch or triton; see rotviz.kernels.choice.

    Returns:
        The shape, dtype and device of x.

    Raises:
        BadInput: no Hadamard matrix of order n can be made, the signs do not fit, or the backend cannot run.
    """
    check(x, signs)
    if not takes_triton(x, backend, obstacle(x)):
        return reference.hadamard(x, signs, inverse)
    return _Transform.apply(x, None if signs is None else signs.to(x.device, torch.int8), inverse, backend)


def obstacle(x: Tensor) -> str | None:
    """Why the Triton kernel does not cover x, or None."""
    if x.dtype not in KERNEL_DTYPES:
        return f"it turns float32, bfloat16 and float16, not {x.dtype}"
    if plan(x.shape[-1], x.dtype != torch.float32) is None:
        return f"a row of {x.shape[-1]} numbers does not fit on chip, or no Hadamard matrix has this order"
    return None


def check(x: Tensor, signs: Tensor | None) -> None:
    """Raises BadInput unless x is floating point with a last axis and the signs are as many."""
    if not x.is_floating_point() or not x.ndim:
        raise BadInput(f"the transform turns rows of floating-point numbers, not shape {tuple(x.shape)} of {x.dtype}")
    if signs is not None and signs.shape != x.shape[-1:]:
        raise BadInput(f"{x.shape[-1]} channels need as many signs, not shape {tuple(signs.shape)}")


class _Transform(torch.autograd.Function):
    """The kernel with its derivative: the transform is linear and orthogonal, so gradients go back through the inverse."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, signs: Tensor | None, inverse: bool, backend: str) -> Tensor:
        from rotviz.kernels.hadamard.triton_kernel import launch

        ctx.signs, ctx.inverse, ctx.backend = signs, inverse, backend
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        turned = torch.empty_like(rows)
        if not fits(backend, launch, rows, turned, signs, inverse):
            turned = reference.hadamard(rows, signs, inverse)
        return turned.reshape(x.shape)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return _Transform.apply(upstream, ctx.signs, not ctx.inverse, ctx.backend), None, None, None
