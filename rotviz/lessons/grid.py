"""Lesson 1, the grid: what rounding to b bits does to the numbers of one token, and what one more bit buys.

    step s = max|x| / (2^(b-1) - 1)        error of a number: evenly spread over [-s/2, s/2], mean square s^2 / 12

So a bit halves the step and quarters the error: 6 dB a bit, as long as the grid is finer than the numbers. At 2 or 3 bits most numbers fall on zero
and the rule breaks.
"""

import numpy as np
import torch

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, nearest, percent, typical, with_bits
from rotviz.numerics.grids import code_range, quantize
from rotviz.plots.curves import draw_curves
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.words import number
from rotviz.types import QuantSpec

BITS = (2, 3, 4, 5, 6, 7, 8)
FACTORS = (1.0, 1 / 2, 1 / 4, 1 / 8)
ANSWERS = ("It stays about as it is", "It about halves", "It falls to about a quarter", "It falls to about an eighth")


def levels(x: torch.Tensor, spec: QuantSpec) -> np.ndarray:
    """The numbers that the grid of one row [D] can hold."""
    scale = quantize(x[None], spec).scale
    low, high = code_range(spec)
    return ((torch.arange(low, high + 1) - scale.zero.flatten()) * scale.step.flatten()).numpy()


def expected(material: Material, spec: QuantSpec) -> float:
    """s^2 / 12 for every number, as a share of the energy of the ordinary tokens; a step for each token."""
    rows = material.rows[torch.from_numpy(material.ordinary)].double()
    low, high = rows.amin(-1).clamp(max=0), rows.amax(-1).clamp(min=0)
    span = 2 * torch.maximum(high, -low) if spec.symmetric else high - low
    step = span / (2**spec.bits - (2 if spec.symmetric else 1))
    return float((step.square() / 12).sum() * rows.shape[1] / rows.square().sum())


def find(material: Material, dials: Dials) -> Finding:
    """What one more bit buys on the ordinary tokens."""
    bits, symmetric = int(dials["bits1"]), bool(dials["sym1"])
    row = typical(material.rows, material.ordinary)
    x, spec = material.rows[row], with_bits(bits, symmetric)
    measured = np.array([material.error(material.rows, with_bits(b, symmetric), material.ordinary) for b in BITS])
    rule = np.array([expected(material, with_bits(b, symmetric)) for b in BITS])
    here, more = measured[BITS.index(bits)], measured[BITS.index(bits + 1)]
    counts, edges = np.histogram(x.numpy(), bins=80)
    used = int(torch.unique(quantize(x[None], spec).codes).numel())
    why = (f"With {bits} bits rounding loses {percent(here)} of the energy, with {bits + 1} bits {percent(more)}: "
           f"**{number(round(more / here, 3))}** of it. A bit halves the step $s$, and the error goes with $s^2$; the line of $s^2/12$ leaves the "
           f"measured one where the grid is so coarse that most numbers become zero. Of the {2**bits} levels this token uses {used}.")
    return Finding(
        f"Take one more bit, {bits + 1} instead of {bits}. What becomes of the energy that rounding loses?",
        ANSWERS, nearest(more / here, FACTORS), why,
        before=((draw_histogram(counts, edges, levels=levels(x, spec), log=False),
                 f"The {len(x):,} numbers of a typical token (number {material.positions[row]}); dotted: the levels they are rounded to."),),
        after=((draw_curves(BITS, {"measured": measured, "rule s² / 12": rule}, now=bits, x_words="bits", what="relative error"),
                "Share of the energy that rounding loses, ordinary tokens; each bit divides it by four where the rule holds."),))


GRID = Lesson(
    "Grid", "The grid: a handful of levels",
    "A number format of b bits has 2ᵇ levels, and every number of a token moves to the nearest one. The largest number decides how far apart the "
    "levels stand. What is lost is about the same for every number, however small that number is.",
    (r"q = \mathrm{round}(x / s), \qquad \hat x = s\,q", r"s = \frac{\max|x|}{2^{b-1} - 1}",
     r"\mathbb{E}\,(x - \hat x)^2 \approx \frac{s^2}{12}"),
    (Dial("bits1", "Bits", 4, 2, 7),
     Dial("sym1", "Symmetric", True, help="A grid symmetric about zero; otherwise from the smallest to the largest number.")),
    find,
    "Begin with the histogram: ask where most numbers are and where most levels are. Let the class vote, then reveal. Ask why the rule fails at 2 "
    "bits (nearly all numbers are nearer to zero than to the first level, and then the error is the number itself). Engineers say *6 dB a bit*; "
    "let somebody work out that a factor of four is 6 dB. Switch Symmetric off and ask what changes and what does not.")
