"""Lesson 8, Whip and the peak: learn a rotation, live, with QR-Orth and three losses.

    Z = Q U (QR), R = Q;  Z <- Z - Adam(dL/dZ)         DartQuant (arXiv 2511.04063): any Z gives an orthogonal R

    Whip      sum exp(-|o_i|)              lifts what is near zero; the energy being fixed, outliers come down
    peak      (sum |o_i|^p)^(2/p)          a smooth square of the largest |o_i|, which sets the step (ours)
    error     sum (o_i - Q(o_i))^2         what we want; its slope holds the grid fixed and does not see that the step could shrink

Learned on every other token and measured on the rest. On 32 channels of the site a hundred steps take a second.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, percent, with_bits
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.objectives import Objective, peak, quantization, whip
from rotviz.numerics.orthogonal import haar
from rotviz.numerics.qr_orth import Descent, latent_gradient, orthonormal
from rotviz.plots.curves import draw_curves
from rotviz.types import QuantSpec

CHANNELS, TOKENS = 32, 192
POWER = 12
RATE = 0.02
SHOWN = 12
"""Points of the curve."""
LOSSES: dict[str, Objective] = {"Whip": whip, "peak": peak(POWER), "the error itself": quantization}


def small_rows(material: Material) -> Tensor:
    """Rows [T, 32] of unit root mean square: the four loudest channels among others at even distances, ordinary tokens at even distances."""
    rows = material.rows[torch.from_numpy(material.ordinary)].double()
    rows = rows[torch.linspace(0, len(rows) - 1, min(TOKENS, len(rows))).round().long()]
    order = rows.square().mean(0).argsort(descending=True)
    size = min(CHANNELS, len(order))
    others = torch.linspace(4, len(order) - 1, size - 4).round().long()
    rows = rows[:, order[torch.cat([torch.arange(4), others])]]
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def descend(rows: Tensor, objective: Objective, spec: QuantSpec, steps: int, seed: int) -> Iterator[Tensor]:
    """The rotation before the first step and after every step; learned on all rows at once, the rate falling along a cosine."""
    z = haar(rows.shape[1], torch.Generator().manual_seed(seed)).double()
    descent = Descent("adam", 0.0, z)
    for step in range(steps + 1):
        q, u = orthonormal(z)
        yield q
        _, slope = objective(rows @ q, spec)
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / max(steps, 1)))
        z = descent.step(z, latent_gradient(q, u, rows.T @ slope / len(rows)), float(rate))


def error_of(rows: Tensor, rotation: Tensor, spec: QuantSpec) -> float:
    """What rounding loses under a rotation."""
    turned = rows @ rotation
    return relative_mse(turned, fake_quantize(turned, spec))


def find(material: Material, dials: Dials) -> Finding:
    """Which loss leads to the smallest error."""
    spec, steps, seed = with_bits(dials["bits8"]), int(dials["steps8"]), int(dials["seed8"])
    rows = small_rows(material)
    seen, rows = rows[0::2], rows[1::2]
    at = np.unique(np.linspace(0, steps, SHOWN + 1).round().astype(int))
    curves = {}
    for name, objective in LOSSES.items():
        kept = [error_of(rows, r, spec) for i, r in enumerate(descend(seen, objective, spec, steps, seed)) if i in at]
        curves[name] = np.array(kept)
    bare = relative_mse(rows, fake_quantize(rows, spec))
    ends = [found[-1] for found in curves.values()]
    right, names = int(np.argmin(ends)), list(LOSSES)
    start = next(iter(curves.values()))[0]
    why = (f"From {percent(start)} with the random start (no rotation: {percent(bare)}): "
           + ", ".join(f"{name} reaches {percent(e)}" for name, e in zip(names, ends, strict=True))
           + ". The error goes with the square of the largest number. The peak loss is a smooth form of just that, Whip gets there by lifting "
           "small numbers, and the slope of the error itself holds the grid fixed. Measured on tokens that were not learned from.")
    return Finding(
        f"Three rotations are learned from the same random start, {steps} steps each. Which loss leads to the smallest {spec.bits}-bit error?",
        tuple(f"{n[:1].upper()}{n[1:]}" for n in names), right, why,
        before=((draw_curves(np.linspace(0, 4, 33), {"Whip: exp(−|o|)": np.exp(-np.linspace(0, 4, 33)),
                                                     f"peak: |o|^{POWER}, scaled to 1 at 4": (np.linspace(0, 4, 33) / 4) ** POWER + 1e-9},
                             x_words="|o|, in units of the root mean square", what="loss of one number", y_range=(1e-6, 1.5)),
                 "What each loss charges one number: Whip dislikes small ones, the peak loss large ones."),),
        after=((draw_curves(at, curves, x_words="step", what="relative error"),
                f"Error of rounding along the way, on {rows.shape[1]} channels and {len(rows)} tokens that were not learned from."),))


WHIP = Lesson(
    "Whip and peak", "Whip, the peak, and QR-Orth",
    "A rotation can be learned from a few hundred tokens, without the model. QR-Orth lets an ordinary optimizer walk over any matrices Z and "
    "takes the orthogonal part of each. What remains is the question what to minimize.",
    (r"Z = QU, \quad R = Q, \quad Z \leftarrow Z - \eta\, \frac{\partial L}{\partial Z}",
     r"o = xR, \qquad L_{\text{Whip}} = \sum_i e^{-|o_i|}", r"L_{\text{peak}} = \Bigl(\sum_i |o_i|^{12}\Bigr)^{1/6}"),
    (Dial("bits8", "Bits", 4, 3, 6), Dial("steps8", "Steps", 80, 20, 160, 20), Dial("seed8", "Seed of the start", 0, 0, 9)),
    find,
    "Ask first what is wrong with minimizing the rounding error itself (rounding is a staircase, so its slope has to be taken with the grid held "
    "fixed). Let them vote from the two loss curves, then reveal. Change the seed before anyone believes the verdict, and ask how large a "
    "difference would convince them. Say that this takes 32 channels and a second; the page *Learn a rotation* does it for the whole model and "
    "compares with several unlearned seeds.")
