"""Weight quantizers, one file each: from a float weight to a quantized one, given what calibration saw.

A quantizer is a frozen configuration with a `quantize`; its name in the registry is its name in the recipe. The weight it is given stays
as it was.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from rotviz.registry import Registry
from rotviz.types import QuantSpec


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """What a quantizer returns.

    weight: the quantized values [N, D] in the original's dtype (fake quantization); notes: compromises that a reader should know of.
    """

    weight: Tensor
    notes: tuple[str, ...] = ()


class WeightQuantizer(Protocol):
    """What every file of this folder registers."""

    summary: ClassVar[str]
    """One sentence for the docs, the form and the table of methods."""

    def quantize(self, weight: Tensor, spec: QuantSpec) -> QuantizedWeight:
        """Quantize a weight [N outputs, D inputs]; one scale for an output channel or for a group of inputs."""


QUANTIZERS: Registry[type[WeightQuantizer]] = Registry("weight quantizer", package="rotviz.quantizers")
