"""Error scatter: every token's rounding error under two rotations, one panel for each pair.

    e_t = |x_t R - Q(x_t R)|^2 / |x_t|^2

Massive tokens (diamonds) sit apart from the cloud; on which side of the diagonal decides between the rotations. DFRot draws no rotation, random
orthogonal and randomized Hadamard in one scatter of three dimensions; here each pair has a plane of its own, and all panels share their axes.

Reference: DFRot (2412.00648), Fig. 1 and 4.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.evaluation.sites import token_errors
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.figures.grid import CLIP_WORDS, grid
from rotviz.plots.error_scatter import draw_error_scatter
from rotviz.plots.frame import shared_range

PAIRS = 3


@FIGURES.register("error-scatter")
@dataclass(frozen=True, slots=True)
class ErrorScatter:
    """See the top of the file."""

    title: ClassVar[str] = "Per-token error, rotation against rotation"
    paper: ClassVar[str] = "DFRot (2412.00648), Fig. 1 and 4"
    words: ClassVar[str] = ("A point is a token, its error under one rotation across and under the other up: below the diagonal the second loses "
                            "less. Massive tokens are diamonds.")
    needs: ClassVar[Needs] = Needs.SITE

    rotations: tuple[str, ...] = setting(("none", "orthogonal", "hadamard"), "two or three rotations; a panel for each pair")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    bits: int = setting(4, "bits an activation", minimum=2, maximum=8)
    clip: str = setting("0.9", CLIP_WORDS)

    def draw(self, seen: Seen) -> list[Panel]:
        """A panel for each pair of rotations, all with the same axes."""
        if not 2 <= len(self.rotations) <= PAIRS:
            raise BadInput(f"rotations = {', '.join(self.rotations)}: this figure compares two or three, such as none,orthogonal,hadamard")
        spec = grid(self.bits, self.clip)
        turns = seen.turns(self.rotations, self.seed)
        found = {label: token_errors(seen.capture, seen.block, seen.site, turn, spec) for label, turn in turns.items()}
        limits = shared_range(*(e.relative for e in found.values()), log=True)
        return [Panel(f"{a} – {b}", draw_error_scatter(found[a].relative, found[b].relative, seen.texts, name_a=a, name_b=b,
                                                       massive=np.flatnonzero(found[a].massive), axis_range=limits))
                for a, b in combinations(found, 2)]
