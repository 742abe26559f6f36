"""No rotation: every slot keeps its basis. The baseline that the other methods are compared with."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rotviz.numerics.rotation import IdentityRotation, Rotation
from rotviz.rotations import ROTATIONS
from rotviz.types import Slot


@ROTATIONS.register("none")
@dataclass(frozen=True, slots=True)
class NoRotation:
    """R = I on every slot."""

    summary: ClassVar[str] = "No rotation: the model's own basis, with its outliers."

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """The identity; the generator is not touched."""
        return IdentityRotation(size)
