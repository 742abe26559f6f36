"""Rotation methods, one file each: from a slot, a size and a seed (or calibration activations) to an orthogonal matrix.

A method is a frozen configuration with a `build`; its name in the registry is its name in the recipe.
"""

from typing import ClassVar, Protocol

import torch

from rotviz.numerics.rotation import Rotation
from rotviz.registry import Registry
from rotviz.types import Slot


class RotationMethod(Protocol):
    """What every file of this folder registers."""

    summary: ClassVar[str]
    """One sentence for the docs, the form and the table of methods."""

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """The rotation of one slot.

        Args:
            slot: where it will act; a method may choose differently for a folded and for an online slot.
            size: width of the axis that is turned.
            generator: source of all randomness (on the CPU, so that the same seed gives the same matrix on every machine).
        """


ROTATIONS: Registry[type[RotationMethod]] = Registry("rotation method", package="rotviz.rotations")
