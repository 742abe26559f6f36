"""A rotation as it is carried out while the model runs: by the kernels where they run, else by the operator.

    R3, R4 and R1 after Gemma's norms     x -> x R
    R4 before packed weights              x -> codes of x R, in one kernel where it gives the scales that are wanted

On a CPU nothing differs from `Rotation.apply`, bit for bit. On a GPU the Hadamard kernel adds up in another order. A run turns there and rounds
afterwards; a deployed model does both in one kernel where it can, without the rounding to 16 bits in between.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rotviz.kernels.choice import takes_triton
from rotviz.kernels.hadamard import hadamard, obstacle
from rotviz.kernels.hadamard_quantize import hadamard_quantize
from rotviz.kernels.packed import Packed
from rotviz.kernels.quantize import includes_zero, quantize
from rotviz.numerics.hadamard import base_matrix, hadamard_base
from rotviz.numerics.rotation import HadamardRotation, Rotation
from rotviz.types import Granularity, QuantSpec


class OnlineRotation:
    """A rotation as it is carried out at run time: by the Hadamard kernels where they run and it is one that they know, else by the operator itself.
    (The kernels add up in another order, which can move a number at a tie to the next code.)

    Args:
        rotation: R, on row vectors.
    """

    def __init__(self, rotation: Rotation) -> None:
        self.rotation = rotation
        self.is_kernels = kernels_know(rotation)
        self._signs = rotation.signs.to(torch.int8) if self.is_kernels and rotation.signs is not None else None

    def apply(self, x: Tensor) -> Tensor:
        """x R."""
        return hadamard(x, self._signs_for(x)) if self._by_kernel(x) else self.rotation.apply(x)

    def quantized(self, x: Tensor, spec: QuantSpec) -> Packed:
        """Codes of x R, fused where the kernel gives the spec's scales."""
        if fuses(spec) and self._by_kernel(x):
            return hadamard_quantize(x, replace(spec, granularity=Granularity.TOKEN), self._signs_for(x))
        return quantize(self.apply(x), spec)

    def _by_kernel(self, x: Tensor) -> bool:
        return self.is_kernels and x.shape[-1:] == (self.rotation.size,) and takes_triton(x, "auto", obstacle(x))

    def _signs_for(self, x: Tensor) -> Tensor | None:
        if self._signs is not None and self._signs.device != x.device:
            self._signs = self._signs.to(x.device)
        return self._signs


def kernels_know(rotation: Rotation) -> bool:
    """Whether a rotation is D H / sqrt(n) with the H that rotviz.kernels.hadamard applies."""
    if not isinstance(rotation, HadamardRotation):
        return False
    made = hadamard_base(rotation.size)
    if made is None or made.base != rotation.base:
        return False
    known = base_matrix(made.base).double()
    return torch.allclose(rotation.base_orthogonal, known / known[0].norm(), rtol=0, atol=1e-12)


def fuses(spec: QuantSpec) -> bool:
    """Whether the fused kernel's grid is the spec's: int, a scale a row, from a range that reaches zero (any symmetric range does), not searched."""
    return spec.number_format == "int" and spec.group == 0 and spec.clip != "mse" and (spec.symmetric or includes_zero(spec))
