"""A linear's weight before and after a rotation, on a grid: its distribution, what rounding it loses, and what the layer's output loses by that.

    as stored    W                 reads x                    the checkpoint's numbers
    folded       W diag(gain)      reads x / gain = norm(x)   the norm's gain moved into the weight, as R1 needs it
    rotated      R_out^T W diag(gain) R                       what a run with this rotation rounds

All three give the same outputs, so their errors may be compared (of a LayerNorm, whose offset moves to the bias, nearly). Two of them:

    of the weight    |W - Q(W)|^2 / |W|^2                      what a grid makes of the numbers, whatever is done with them
    of the output    |x (W - Q(W))^T|^2 / |x W^T|^2            the same error as the layer's input weighs it, on the rows of a capture

They need not agree. Rounding errors are nearly white, so the second is about the first times  a = |W|^2 |x|^2 / (D |x W^T|^2),  how much larger an
output a random weight of this size would give. Folding changes a: where a norm's gain held the stream's large channels down, the folded weight
meets them at full size, and the same weight error becomes a larger output error (SmolLM2 gate and up projections: two to three times at block 12).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.evaluation.sites import Turn, site_rows
from rotviz.models.walk import BlockSource
from rotviz.numerics.errors import ratio, relative_mse
from rotviz.numerics.grids import find_scale, grid_of
from rotviz.numerics.scale import Scale
from rotviz.rotations import ROTATIONS
from rotviz.surgery.plan import RotationPlan, Sizes, make_plan
from rotviz.surgery.saved import check_plan, load_plan, only
from rotviz.surgery.steps import linearize_experts, rewrite_block, steps_for
from rotviz.types import SITE_OF_ROLE, QuantSpec, Role

STORED, FOLDED, ROTATED = "as stored", "folded", "rotated"
FORMS = (STORED, FOLDED, ROTATED)
SAMPLED_ROWS, SAMPLED_TOKENS = 64, 128
"""Output channels of a linear, and tokens, that stand for all where every block is looked at: channels are rounded independently."""
STORED_GROUP = 32
"""Neighbours that share a scale in the GGUF formats of 4 bits."""
BINS, BINS_OF_ONE = 200, 64
_BEFORE_R1 = ("untie", "experts", "center", "fold")


@dataclass(frozen=True)
class Linear:
    """One linear of a block: its path, the roles it plays, its weight [N, D] in float32, and whether it is the only one of its role."""

    path: str
    roles: tuple[Role, ...]
    weight: Tensor
    alone: bool

    @property
    def role(self) -> str:
        """`q`, `gate`; `q+k+v` where one module serves several."""
        return "+".join(self.roles)


@dataclass(frozen=True)
class Spread:
    """A weight against its grid.

    counts [B], edges [B + 1], levels: in the weight's own unit where all the numbers share a scale, else in steps of each group's grid.
    low, high: where clipping begins. own_unit: which of the two.
    """

    counts: np.ndarray
    edges: np.ndarray
    levels: np.ndarray
    low: float
    high: float
    own_unit: bool


@dataclass(frozen=True)
class Loss:
    """What rounding loses: share of the weight's energy, of the output's (NaN where no rows are known), and the share of weights cut off."""

    weight: float
    output: float
    clipped: float


def plan_of(turn: Turn, sizes: Sizes) -> RotationPlan:
    """The rotations of a turn for a whole model.

    Raises:
        BadInput: the turn's file cannot be read or is for another model.
    """
    if turn.method == "none":
        return RotationPlan()
    if turn.file:
        plan = only(load_plan(Path(turn.file))[0], turn.slots)
        check_plan(plan, sizes, Path(turn.file))
        return plan
    return make_plan((turn.settings or ROTATIONS[turn.method]()).build, turn.slots, sizes, turn.seed)


def linears(source: BlockSource, plan: RotationPlan, block: int, form: str) -> list[Linear]:
    """The linears of a block in one of FORMS; the source is not changed."""
    view = source.owned(block)
    linearize_experts(view)
    if form != STORED:
        steps = [s for s in steps_for(plan, source.family) if s.name != "experts" and (form == ROTATED or s.name in _BEFORE_R1)]
        rewrite_block(view, steps)
    names = {module: name for name, module in view.block.named_modules()}
    modules = view.quantized_modules()
    every = [roles for roles in modules.values()]
    return [Linear(names[m], roles, m.weight.data.float(), every.count(roles) == 1) for m, roles in modules.items()]


def inputs_of(capture: Capture, block: int, role: Role, turn: Turn, form: str) -> Tensor:
    """The rows [T, D] that a linear of this role reads, in one of FORMS."""
    site = SITE_OF_ROLE[role]
    if form == ROTATED:
        return site_rows(capture, block, site, turn)
    return capture.site(block, site, folded=form == FOLDED and turn.acts_on(site))


def sampled(x: Tensor, most: int) -> Tensor:
    """At most so many rows of x, evenly spread, the first among them."""
    return x[:: max(1, -(-len(x) // most))]


def loss_of(weight: Tensor, spec: QuantSpec, rows: Tensor | None = None) -> Loss:
    """What rounding a weight to a grid loses; `rows` [T, D] are what it reads."""
    placed = _placed(weight, spec)
    at_output = float("nan")
    if rows is not None and rows.shape[-1] == weight.shape[-1]:
        at_output = relative_mse(rows @ weight.T, rows @ placed.rounded.T)
    low, high = _ends(placed.levels)
    clipped = (placed.places < low - 1e-4) | (placed.places > high + 1e-4)
    return Loss(relative_mse(weight, placed.rounded), at_output, float(clipped.double().mean()))


def spread_of(weight: Tensor, spec: QuantSpec, channel: int | None = None, bins: int = 0) -> Spread:
    """The distribution of a weight's numbers, or of one output channel's, with the grid's levels."""
    placed = _placed(weight, spec)
    levels, scale = placed.levels, placed.scale
    places = placed.places if channel is None else placed.places[channel:channel + 1]
    one = channel is not None and scale.step.shape[-2] == 1
    if one:
        step, zero = scale.step[channel].item(), scale.zero[channel].item()
        places, levels = (places - zero) * step, (levels - zero) * step
    numbers = places.flatten().double()
    low, high = float(levels[0]), float(levels[-1])
    air = 0.02 * (high - low)
    first, last = min(float(numbers.min()), low) - air, max(float(numbers.max()), high) + air
    counts, edges = np.histogram(numbers.numpy(), bins=bins or (BINS if channel is None else BINS_OF_ONE), range=(first, last))
    ends = _ends(levels)
    return Spread(counts, edges, levels.double().numpy(), *ends, one)


def distinct_in_groups(weight: Tensor, size: int = STORED_GROUP) -> int | None:
    """The most different numbers in any group of `size` neighbours: 16 or fewer where a weight has been stored with 4 bits. None where size does
    not divide the width."""
    if weight.shape[-1] % size:
        return None
    ordered = weight.reshape(-1, size).sort(-1).values
    return int((ordered.diff(dim=-1) != 0).sum(-1).max()) + 1


def amplification(weight: Tensor, rows: Tensor) -> float:
    """|W|^2 |x|^2 / (D |x W^T|^2): the output of a random weight of this size against this weight's."""
    out = float((rows @ weight.T).double().square().sum())
    return ratio(float(weight.double().square().sum()) * float(rows.double().square().sum()) / weight.shape[1], out)


def sampled_block(source: BlockSource, plan: RotationPlan, block: int, form: str) -> list[Linear]:
    """The linears of a block with SAMPLED_ROWS output channels each."""
    return [replace(one, weight=sampled(one.weight, SAMPLED_ROWS).clone()) for one in linears(source, plan, block, form)]


@dataclass(frozen=True)
class _Placed:
    """A weight on its grid: numbers [N, D] and levels in steps of the grid, the scales, and the rounded weight."""

    places: Tensor
    levels: Tensor
    scale: Scale
    rounded: Tensor


def _placed(weight: Tensor, spec: QuantSpec) -> _Placed:
    grouped = weight.unflatten(-1, (-1, spec.group_for(weight.shape[-1])))
    grid = grid_of(spec).bound(grouped, spec)
    scale = find_scale(grouped, spec, grid)
    low, high = grid.code_range(spec)
    unit = Scale(torch.ones(1), torch.zeros(1), scale.exponent)
    levels = grid.values(torch.arange(low, high + 1, dtype=weight.dtype), unit)
    rounded = grid.values(grid.codes(grouped, scale, spec), scale).flatten(-2)
    return _Placed((grouped / scale.step + scale.zero).flatten(-2), levels, scale, rounded)


def _ends(levels: Tensor) -> tuple[float, float]:
    """Half a gap outside the outermost levels: beyond these a number is cut off."""
    return (float(levels[0] - (levels[1] - levels[0]) / 2), float(levels[-1] + (levels[-1] - levels[-2]) / 2))
