"""Weights left in float: the reference, and the recipe for looking at activations alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rotviz.quantizers import QUANTIZERS, QuantizedWeight
from rotviz.types import QuantSpec


@QUANTIZERS.register("none")
@dataclass(frozen=True, slots=True)
class NoQuantizer:
    """Returns the weight as it is."""

    summary: ClassVar[str] = "Leave the weights in float."

    def quantize(self, weight: Tensor, spec: QuantSpec) -> QuantizedWeight:
        return QuantizedWeight(weight)
