"""Lesson 4, per channel and per token: which numbers share a scale.

    X W:   sum_j x_tj w_jk  =  s_t s_k sum_j q_tj q_jk        a scale for each token t leaves the sum
                            =  sum_j s_j q_tj w_jk            a scale for each channel j does not

Outliers of trained models sit in channels, so a scale for each channel would be the cure; but the product of integers cannot carry it. SmoothQuant
(arXiv 2211.10438) moves it into the weights, a rotation makes it superfluous.
"""

import numpy as np
from torch import Tensor

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, percent, with_bits
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import fake_quantize
from rotviz.plots.bars import draw_bars
from rotviz.plots.token_channel_map import draw_token_channel_map
from rotviz.types import QuantSpec

WAYS = ("the whole tensor", "each token", "each channel")


def errors_by_sharing(rows: Tensor, spec: QuantSpec) -> list[float]:
    """The share of energy that is lost with one scale for all, one for each token, one for each channel."""
    whole = fake_quantize(rows.reshape(1, -1), spec).reshape(rows.shape)
    return [relative_mse(rows, after) for after in (whole, fake_quantize(rows, spec), fake_quantize(rows.T.contiguous(), spec).T)]


def find(material: Material, dials: Dials) -> Finding:
    """Which numbers should share a scale, before and after a rotation."""
    spec = with_bits(dials["bits4"], bool(dials["sym4"]))
    before, after = (np.array(errors_by_sharing(rows, spec)) for rows in (material.rows, material.turned("hadamard")))
    right = int(before.argmin())
    why = (f"The whole tensor loses {percent(before[0])}, each token {percent(before[1])}, each channel {percent(before[2])}. After a Hadamard "
           f"rotation a scale for each token loses {percent(after[1])} and one for each channel {percent(after[2])}. A scale for each channel "
           "stands inside the sum over channels, so an integer product cannot use it. A scale for each token stands outside, and a rotation is what "
           "can make it good enough.")
    return Finding(
        f"{spec.bits}-bit scales for these rows: which numbers should share one, to lose the least?",
        tuple(f"One scale for {way}" for way in WAYS), right, why,
        before=((draw_token_channel_map(material.rows.numpy(), material.texts, log=False, cells=(96, 160)),
                 "Look for bright columns (one channel, all tokens) and for lone bright dots (one token)."),),
        after=((draw_bars(WAYS, {"before": before, "after hadamard": after}, what="relative error", x_words="one scale for"),
                "Share of the energy that is lost; a rotation mends the scale for each token, which is the one that hardware can use."),))


SCALES = Lesson(
    "Scales", "Per channel and per token: who shares a scale",
    "A scale is shared by many numbers, and the largest of them decides it. Outliers of language models sit in a few channels, so a scale for "
    "each channel would shut them in. But a matrix product sums over the channels, and only a scale for each token can be taken out of that sum.",
    (r"\text{a token:}\quad y_{tk} = s_t\, s_k \sum_j q_{tj}\, q_{jk}", r"\text{a channel:}\quad y_{tk} = \sum_j s_j\, q_{tj}\, w_{jk}"),
    (Dial("bits4", "Bits", 4, 3, 8), Dial("sym4", "Symmetric", True)),
    find,
    "Let them find columns and dots in the map before anyone votes. After the reveal ask why hardware does not simply take the best bar, and let "
    "somebody write the sum on the board. Ask who wins at a block where a massive token is bright: the dot spoils the scale of its channel or of "
    "the whole tensor, but only its own token's. Then point at the bars after the rotation.")
