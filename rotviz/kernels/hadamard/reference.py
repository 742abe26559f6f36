"""The Hadamard transform in torch: what the rotation operators of rotviz.numerics.rotation do. The slow twin of triton_kernel.py.

float16 and bfloat16 rows are turned in float32 and cast back, float64 stays float64: the truth the kernel is judged against.
"""

import functools

from torch import Tensor

from rotviz.numerics.rotation import HadamardRotation


def hadamard(x: Tensor, signs: Tensor | None, inverse: bool) -> Tensor:
    """x D H / sqrt(n), or x H^T D / sqrt(n) when inverse. x [..., n] of any float dtype; signs [n] of +-1 or None. Differentiable.

    Raises:
        BadInput: no Hadamard matrix of order n can be made.
    """
    rotation = _rotation(x.shape[-1])
    if signs is None:
        return rotation.apply_inverse(x) if inverse else rotation.apply(x)
    flips = signs.to(x.device, x.dtype)
    return rotation.apply_inverse(x) * flips if inverse else rotation.apply(x * flips)


@functools.lru_cache(maxsize=64)
def _rotation(n: int) -> HadamardRotation:
    return HadamardRotation(n)
