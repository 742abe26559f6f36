"""Lesson 6, Hadamard butterflies: sums and differences of pairs, log2 n times, spread one spike over all n numbers.

    (a, b) -> (a + b, a - b) / sqrt 2        n log2 n additions instead of n^2 products

A spike M becomes +-M / sqrt n everywhere. Numbers that are all equal go the other way: a Hadamard matrix gathers them into one spike, which is why
random signs come first.
"""

import numpy as np
import torch
from torch import Tensor

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, nearest
from rotviz.numerics.orthogonal import random_signs
from rotviz.plots.bars import draw_bars
from rotviz.plots.butterflies import draw_butterflies
from rotviz.plots.words import number

SIZES = ("4", "8", "16")
SPIKE, EQUAL = "a live spike", "all equal"


def stages(x: Tensor) -> list[Tensor]:
    """The numbers [n], n a power of two, before and after each stage of butterflies, each divided by sqrt 2."""
    found, bit = [x], 1
    while bit < len(x):
        pairs = found[-1].unflatten(0, (-1, 2, bit))
        found.append(torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).flatten() / 2**0.5)
        bit *= 2
    return found


def numbers(material: Material, n: int, kind: str) -> tuple[Tensor, str]:
    """The n numbers to transform, and where they are from."""
    if kind == EQUAL:
        return torch.ones(n, dtype=torch.float64), f"{n} numbers that are all 1."
    row = material.rows[material.heaviest]
    channel = int(row.abs().argmax())
    first = min(channel // n * n, len(row) - n)
    return row[first : first + n].double(), f"Channels {first} to {first + n - 1} of token {material.positions[material.heaviest]}, around its spike."


def find(material: Material, dials: Dials) -> Finding:
    """What becomes of the largest of n numbers."""
    n, kind = int(dials["n6"]), str(dials["kind6"])
    x, where = numbers(material, n, kind)
    if dials["signs6"]:
        x = x * random_signs(n, torch.Generator().manual_seed(1)).double()
        where += " Random signs have been put on them."
    found = stages(x)
    peaks = [float(stage.abs().max()) for stage in found]
    ratio = peaks[-1] / peaks[0]
    root = round(n**0.5, 2)
    factors = (n**0.5, 1.0, n**-0.5, 1 / n)
    why = (f"The largest goes from {number(round(peaks[0], 3))} to {number(round(peaks[-1], 3))}, **{number(round(ratio, 3))}** of it, in "
           f"{len(found) - 1} stages; 1/√{n} is {number(round(1 / root, 3))}. The energy stays, so nothing can be lost, only dealt out. "
           + ("A spike meets no partner of its size, so each stage splits it in two." if ratio < 0.75 else
              "Numbers of one sign and size add up in one place: that is why a Hadamard rotation flips random signs first."))
    names = [str(i) for i in range(n)]
    return Finding(
        f"All {len(found) - 1} stages are run over these {n} numbers. What becomes of the largest magnitude?",
        (f"It grows by about √{n} = {number(root)}", "It stays about the same", f"It shrinks to about 1/√{n}", f"It shrinks to about 1/{n}"),
        nearest(ratio, factors), why,
        before=((draw_bars(names, x.numpy(), what="value", x_words="position"), where),),
        after=((draw_butterflies(np.stack([stage.numpy() for stage in found])), "Each column is a stage; solid lines add, dashed ones subtract."),))


BUTTERFLIES = Lesson(
    "Butterflies", "Hadamard butterflies",
    "A Hadamard matrix has entries of one size and only signs differ, so it deals a spike out evenly. It need not be multiplied out: sums and "
    "differences of pairs, log₂ n times, do the same. But what it deals out it can also gather, and random signs guard against that.",
    (r"H_1 = 1, \qquad H_{2n} = \begin{pmatrix} H_n & H_n \\ H_n & -H_n \end{pmatrix}", r"H_n^\top H_n = n\,I",
     r"M e_c \tfrac{1}{\sqrt n} H_n = \tfrac{M}{\sqrt n}\,(\pm 1, \dots, \pm 1)"),
    (Dial("n6", "How many numbers", "8", options=SIZES), Dial("kind6", "Which numbers", SPIKE, options=(SPIKE, EQUAL)),
     Dial("signs6", "Random signs first", False, help="Multiply each number by +1 or -1, drawn once, as a randomized Hadamard rotation does.")),
    find,
    "Do the four numbers (8, 0, 0, 0) on the board by hand, one stage at a time, before you touch the dials. Vote on the live spike, reveal, then "
    "choose *all equal* and vote again: most will be wrong once. Then switch the signs on and ask what they are for. Ask how many additions 4,096 "
    "channels take with butterflies (49,152) and with a dense matrix (16.8 million).")
