"""Lesson 3, an outlier: one number of a token sets the step for all the others.

    n numbers of size 1 and one of size M:    s ~ M,    error ~ n M^2 / 12 (2^(b-1) - 1)^2

Kept aside in float, the few largest numbers no longer stretch the grid. That is what LLM.int8() does (arXiv 2208.07339), at the price of a second,
slower product; a rotation gets the same without setting anything aside.
"""

import numpy as np
import torch

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, peak_ratios, percent, with_bits
from rotviz.numerics.grids import fake_quantize
from rotviz.plots.curves import draw_curves
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.words import count, number

KEPT = (0, 1, 2, 4, 8, 16, 32)
BORDERS = (0.8, 0.5, 0.2)
ANSWERS = ("More than 80 %", "50 to 80 %", "20 to 50 %", "Less than 20 %")


def error_without(rows: torch.Tensor, kept: int, bits: int) -> float:
    """The share of energy lost where the `kept` largest numbers of each row stay in float and the others have a grid of their own."""
    rest = rows.clone()
    if kept:
        rest.scatter_(-1, rows.abs().topk(min(kept, rows.shape[-1]), dim=-1).indices, 0.0)
    lost = (rest - fake_quantize(rest, with_bits(bits))).double().square().sum()
    return float(lost / rows.double().square().sum())


def find(material: Material, dials: Dials) -> Finding:
    """How much of the error goes when a few numbers are kept in float."""
    bits, k = int(dials["bits3"]), int(dials["kept3"])
    groups = {"ordinary tokens": material.ordinary, "massive tokens": material.massive}
    rows = {name: material.rows[torch.from_numpy(which)] for name, which in groups.items()}
    curves = {name: np.array([error_without(r, n, bits) for n in KEPT]) for name, r in rows.items()}
    before, after = curves["ordinary tokens"][0], error_without(rows["ordinary tokens"], k, bits)
    left = after / before if before else 1.0
    ratios = peak_ratios(material.rows).numpy().copy()
    ratios[material.massive] = -1
    row = int(ratios.argmax())
    share = k / material.rows.shape[1]
    why = (f"On the ordinary tokens rounding loses {percent(before)} of the energy, and {percent(after)} with the {count(k, 'largest number')} of "
           f"each token kept in float: **{percent(left)}** of the error is left. That is {percent(share)} of the numbers. The step follows the "
           "largest number that is left.")
    return Finding(
        f"Keep only the {count(k, 'largest number')} of each ordinary token in float, {percent(share)} of all. "
        f"How much of the {bits}-bit error is left?",
        ANSWERS, sum(left <= border for border in BORDERS), why,
        before=((draw_token_channels(material.rows[row].numpy(), material.texts[row], int(material.positions[row]), top=3),
                 f"The ordinary token with the worst outlier: {number(float(ratios[row]))} times its root mean square."),),
        after=((draw_curves(KEPT, curves, now=k, x_words="numbers kept in float", what="relative error"),
                "A massive token is cured by its first few numbers; ordinary ones need as many as there are outlier channels."),))


OUTLIER = Lesson(
    "Outlier", "An outlier: one number spoils the rest",
    "All channels of a token share one step, and the largest channel sets it. A channel ten times the others makes the step ten times as wide, so "
    "the others share one or two levels. Take the few largest numbers out, and the grid fits the rest.",
    (r"s = \frac{\max_j |x_j|}{2^{b-1} - 1}", r"\sum_j (x_j - \hat x_j)^2 \approx \frac{D}{12} \, s^2 \propto \max_j |x_j|^2"),
    (Dial("bits3", "Bits", 4, 3, 8), Dial("kept3", "Largest numbers of a token kept in float", 4, 1, 32)),
    find,
    "Show the token: ask which number decides the grid. Ask how many of the channels one would have to take out, and let them commit. After the "
    "reveal move the block in the sidebar and look for a block without outliers. Say why nobody is content with this cure: numbers kept in float "
    "need a second product (LLM.int8()), and which they are changes with the token. The next lessons do better.")
