"""Round to nearest: every weight goes to the nearest level of its channel's (or group's) grid, nothing is learned.

    W^ = s clamp(round(W / s)),  s from the range of the row times the clip

With clip = "mse" the range is shrunk to where the error sum |W - W^|^2.4 is least, row by row (numerics.grids). That search is the strong form
of round-to-nearest, the one that QuaRot's RTN rows use; a plain "min-max RTN" is clip = "none".
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rotviz.numerics.grids import fake_quantize
from rotviz.quantizers import QUANTIZERS, QuantizedWeight
from rotviz.types import QuantSpec


@QUANTIZERS.register("rtn")
@dataclass(frozen=True, slots=True)
class RoundToNearest:
    """Rounds each weight to its nearest level."""

    summary: ClassVar[str] = "Round each weight to its nearest level."

    def quantize(self, weight: Tensor, spec: QuantSpec) -> QuantizedWeight:
        return QuantizedWeight(fake_quantize(weight, spec))
