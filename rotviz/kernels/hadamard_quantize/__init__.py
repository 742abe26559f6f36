"""The Hadamard transform fused with per-token quantization: rows in, packed codes and one scale a row out.

What an online R4 before a 4-bit product needs: 16-bit rows are read once and leave as 4-bit codes, so it moves 2.5 bytes a number where a
transform followed by a quantization moves 6.5. Conventions are those of rotviz.kernels.hadamard and rotviz.numerics.grids.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import fits, takes_triton
from rotviz.kernels.hadamard import check
from rotviz.kernels.hadamard import obstacle as transform_obstacle
from rotviz.kernels.hadamard_quantize import reference
from rotviz.kernels.packed import Packed, check_spec
from rotviz.kernels.quantize import clip_ratio, includes_zero, room_for
from rotviz.types import QuantSpec


def hadamard_quantize(x: Tensor, spec: QuantSpec, signs: Tensor | None = None, *, backend: str = "auto") -> Packed:
    """Codes of x D H / sqrt(n) with one scale a token.

    Args:
        x: [..., n], floating point.
        spec: 2 to 8 bits a token, symmetric or not, with a clip ratio.
        signs: [n] of +-1 or None.
        backend: auto, torch or triton.

    Raises:
        BadInput: the spec is not per token or not of format int, its clip is searched, no Hadamard matrix has the order, or the backend cannot run.
    """
    check(x, signs)
    check_spec(spec, x.shape[-1])
    if spec.number_format != "int":
        raise BadInput(f"the fused kernel rounds to the grid int, not to {spec.number_format}; transform first, then quantize")
    if not includes_zero(spec):
        raise BadInput(f"the fused kernel gives each token one scale, not each {spec.granularity.value} of {spec.group or 'all'}; transform first, "
                       "then quantize")
    ratio = clip_ratio(spec)
    if not takes_triton(x, backend, transform_obstacle(x)):
        return reference.hadamard_quantize(x, spec, signs)
    from rotviz.kernels.hadamard_quantize.triton_kernel import launch

    rows = x.reshape(-1, x.shape[-1]).contiguous()
    packed = room_for(x, spec, x.shape[-1])
    flips = None if signs is None else signs.to(x.device, torch.int8)
    if rows.numel() and not fits(backend, launch, rows, packed, flips, ratio):
        return reference.hadamard_quantize(x, spec, signs)
    return packed
