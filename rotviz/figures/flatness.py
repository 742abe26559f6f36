"""Flatness: the norms of a site's channels, sorted from the largest to the smallest, under several transforms in one frame.

    |x_:c|_2 / sqrt(mean_c |x_:c|_2^2)      1 for every channel when the site is perfectly flat

A flat curve spends a grid's levels on every channel alike. FlatQuant breaks the axis to show the largest channels; here it is logarithmic.
SmoothQuant (X / s, readers.py) is drawn as well where an alpha is given; it needs the weights that read the site.

Reference: FlatQuant (2410.09426), Fig. 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rotviz.config import setting
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.figures.readers import smoothed
from rotviz.plots.error_by_channel import draw_error_by_channel


@FIGURES.register("flatness")
@dataclass(frozen=True, slots=True)
class Flatness:
    """See the top of the file."""

    title: ClassVar[str] = "Flatness: sorted channel norms"
    paper: ClassVar[str] = "FlatQuant (2410.09426), Fig. 1"
    words: ClassVar[str] = "Channel norms in order, one line for each transform: the flatter the line, the better one grid fits all channels."
    needs: ClassVar[Needs] = Needs.SITE

    rotations: tuple[str, ...] = setting(("none", "orthogonal", "hadamard"), "a line for each of these rotations")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    alpha: float = setting(0.0, "also after SmoothQuant with this alpha; 0 = without it", minimum=0, maximum=1, label="SmoothQuant alpha")

    def draw(self, seen: Seen) -> list[Panel]:
        """One panel."""
        lines = {label: _norms(seen.rows(turn)) for label, turn in seen.turns(self.rotations, self.seed).items()}
        if self.alpha:
            lines[f"SmoothQuant, alpha {self.alpha:g}"] = _norms(smoothed(seen, self.alpha).rows)
        return [Panel("", draw_error_by_channel(lines, sort=True, unit="channel norm / rms of all", rank="norm"))]


def _norms(rows: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=0))
    return norms / max(float(np.sqrt(np.mean(norms**2))), 1e-300)
