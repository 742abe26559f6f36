"""Magnitude by block: the three largest numbers of the residual stream after each block, beside the median.

    top-k of |h_b| over all tokens and channels, and median |h_b|

Reference: Massive Activations (2402.17762), Fig. 4.
"""

from dataclasses import dataclass
from typing import ClassVar

from rotviz.evaluation.stream import stream_of
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.words import visible


@FIGURES.register("magnitude-by-block")
@dataclass(frozen=True, slots=True)
class MagnitudeByBlock:
    """See the top of the file."""

    title: ClassVar[str] = "Top-3 magnitudes and median by block"
    paper: ClassVar[str] = "Massive Activations (2402.17762), Fig. 4"
    words: ClassVar[str] = ("The largest numbers of the residual stream appear at one early block and stay; the gap between them and the median is "
                            "what one grid has to bridge.")
    needs: ClassVar[Needs] = Needs.STREAM

    def draw(self, seen: Seen) -> list[Panel]:
        """One panel."""
        stream, tokens = stream_of(seen.capture), seen.capture.tokens
        strongest = stream.peaks.argmax(axis=1)
        where = [f"token {t} {visible(tokens[t])}, channel {stream.channels[b, t]}" for b, t in enumerate(strongest)]
        return [Panel("", draw_magnitude_by_block(stream.top, stream.median, where=where))]
