"""Channel ribbons: for every channel of one site, how its values spread over the tokens, one panel for each rotation.

    bands of x_:c over the tokens: smallest to largest, 1 to 99 %, 25 to 75 %, and the median

All panels share the vertical axis, which is linear near zero and logarithmic beyond where one number is far above the rest.

Reference: QuaRot (2404.00456), Fig. 1, before and after the rotation.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from rotviz.config import setting
from rotviz.figures import FIGURES, Needs, Panel, Seen, in_rms, unit_words
from rotviz.numerics.statistics import channel_quantiles
from rotviz.plots.channel_ribbons import PERCENTILES, draw_channel_ribbons
from rotviz.plots.frame import shared_range

HEAVY = 100
"""A largest number over the root mean square beyond which the axis is logarithmic away from zero."""


@FIGURES.register("channel-ribbons")
@dataclass(frozen=True, slots=True)
class ChannelRibbons:
    """See the top of the file."""

    title: ClassVar[str] = "Channel percentile ribbons"
    paper: ClassVar[str] = "QuaRot (2404.00456), Fig. 1"
    words: ClassVar[str] = ("The spread of every channel over the tokens: a channel that sticks out stretches the grid of all the others; after a "
                            "rotation all channels look alike.")
    needs: ClassVar[Needs] = Needs.SITE

    rotations: tuple[str, ...] = setting(("none", "hadamard"), "a panel for each of these rotations")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    rms: bool = setting(True, "in units of each panel's root mean square", label="In units of rms")
    sort: bool = setting(False, "order the channels by their largest value", label="Sort the channels")

    def draw(self, seen: Seen) -> list[Panel]:
        """A panel for each rotation with one vertical axis."""
        bands = {label: self._bands(seen.rows(turn)) for label, turn in seen.turns(self.rotations, self.seed).items()}
        heavy = max(float(np.abs(b).max()) for b in bands.values()) > HEAVY * min(float(np.abs(b[3]).mean() + b[4].mean()) for b in bands.values())
        limits = shared_range(*bands.values(), symmetric_log=heavy)
        return [Panel(label, draw_channel_ribbons(found, sort=self.sort, y_range=limits, symmetric_log=heavy, what=unit_words(self.rms)))
                for label, found in bands.items()]

    def _bands(self, rows: np.ndarray) -> np.ndarray:
        return channel_quantiles(torch.from_numpy(in_rms(rows, self.rms)), [p / 100 for p in PERCENTILES]).numpy()
