"""Attention sinks beside massive tokens: who is looked at, and who carries the large numbers.

    left     share[b, t], the attention that token t gets from the later ones in block b, mean over heads (capture/attention.py)
    right    largest |h| of token t after block b

The tokens that carry massive activations are those that heads rest on: the two maps show the same columns. Under 4 bits it is their keys and values
that every other token reads. Departures: all blocks at once and means over heads, where the papers show single heads of chosen layers.

Reference: Massive Activations (2402.17762), Section 4; StreamingLLM (2309.17453), Fig. 2.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rotviz.capture.attention import attention_received
from rotviz.capture.inspect import Look, look
from rotviz.config import setting
from rotviz.evaluation.stream import stream_of
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.models.loading import load, weights_mark
from rotviz.plots.massive_map import draw_massive_map


@FIGURES.register("attention-sinks")
@dataclass(frozen=True, slots=True)
class AttentionSinks:
    """See the top of the file."""

    title: ClassVar[str] = "Attention sinks and massive tokens"
    paper: ClassVar[str] = "Massive Activations (2402.17762), Section 4; StreamingLLM (2309.17453), Fig. 2"
    words: ClassVar[str] = ("Attention that each token gets from the later ones, mean over heads, beside its largest number in the residual stream: "
                            "a column that is bright in both is a sink that carries massive activations; all others read its keys and values.")
    needs: ClassVar[Needs] = Needs.STREAM

    log: bool = setting(True, "colors on a log scale", label="Log colors")

    def draw(self, seen: Seen) -> list[Panel]:
        """Two maps of blocks by tokens."""
        received = _received(seen.look, weights_mark(seen.look.model))
        stream = stream_of(seen.capture)
        tokens = list(seen.capture.tokens)[:-1]  # nobody looks at the last one
        parts = {"attention received": draw_massive_map(received[:, :-1], tokens, log=self.log, what="share of attention"),
                 "largest |hidden state|": draw_massive_map(stream.peaks[:, :-1], tokens, channels=stream.channels[:, :-1], log=self.log)}
        return [Panel(title, drawing) for title, drawing in parts.items()]


@lru_cache(maxsize=4)
def _received(wanted: Look, mark: str) -> np.ndarray:
    """By the model's weights as well: a folder may be filled anew."""
    from rotviz.models.walk import BlockSource

    return attention_received(look(wanted), BlockSource(load(wanted.model).model))
