"""A random orthogonal matrix in every slot (RO in the papers), drawn from the Haar measure.

The plain control for the Hadamard rotation: it spreads outliers as well on ordinary tokens, but turns a token of a few huge spikes into a
Gaussian one, where Hadamard gives a few discrete levels that a 4-bit grid holds well (DFRot, arXiv 2412.00648). Online (R3, R4) it costs a
dense product a token, n^2 multiply-adds; the papers use it for R1 and R2 and keep Hadamard online.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rotviz.numerics.orthogonal import haar
from rotviz.numerics.rotation import DenseRotation, Rotation
from rotviz.rotations import ROTATIONS
from rotviz.types import Slot


@ROTATIONS.register("orthogonal")
@dataclass(frozen=True, slots=True)
class Orthogonal:
    """R = Q of a Gaussian matrix, sign-fixed."""

    summary: ClassVar[str] = "A random orthogonal matrix, evenly drawn; the control for Hadamard, and slow online."

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """A Haar rotation, dense in every slot."""
        return DenseRotation(haar(size, generator), name="random orthogonal (Haar)")
