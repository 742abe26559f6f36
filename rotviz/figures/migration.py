"""Difficulty migration: what rounding loses on activations, on weights and at the output while SmoothQuant moves range from one to the other.

    s = max|X|^a / max|W|^(1-a)                          a = 0: the weights keep their range, a = 1: the activations give all of theirs away
    activations  |X/s - Q(X/s)|^2 / |X/s|^2              weights  |W s - Q(W s)|^2 / |W s|^2
    output       |X W^T - Q(X/s) Q(W s)^T|^2 / |X W^T|^2

Activations are rounded token by token, weights output channel by output channel, both symmetric and unclipped. The paper sweeps accuracy over alpha;
one site's output error is the same question asked locally, of any model, in a second.

Reference: SmoothQuant (2211.10438), Fig. 5 and Fig. 10.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from rotviz.config import setting
from rotviz.figures import FIGURES, Needs, Panel, Seen
from rotviz.figures.readers import readers_weight, smoothed
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import fake_quantize
from rotviz.plots.curves import draw_curves
from rotviz.types import Granularity, QuantSpec


@FIGURES.register("migration")
@dataclass(frozen=True, slots=True)
class Migration:
    """See the top of the file."""

    title: ClassVar[str] = "SmoothQuant: difficulty moves from activations to weights"
    paper: ClassVar[str] = "SmoothQuant (2211.10438), Fig. 5 and 10"
    words: ClassVar[str] = ("The more range the activations give away, the easier they round and the harder the weights; what counts is the error "
                            "of the output; the dashed line stands at the alpha where it is lowest.")
    needs: ClassVar[Needs] = Needs.WEIGHTS

    bits: int = setting(8, "bits of activations and of weights", minimum=2, maximum=8)
    steps: int = setting(20, "steps of alpha from 0 to 1", minimum=4, maximum=100)

    def draw(self, seen: Seen) -> list[Panel]:
        """One panel."""
        by_token = QuantSpec(self.bits, True, Granularity.TOKEN)
        by_channel = QuantSpec(self.bits, True, Granularity.CHANNEL)
        output = seen.capture.site(seen.block, seen.site) @ readers_weight(seen).T
        alphas, rows = np.linspace(0, 1, self.steps + 1), []
        for alpha in alphas:
            seen.say(float(alpha), f"alpha {alpha:.2g}")
            found = smoothed(seen, float(alpha))
            x, w = torch.from_numpy(found.rows), torch.from_numpy(found.weight)
            qx, qw = fake_quantize(x, by_token), fake_quantize(w, by_channel)
            rows.append([relative_mse(x, qx), relative_mse(w, qw), relative_mse(output, qx @ qw.T)])
        lines = dict(zip(("activations", "weights", "output"), np.array(rows).T, strict=True))
        best = float(alphas[int(lines["output"].argmin())])
        return [Panel("", draw_curves(alphas, lines, now=best, x_words="alpha, the share of the range that moves to the weights",
                                      what=f"relative error at {self.bits} bits"))]
