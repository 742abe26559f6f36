"""The randomized Hadamard rotation of QuaRot (arXiv 2404.00456): R = D H / sqrt(n), D random signs, H a Hadamard matrix.

All entries have the same size, so a token that is one spike becomes a token without any: sqrt(d) in one channel turns into +-1 in all. The
signs keep the constant row of H from gathering the mean of a token in one channel, and make a seed matter.

Departures. QuaRot and SpinQuant ship tables of Hadamard matrices and refuse other widths; here they are constructed
(numerics/hadamard.py), and a width that no construction reaches (13696 = 107 * 128) falls back to

    mixed   D (Q_K (x) S / sqrt(2^t)), Q_K random orthogonal of the size K of the odd part: mixes all channels, costs n K + n t
    blocks  I (x) H_b, b the largest divisor that has a Hadamard matrix: cheaper, mixes within b neighbours only

QuaRot puts random signs on folded slots only; here they are on the online ones too (n more multiplications), unless `randomize` is off.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.numerics.hadamard import hadamard_base, largest_hadamard_divisor
from rotviz.numerics.orthogonal import haar, random_signs
from rotviz.numerics.rotation import BlockDiagonalRotation, HadamardRotation, Rotation
from rotviz.rotations import ROTATIONS
from rotviz.types import Slot


@ROTATIONS.register("hadamard")
@dataclass(frozen=True, slots=True)
class Hadamard:
    """R = D H / sqrt(n)."""

    summary: ClassVar[str] = "A Hadamard matrix with random signs (QuaRot): spreads every spike evenly, without training, and fast online."

    randomize: bool = setting(True, "flip the sign of each channel at random first; off = the same matrix for every seed")
    block: int = setting(0, "channels that are mixed with each other; 0 = the whole width", minimum=0)
    fallback: str = setting("mixed", "what to do with a width that no Hadamard matrix is known for: mix its odd part by a random "
                            "orthogonal matrix, or use blocks", choices=("mixed", "blocks"))

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """The rotation of one slot.

        Raises:
            BadInput: the block does not divide the size.
        """
        block = self._block_for(size)
        signs = random_signs(size, generator) if self.randomize else None
        if block == size:
            return _whole(size, signs, generator)
        return BlockDiagonalRotation(_whole(block, None, generator), size // block, signs)

    def _block_for(self, size: int) -> int:
        if self.block and size % self.block:
            fitting = [d for d in range(2, size) if size % d == 0 and hadamard_base(d) is not None]
            raise BadInput(f"rotation block {self.block} does not divide the width {size}; these do: "
                           f"{', '.join(map(str, fitting)) or size}, or 0 for the whole width")
        if self.block:
            return self.block
        if self.fallback == "blocks" and hadamard_base(size) is None:
            return largest_hadamard_divisor(size)
        return size


def _whole(size: int, signs: Tensor | None, generator: torch.Generator) -> Rotation:
    if hadamard_base(size) is not None:
        return HadamardRotation(size, signs)
    odd = size // (size & -size)
    return HadamardRotation(size, signs, base=haar(odd, generator))
