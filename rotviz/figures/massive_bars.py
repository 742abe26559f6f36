"""Massive and ordinary tokens: what rounding loses on each kind, rotation by rotation.

    sum_t |x_t R - Q(x_t R)|^2 / sum_t |x_t|^2      over the massive tokens, and over all others; the mean of several seeds

Reference: DFRot (2412.00648), its comparison of the two kinds of tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.evaluation.sites import Turn, massive_rows, token_errors
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.figures.grid import CLIP_WORDS, grid
from rotviz.plots.bars import draw_bars
from rotviz.rotations import ROTATIONS
from rotviz.types import QuantSpec


@FIGURES.register("massive-bars")
@dataclass(frozen=True, slots=True)
class MassiveBars:
    """See the top of the file."""

    title: ClassVar[str] = "Error of massive and of ordinary tokens"
    paper: ClassVar[str] = "DFRot (2412.00648)"
    words: ClassVar[str] = ("What rounding loses on ordinary tokens and on the few massive ones: rotations that look alike on the first may differ "
                            "many times on the second.")
    needs: ClassVar[Needs] = Needs.SITE

    rotations: tuple[str, ...] = setting(("none", "orthogonal", "hadamard"), "a pair of bars for each of these rotations")
    seeds: int = setting(3, "seeds of the random rotations that a bar is the mean of", minimum=1, maximum=20)
    bits: int = setting(4, "bits an activation", minimum=2, maximum=8)
    clip: str = setting("0.9", CLIP_WORDS)

    def draw(self, seen: Seen) -> list[Panel]:
        """One panel."""
        if not massive_rows(seen.capture, seen.block, seen.site).any():
            raise BadInput(f"no token is massive in the {seen.place} on this text: choose a block in the middle, a longer text, or let the "
                           "tokenizer add its first token; magnitude-by-block shows where massive tokens are")
        spec, bars = grid(self.bits, self.clip), {}
        for label, turn in seen.turns(self.rotations, 0).items():
            seen.say(len(bars) / len(self.rotations), f"rounding under {label}")
            bars[label] = self._mean(seen, turn, spec)
        both = np.array(list(bars.values()))
        return [Panel("", draw_bars(list(bars), {"massive tokens": both[:, 0], "ordinary tokens": both[:, 1]}, what="relative error",
                                    x_words=f"rotation (random ones: mean of {self.seeds} seed{'s' * (self.seeds > 1)})"))]

    def _random(self, turn: Turn) -> bool:
        """Whether a turn has further seeds: a saved rotation has not."""
        return turn.method in ROTATIONS and turn.method != "none" and not turn.file

    def _mean(self, seen: Seen, turn: Turn, spec: QuantSpec) -> tuple[float, float]:
        turns = [Turn(turn.method, seed) for seed in range(self.seeds)] if self._random(turn) else [turn]
        found = [token_errors(seen.capture, seen.block, seen.site, t, spec) for t in turns]
        return float(np.mean([e.mean_massive for e in found])), float(np.mean([e.mean_ordinary for e in found]))
