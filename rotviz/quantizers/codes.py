"""The variables of learned rounding for one weight: what moves its codes, its ranges and, on a power grid, its exponent (rounding.py has the
formulas).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.numerics.grids import CodedGrid, clip_ratio, grid_of, group_range
from rotviz.numerics.power_grid import HIGHEST, LOWEST, PowerGrid
from rotviz.numerics.scale import Scale, round_through
from rotviz.quantizers import Part
from rotviz.quantizers.descent import Group

FREEDOMS = ("up_down", "signround", "wide", "latent")
SELECTIONS = ("channels", "weights", "undecided")
ZETA, GAMMA = 1.1, -0.1
SMALLEST_RANGE = 0.05


@dataclass
class _Learned:
    """One part of a weight: its numbers [n, groups, size], and the variables. `fixed` is what its rows are where nothing is learned."""

    part: Part
    numbers: Tensor
    low: Tensor
    high: Tensor
    nudge: Tensor
    low_share: Tensor
    high_share: Tensor
    exponent: Tensor | None
    grid: CodedGrid
    start: Tensor
    mask: Tensor


class LearnedCodes:
    """A weight [N, D] whose rounding is learned.

    Args:
        weight: in float32 or wider; not changed.
        parts: its output channels by precision; parts of 16 bits stay in float.
        freedom: one of FREEDOMS; `levels` is how far "wide" reaches.
        in_weights: the variable is in units of the weight's mean step, not of each row's own.
        learn_range, learn_exponent: what is learned beside the codes.
        share, selection: how many of the weights have codes that are learned, and which (SELECTIONS); drawn from the generator.
    """

    def __init__(self, weight: Tensor, parts: list[Part], *, freedom: str, levels: float, in_weights: bool, learn_range: bool, learn_exponent: bool,
                 share: float, selection: str, generator: torch.Generator) -> None:
        self.original, self.freedom = weight, freedom
        self.bound = {"signround": 0.5, "wide": levels}.get(freedom)
        self.in_weights, self.learn_range, self.learn_exponent = in_weights, learn_range, learn_exponent
        self.parts = [self._begin(part, share, selection, generator) for part in parts if part.spec.quantizes]

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.groups())

    def weight(self, hard: bool) -> Tensor:
        """The quantized weight: exactly on the grid, or with a gradient for the variables."""
        if len(self.parts) == 1 and len(self.parts[0].numbers) == len(self.original):
            return self._values(self.parts[0], hard).flatten(1)
        result = self.original
        for one in self.parts:
            result = result.index_copy(0, one.part.rows.to(result.device), self._values(one, hard).flatten(1))
        return result

    def groups(self, slower: float = 1.0) -> list[Group]:
        """The variables for the optimizer; ranges and exponents at `slower` times the codes' rate."""
        found = []
        for one in self.parts:
            if bool(one.mask.any()):
                found.append(Group(one.nudge, mask=one.mask))
            if self.learn_range:
                found += [Group(one.low_share, slower), Group(one.high_share, slower)]
            if self.learn_exponent and one.exponent is not None:
                found.append(Group(one.exponent, slower))
        return found

    def project(self) -> None:
        """Bring every variable back to where it may be."""
        for one in self.parts:
            if self.bound is not None:
                one.nudge.data.clamp_(-self.bound * self._unit(one), self.bound * self._unit(one))
            one.low_share.data.clamp_(SMALLEST_RANGE, 1.0)
            one.high_share.data.clamp_(SMALLEST_RANGE, 1.0)
            if one.exponent is not None:
                one.exponent.data.clamp_(LOWEST, HIGHEST)

    def undecided(self, beta: float) -> Tensor:
        """AdaRound's penalty: the mean of 1 - |2h - 1|^beta over the weights that are learned."""
        return sum(((1 - (2 * _opening(one.nudge) - 1).abs().pow(beta)) * one.mask).sum() / one.mask.sum().clamp_min(1)
                   for one in self.parts) / max(1, len(self.parts))

    def state(self) -> list[Tensor]:
        """A copy of every variable."""
        return [v.detach().clone() for one in self.parts for v in self._variables(one)]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a state."""
        for variable, value in zip([v for one in self.parts for v in self._variables(one)], state):
            variable.data.copy_(value)

    def summary(self) -> dict[str, float]:
        """Share of codes that differ from plain rounding's, mean share of the ranges that is kept, exponents as learned and as searched."""
        if not self.parts:
            return {}
        with torch.no_grad():
            flips = sum(float((self._codes(one, self._scale(one), hard=True) != one.start).sum()) for one in self.parts)
            found = {"flips": flips / sum(one.numbers.numel() for one in self.parts),
                     "range": float(torch.cat([((one.low_share + one.high_share) / 2).flatten() for one in self.parts]).mean())}
            exponents = [(float(one.exponent), float(one.grid.exponent)) for one in self.parts if one.exponent is not None]
        if exponents:
            learned, searched = (sum(column) / len(exponents) for column in zip(*exponents))
            found |= {"exponent": learned, "searched_exponent": searched}
        return found

    def _begin(self, part: Part, share: float, selection: str, generator: torch.Generator) -> _Learned:
        rows = self.original[part.rows.to(self.original.device)]
        numbers = rows.unflatten(-1, (-1, part.spec.group_for(rows.shape[1])))
        grid = grid_of(part.spec).bound(numbers, part.spec)
        low, high = group_range(numbers, part.spec)
        ratio = torch.as_tensor(clip_ratio(numbers, low, high, part.spec, grid), dtype=low.dtype, device=low.device).expand_as(low)
        exponent = torch.tensor(grid.exponent, dtype=low.dtype, device=low.device, requires_grad=True) if isinstance(grid, PowerGrid) else None
        one = _Learned(part, numbers, low, high, torch.zeros_like(numbers), ratio.clone().requires_grad_(), ratio.clone().requires_grad_(), exponent,
                       grid, torch.empty(0), torch.ones_like(numbers))
        with torch.no_grad():
            scale = self._scale(one)
            one.start = grid.codes(numbers, scale, part.spec)
            if share < 1:
                one.mask = _chosen(grid.place(numbers, scale), share, selection, generator)
            if self.freedom == "up_down":
                one.nudge = _closed(grid.place(numbers, scale))
        one.nudge.requires_grad_()
        return one

    def _values(self, one: _Learned, hard: bool) -> Tensor:
        if hard:
            with torch.no_grad():
                scale = self._scale(one)
                return self._grid(one).values(self._codes(one, scale, hard=True), scale)
        scale = self._scale(one)
        return self._grid(one).read(self._codes(one, scale, hard=False), scale)

    def _codes(self, one: _Learned, scale: Scale, hard: bool) -> Tensor:
        place = self._grid(one).place(one.numbers, scale)
        low, high = self._grid(one).code_range(one.part.spec)
        if self.freedom == "up_down":
            up = _opening(one.nudge)
            if not hard:  # what is not learned is where it will be in the end
                up = torch.where(one.mask > 0, up, (up >= 0.5).to(up))
            return (place.detach().floor() + (up >= 0.5).to(place) if hard else place.detach().floor() + up).clamp(low, high)
        moved = place + one.nudge / self._unit(one)
        return (moved.round() if hard else round_through(moved)).clamp(low, high)

    def _scale(self, one: _Learned) -> Scale:
        return self._grid(one).scale(one.low * one.low_share, one.high * one.high_share, one.part.spec)

    def _grid(self, one: _Learned) -> CodedGrid:
        return one.grid if one.exponent is None else PowerGrid(one.exponent)

    def _unit(self, one: _Learned) -> Tensor | float:
        """What one code is in units of the variable: with `in_weights` each group's step over the mean step, else 1."""
        if not self.in_weights or self.freedom == "up_down":
            return 1.0
        with torch.no_grad():
            step = one.grid.scale(one.low, one.high, one.part.spec).step
            return step / step.mean()

    @staticmethod
    def _variables(one: _Learned) -> list[Tensor]:
        return [one.nudge, one.low_share, one.high_share] + ([] if one.exponent is None else [one.exponent])


def _chosen(place: Tensor, share: float, selection: str, generator: torch.Generator) -> Tensor:
    """1 for the numbers [n, groups, size] whose codes are learned, 0 for the others; `place` is where they lie between the levels."""
    if selection == "channels":
        return (torch.rand(len(place), generator=generator) < share).to(place)[:, None, None].expand_as(place)
    if selection == "weights":
        return (torch.rand(place.shape, generator=generator) < share).to(place)
    off = (place - place.floor() - 0.5).abs()
    wanted = round(share * off.numel())
    return (off <= off.flatten().kthvalue(wanted).values).to(place) if wanted else torch.zeros_like(place)


def _opening(v: Tensor) -> Tensor:
    """AdaRound's h: how far up a weight is, from 0 to 1."""
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _closed(place: Tensor) -> Tensor:
    """The variable at which h is the fractional part: nothing moved yet."""
    return torch.logit(((place - place.floor()) - GAMMA) / (ZETA - GAMMA))
