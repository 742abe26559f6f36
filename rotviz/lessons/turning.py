"""Lesson 5, rotation in two dimensions: the same points, other axes, a finer grid.

    (u, v) = (x, y) [[cos a, sin a], [-sin a, cos a]]        u^2 + v^2 = x^2 + y^2

The loudest channel of the site against the fifth loudest. No distance changes under the rotation, but the largest coordinate does, and with
it the step of the grid that serves both. In two dimensions the gain is small and not certain: what is lost also depends on which points happen to
lie near a level. In many dimensions that averages out.
"""

import math

import numpy as np
import torch
from torch import Tensor

from rotviz.lessons.lesson import Dial, Dials, Finding, Lesson, Material, percent
from rotviz.plots.curves import draw_curves
from rotviz.plots.grid_cells import draw_grid_cells
from rotviz.plots.words import number

ANGLES = tuple(range(0, 91, 5))
OFFERED = (0, 15, 30, 45)


def two_channels(material: Material) -> tuple[int, int]:
    """The channel with the most energy on ordinary tokens, and the one with the fifth most."""
    order = material.rows[torch.from_numpy(material.ordinary)].square().mean(0).argsort(descending=True)
    return int(order[0]), int(order[min(4, len(order) - 1)])


def turned(points: Tensor, degrees: float) -> Tensor:
    """Points [N, 2] on axes that are turned by an angle."""
    a = math.radians(degrees)
    return points @ torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=points.dtype)


def step_of(points: Tensor, bits: int) -> float:
    """The step of a symmetric grid for all numbers together."""
    return float(points.abs().max()) / (2 ** (bits - 1) - 1) or 1.0


def error_at(points: Tensor, degrees: float, bits: int) -> float:
    """The share of energy that is lost at an angle, one step for both axes and all points."""
    there = turned(points, degrees)
    step = step_of(there, bits)
    return float((there - torch.round(there / step) * step).square().sum() / points.square().sum())


def find(material: Material, dials: Dials) -> Finding:
    """At which angle a grid loses least."""
    angle, bits = float(dials["angle5"]), int(dials["bits5"])
    loud, other = two_channels(material)
    points = material.rows[torch.from_numpy(material.ordinary)][:, [loud, other]]
    offered = [error_at(points, a, bits) for a in OFFERED]
    right = int(np.argmin(offered))
    curve = np.array([error_at(points, a, bits) for a in ANGLES])
    there, radius = turned(points, angle), 1.05 * float(points.norm(dim=1).max())
    peaks = [float(turned(points, a).abs().max()) for a in (0, OFFERED[right])]
    why = (f"{', '.join(f'{a}° loses {percent(e)}' for a, e in zip(OFFERED, offered, strict=True))}. The largest coordinate at {OFFERED[right]}° is "
           f"{number(round(peaks[1], 2))} and {number(round(peaks[0], 2))} without turning; it sets the step. {_bound(peaks[0], peaks[1])}")
    return Finding(
        f"At which of these angles does a {bits}-bit grid with one step for both axes lose the least?", tuple(f"{a}°" for a in OFFERED), right, why,
        before=((draw_grid_cells(there.numpy(), step_of(there, bits), reach=radius, what=(f"first axis (channel {loud} at 0°)",
                                                                                         f"second axis (channel {other} at 0°)")),
                 f"The ordinary tokens on axes turned by {number(angle)}°: turn, and watch the cells shrink and grow."),),
        after=((draw_curves(ANGLES, curve, now=angle, x_words="angle in degrees", what="relative error"),
                "Share of the energy that is lost at every angle."),))


def _bound(before: float, after: float) -> str:
    if after < 0.95 * before:
        return "A long axis points between the new ones, so neither has to reach as far: at best by a factor of √2 in two dimensions, √D in D."
    return ("Turning does not bring the largest coordinate down here: the step stays, and what remains is which points happen to lie near a level. "
            "With two channels that is luck; with D of them it averages out and the step can fall by up to √D.")


TURNING = Lesson(
    "Turning", "Rotation in two dimensions",
    "A rotation changes no distance and no energy, only the axes along which numbers are rounded. If the cloud of tokens lies far out on one axis, "
    "that axis sets the step for both. Turned between the axes, the same cloud needs a smaller step.",
    (r"(u, v) = (x, y)\begin{pmatrix} \cos\alpha & \sin\alpha \\ -\sin\alpha & \cos\alpha \end{pmatrix}", r"u^2 + v^2 = x^2 + y^2",
     r"(xR)(R^\top W) = xW"),
    (Dial("angle5", "Angle in degrees", 0, 0, 90, 5), Dial("bits5", "Bits", 3, 2, 5)),
    find,
    "Turn slowly from 0° and ask the class to call out when the cells are smallest, then vote. Ask why 45° wins where one channel is an outlier, "
    "and why nothing is gained where both are alike. Write (xR)(RᵀW) = xW on the board: the layer computes the same. Ask how small the step can "
    "become in D dimensions (√D times smaller), which is the next lesson.")
