"""Lesson 2, clipping: giving up the largest numbers of a token to have finer steps for all the others.

    error(c) = error of rounding, which falls as c^2, + error of cutting off, which grows as c shrinks

The least sum is rarely at c = 1: for Gaussian numbers at 4 bits near 0.8 of the largest of some hundred. It depends on the bits: the fewer, the
more a fine step is worth.
"""

import numpy as np
import torch

from rotviz.lessons.grid import levels
from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, percent, typical, with_bits
from rotviz.numerics.grids import fake_quantize
from rotviz.plots.curves import draw_curves
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.words import number

OFFERED = (1.0, 0.9, 0.75, 0.5)
CLIPS = tuple(round(0.3 + 0.05 * i, 2) for i in range(15))


def parts(rows: torch.Tensor, bits: int, clip: float) -> tuple[float, float]:
    """The error of numbers inside the clipped range and of those that were cut off, as shares of the energy."""
    error = (rows - fake_quantize(rows, with_bits(bits, clip=clip))).double().square()
    cut = rows.abs() > clip * rows.abs().amax(-1, keepdim=True)
    energy = float(rows.double().square().sum())
    return float(error[~cut].sum()) / energy, float(error[cut].sum()) / energy


def find(material: Material, dials: Dials) -> Finding:
    """Which of four clips loses least on the ordinary tokens."""
    bits, clip = int(dials["bits2"]), float(dials["clip2"])
    rows = material.rows[torch.from_numpy(material.ordinary)]
    found = np.array([parts(rows, bits, c) for c in CLIPS])
    total = found.sum(1)
    offered = [total[CLIPS.index(c)] for c in OFFERED]
    right = int(np.argmin(offered))
    best = CLIPS[int(total.argmin())]
    row = typical(material.rows, material.ordinary)
    x = material.rows[row]
    counts, edges = np.histogram(x.numpy(), bins=80)
    here = total[int(np.abs(np.array(CLIPS) - clip).argmin())]
    why = (f"{number(OFFERED[right])} loses {percent(offered[right])} of the energy; the whole range loses {percent(offered[0])} and half of it "
           f"{percent(offered[-1])}. Of all clips on the curve {number(best)} is the best. Your dial at {number(clip)} loses {percent(here)}.")
    return Finding(
        f"Which share of each token's range should a {bits}-bit grid cover?",
        tuple("All of it (1.0)" if c == 1 else f"{c:g} of it" for c in OFFERED), right, why,
        before=((draw_histogram(counts, edges, levels=levels(x, with_bits(bits, clip=clip)), log=False),
                 f"A typical token and the levels at clip {number(clip)}: beyond the last level everything moves back to it."),),
        after=((draw_curves(CLIPS, {"both together": total, "rounding": found[:, 0], "cutting off": found[:, 1]}, now=clip, x_words="clip",
                            what="relative error"),
                "Two errors against each other: finer steps to the left, fewer numbers cut off to the right."),))


CLIPPING = Lesson(
    "Clipping", "Clipping: give up the largest for the rest",
    "A grid need not reach the largest number. If it covers only a share c of the range, the steps shrink by c and every number inside is rounded "
    "more finely. The few numbers outside are cut off and pay for it.",
    (r"s = c\,\frac{\max|x|}{2^{b-1} - 1}, \qquad 0 < c \le 1",
     r"|x - \hat x|^2 = \underbrace{\textstyle\sum_{\text{inside}} (\cdot)^2}_{\text{rounding}} + "
     r"\underbrace{\textstyle\sum_{\text{outside}} (\cdot)^2}_{\text{cutting off}}",
     r"\text{inside:}\quad |x_i| \le c\,\max|x|"),
    (Dial("bits2", "Bits", 4, 2, 7), Dial("clip2", "Clip c", 0.8, 0.3, 1.0, 0.05)),
    find,
    "Draw the two costs on the board first and ask what the sum looks like. Let the class commit to a clip, then reveal. Then lower the bits and "
    "ask which way the best clip moves (left: with few levels a finer step is worth more). Say that QuaRot rounds activations with 0.9 and the KV "
    "cache with 0.95, and that *clip = mse* in this app searches it for every scale.")
