"""Two 4-bit codes in a byte, there and back. The layout is that of reference.py: the earlier code in the low half.

README.md says why neighbours share a byte and not, say, a number and the one half a row away.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.packing import reference


def pack(codes: Tensor, *, backend: str = "auto") -> Tensor:
    """Codes [..., D], D even, of an integer dtype -> uint8 [..., D / 2]. Only the low four bits of a code count.

    Raises:
        BadInput: D is odd, or the codes are not integers.
    """
    if not codes.ndim or codes.shape[-1] % 2 or codes.is_floating_point():
        raise BadInput(f"two integer codes share a byte, so the last axis must be even; got shape {tuple(codes.shape)} of {codes.dtype}")
    if not takes_triton(codes, backend):
        return reference.pack(codes)
    from rotviz.kernels.packing.triton_kernel import launch_pack

    data = torch.empty(*codes.shape[:-1], codes.shape[-1] // 2, dtype=torch.uint8, device=codes.device)
    if data.numel():
        launch_pack(codes.contiguous(), data)
    return data


def unpack(data: Tensor, *, signed: bool, backend: str = "auto") -> Tensor:
    """uint8 [..., D / 2] -> int8 [..., D]: -8..7 when signed, else 0..15.

    Raises:
        BadInput: the data are not bytes.
    """
    if not data.ndim or data.dtype != torch.uint8:
        raise BadInput(f"packed codes are uint8 rows, not {data.dtype} of shape {tuple(data.shape)}")
    if not takes_triton(data, backend):
        return reference.unpack(data, signed)
    from rotviz.kernels.packing.triton_kernel import launch_unpack

    codes = torch.empty(*data.shape[:-1], 2 * data.shape[-1], dtype=torch.int8, device=data.device)
    if data.numel():
        launch_unpack(data.contiguous(), codes, signed)
    return codes
