"""Lesson 7, massive tokens and DFRot: where a Hadamard and a random rotation differ.

    s e_c H = s / sqrt D (+-1, ..., +-1)      two levels: any grid holds them
    s e_c O = s (row c of O)                  Gaussian numbers: like any other token

DFRot (arXiv 2412.00648) found that this, on a token or two, is most of why Hadamard matrices beat random ones, and learns a rotation with those
tokens weighted. Whether it holds depends on the grid: with many bits neither loses anything worth speaking of.
"""

import numpy as np

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, percent, with_bits
from rotviz.plots.bars import draw_bars
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.words import count

METHODS = ("none", "orthogonal", "hadamard")
WORDS = {"none": "No rotation", "orthogonal": "A random orthogonal matrix", "hadamard": "A Hadamard matrix with random signs"}
CLIP = 0.9


def find(material: Material, dials: Dials) -> Finding:
    """Which rotation serves the massive tokens best."""
    spec, seed = with_bits(dials["bits7"], clip=CLIP), int(dials["seed7"])
    found = {name: np.array([material.error(material.turned(method, seed), spec, which) for method in METHODS])
             for name, which in (("massive tokens", material.massive), ("ordinary tokens", material.ordinary))}
    heavy, light = found["massive tokens"], found["ordinary tokens"]
    right, row = int(heavy.argmin()), material.heaviest
    many = count(int(material.massive.sum()), "massive token") if not material.stand_in else "the token with the largest peak, as none is massive"
    names = [words[:1].lower() + words[1:] for words in WORDS.values()]
    after = material.turned(METHODS[right], seed)[row].numpy()
    why = (f"On {many}: " + ", ".join(f"{m} loses {percent(e)}" for m, e in zip(names, heavy, strict=True)) + ". On the ordinary ones: "
           + ", ".join(f"{m} {percent(e)}" for m, e in zip(METHODS, light, strict=True))
           + ". A spike becomes two levels under a Hadamard matrix and Gaussian numbers under a random one. DFRot learns a rotation on all tokens, "
           "the massive ones weighted (page *Learn a rotation*).")
    shape = ("No token of this text is massive at this block; the nearest stands in." if material.stand_in else
             "A massive token behind a norm is nearly one spike.")
    text, place = material.texts[row], int(material.positions[row])
    return Finding(
        f"Which rotation loses the least on {'the massive tokens' if not material.stand_in else 'this token'}, {spec.bits} bits, clip {CLIP:g}?",
        tuple(WORDS[m] for m in METHODS), right, why,
        before=((draw_token_channels(material.rows[row].numpy(), text, place, top=2),
                 f"The token before any rotation. {shape}"),),
        after=((draw_bars(METHODS, found, what="relative error", x_words="rotation"),
                "Share of the energy that rounding loses, massive and ordinary tokens apart."),
               (draw_token_channels(after, text, place, top=2), f"The same token after {METHODS[right]}.")))


MASSIVE = Lesson(
    "Massive tokens", "Massive tokens and DFRot",
    "In trained models a token or two, mostly the first, hold a few numbers thousands of times the rest. Behind a norm such a token is nearly one "
    "spike. All rotations spread it, but not into the same shape, and the grid notices.",
    (r"s\,e_c H = \tfrac{s}{\sqrt D}\,(\pm 1, \dots, \pm 1)",
     r"s\,e_c O \approx \tfrac{s}{\sqrt D}\,(g_1, \dots, g_D), \quad g_j \sim \mathcal{N}(0, 1)",
     r"\min_R \textstyle\sum_{\text{ordinary}} E_t + \gamma \sum_{\text{massive}} E_t",
     r"E_t = |x_t R - Q(x_t R)|^2"),
    (Dial("bits7", "Bits", 4, 3, 8), Dial("seed7", "Seed of the rotations", 0, 0, 9)),
    find,
    "Go to a middle block in the sidebar first, so that a token is massive. Ask what the spike looks like after each rotation and let somebody "
    "draw it, then vote. After the reveal change the seed and see whether the verdict stays; where a Hadamard matrix also wins on ordinary tokens, "
    "ask why (a token with a few outlier channels is a small crowd of spikes). Ask whether one token can matter for a whole text (it does: every "
    "later token attends to it).")
