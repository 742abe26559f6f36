"""A quantized tensor as it lies in memory: codes in four or eight bits, a step and a zero for each group.

    x^ = step (q - zero)        int: zero is whole; int_min: it need not be, and the smallest number is a level

    bits    symmetric codes      asymmetric codes     a byte holds
    2..4    -2^(b-1)..2^(b-1)-1  0..2^b-1             two codes, the earlier channel in the low half (rotviz.kernels.packing)
    5..8    int8                 uint8                one

Steps and zeros are float32, because the fake quantization that is to be matched has float32 ones (rotviz.numerics.grids); the zero of a
group that does not reach 0 can be any whole number. rotviz.kernels.cost counts them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.packing import reference as packing
from rotviz.numerics.grids import Quantized
from rotviz.types import QuantSpec

NIBBLE = 4
BYTE = 8
FORMATS = ("int", "int_min")
"""Number formats whose codes are packed."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Codes [..., D] (or uint8 [..., D / 2] where two share a byte), steps and zeros float32 [..., groups]; zero is None when symmetric.

    dtype is what the numbers were before, and are again after `dequantize`.
    """

    data: Tensor
    step: Tensor
    zero: Tensor | None
    spec: QuantSpec
    width: int
    dtype: torch.dtype

    @property
    def two_a_byte(self) -> bool:
        """Whether two codes share a byte."""
        return two_a_byte(self.spec)

    @property
    def groups(self) -> int:
        """Groups on the last axis."""
        return self.step.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, steps and zeros together."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.step, self.zero) if t is not None)

    def codes(self) -> Tensor:
        """The codes one by one, int16 [..., D]: wide enough for both int8 and uint8."""
        whole = packing.unpack(self.data, self.spec.symmetric) if self.two_a_byte else self.data
        return whole.to(torch.int16)


def two_a_byte(spec: QuantSpec) -> bool:
    """Whether a code of the spec fits in half a byte."""
    return spec.bits <= NIBBLE


def check_spec(spec: QuantSpec, width: int) -> int:
    """The group size for rows of that width.

    Raises:
        BadInput: the spec rounds nothing, is not an integer grid, its group does not divide the width, or two codes a byte do not fit it.
    """
    if not spec.quantizes or spec.number_format not in FORMATS:
        raise BadInput(f"packed codes hold an integer grid ({', '.join(FORMATS)}) with 2 to 8 bits, not {spec.number_format!r} with {spec.bits}")
    if two_a_byte(spec) and width % 2:
        raise BadInput(f"two codes share a byte, so a row needs an even width, not {width}; use 5 bits or more for it")
    return spec.group_for(width)


def code_dtype(spec: QuantSpec) -> torch.dtype:
    """The dtype that holds the codes of a spec in memory."""
    return torch.uint8 if two_a_byte(spec) or not spec.symmetric else torch.int8


def pack(quantized: Quantized) -> Packed:
    """The same numbers, packed: for weights that a quantizer has made.

    Raises:
        BadInput: see `check_spec`.
    """
    spec, width = quantized.spec, quantized.codes.shape[-1]
    check_spec(spec, width)
    codes = quantized.codes.to(torch.int16)
    data = packing.pack(codes) if two_a_byte(spec) else codes.to(code_dtype(spec))
    step, zero = quantized.scale.step.squeeze(-1).float(), quantized.scale.zero.squeeze(-1).float()
    return Packed(data, step, None if spec.symmetric else zero, spec, width, quantized.dtype)
