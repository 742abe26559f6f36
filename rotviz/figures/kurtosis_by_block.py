"""Kurtosis by block: how heavy the tails of each site are, before and after a rotation.

    excess kurtosis = E[(x - mean)^4] / variance^2 - 3      over all tokens and channels of a site; 0 for a normal distribution

SpinQuant plots raw kurtosis, 3 for a normal distribution; here it is the excess, as in DartQuant's table.

Reference: SpinQuant (2405.16406), Fig. 3; DartQuant (2511.04063), Table 19.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.evaluation.sites import Turn
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.numerics.statistics import excess_kurtosis
from rotviz.plots.kurtosis_by_block import draw_kurtosis_by_block
from rotviz.types import QUANTIZED_SITES, Site


@FIGURES.register("kurtosis-by-block")
@dataclass(frozen=True, slots=True)
class KurtosisByBlock:
    """See the top of the file."""

    title: ClassVar[str] = "Kurtosis by block, before and after"
    paper: ClassVar[str] = "SpinQuant (2405.16406), Fig. 3; DartQuant (2511.04063), Table 19"
    words: ClassVar[str] = ("Excess kurtosis of each site over the depth: heavy tails waste the levels of a uniform grid, and a rotation brings "
                            "them to about zero.")
    needs: ClassVar[Needs] = Needs.DEPTH

    rotations: tuple[str, ...] = setting(("none", "hadamard"), "a dash for each of these rotations")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    sites: tuple[str, ...] = setting(("attn_in", "o_in", "mlp_in", "down_in"), "a line for each of these sites",
                                     choices=tuple(map(str, QUANTIZED_SITES)))

    def draw(self, seen: Seen) -> list[Panel]:
        """One panel."""
        if not self.sites:
            raise BadInput("sites is empty: name one or more, such as attn_in,mlp_in")
        turns = seen.turns(self.rotations, self.seed)
        found = {}
        for label, turn in turns.items():
            seen.say(len(found) / len(turns), f"tails under {label}")
            found[label] = {site: _by_block(seen, turn, Site(site)) for site in self.sites}
        return [Panel("", draw_kurtosis_by_block(found if len(found) > 1 else next(iter(found.values()))))]


def _by_block(seen: Seen, turn: Turn, site: Site) -> np.ndarray:
    return np.array([excess_kurtosis(torch.from_numpy(seen.rows(turn, block, site))) for block in range(seen.capture.blocks)])
