"""Token x channel spikes: |x| of every token and channel of one site in three dimensions, one panel for each rotation.

    height[t, c] = |x_tc|, in units of the panel's own root mean square where `rms` is set

The papers draw the original model alone, or beside what their method makes of it; here any rotations stand side by side with the same height.
Departure: of long texts the tokens with the largest peaks and evenly spaced others are drawn (plots/spikes.py).

Reference: Massive Activations (2402.17762), Fig. 1; SmoothQuant (2211.10438), Fig. 4.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rotviz.config import setting
from rotviz.figures import FIGURES, Needs, Panel, Seen, in_rms, unit_words
from rotviz.plots.spikes import draw_spikes


@FIGURES.register("spikes")
@dataclass(frozen=True, slots=True)
class Spikes:
    """See the top of the file."""

    title: ClassVar[str] = "Token × channel spikes"
    paper: ClassVar[str] = "Massive Activations (2402.17762), Fig. 1; SmoothQuant (2211.10438), Fig. 4"
    words: ClassVar[str] = ("Size of every activation by token and channel: needles are massive activations, a ridge is an outlier channel, and a "
                            "rotation should leave an even carpet.")
    needs: ClassVar[Needs] = Needs.SITE

    rotations: tuple[str, ...] = setting(("none", "hadamard"), "a panel for each of these rotations")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    rms: bool = setting(True, "in units of each panel's root mean square", label="In units of rms")
    lines: int = setting(64, "tokens drawn at most", minimum=1, maximum=256)

    def draw(self, seen: Seen) -> list[Panel]:
        """A panel for each rotation, all of one height."""
        sides = {label: in_rms(seen.rows(turn), self.rms) for label, turn in seen.turns(self.rotations, self.seed).items()}
        top = max(float(np.abs(rows).max()) for rows in sides.values())
        return [Panel(label, draw_spikes(rows, seen.texts, lines=self.lines, z_max=top, color_max=top, what=f"|{unit_words(self.rms)}|"))
                for label, rows in sides.items()]
