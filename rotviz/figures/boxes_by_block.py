"""Box plots by block: how the values of one site are distributed at every block, one panel for each rotation.

    box 25 to 75 %, whiskers 1 to 99 %, marks at the smallest and the largest, of all tokens and channels

in units of each block's root mean square, since a rotation folds the norm's gain away and blocks differ in size. All panels share the axis.

Reference: the box plots of SpinQuant (2405.16406), Fig. 2 and 3, and of DartQuant (2511.04063).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rotviz.config import setting
from rotviz.evaluation.sites import Turn
from rotviz.figures import FIGURES, Needs, Panel, Seen, in_rms, unit_words
from rotviz.plots.boxes_by_block import PERCENTILES, draw_boxes_by_block
from rotviz.plots.frame import shared_range


@FIGURES.register("boxes-by-block")
@dataclass(frozen=True, slots=True)
class BoxesByBlock:
    """See the top of the file."""

    title: ClassVar[str] = "Box plots by block, before and after"
    paper: ClassVar[str] = "SpinQuant (2405.16406), Fig. 2; DartQuant (2511.04063)"
    words: ClassVar[str] = ("The values of one site at every block: most lie in the box, and the lone marks far outside are what stretches the "
                            "grid; a rotation pulls them in.")
    needs: ClassVar[Needs] = Needs.DEPTH

    rotations: tuple[str, ...] = setting(("none", "hadamard"), "a panel for each of these rotations")
    seed: int = setting(0, "seed of the random rotations", minimum=0)
    rms: bool = setting(True, "in units of each block's root mean square", label="In units of rms")

    def draw(self, seen: Seen) -> list[Panel]:
        """A panel for each rotation with one vertical axis."""
        turns = seen.turns(self.rotations, self.seed)
        boxes = {label: self._boxes(seen, turn, i / len(turns)) for i, (label, turn) in enumerate(turns.items())}
        limits = shared_range(*boxes.values(), symmetric_log=True)
        return [Panel(label, draw_boxes_by_block(found, y_range=limits, what=unit_words(self.rms))) for label, found in boxes.items()]

    def _boxes(self, seen: Seen, turn: Turn, done: float) -> np.ndarray:
        seen.say(done, f"values under {turn.label}")
        return np.stack([np.percentile(in_rms(seen.rows(turn, block), self.rms), PERCENTILES) for block in range(seen.capture.blocks)])
