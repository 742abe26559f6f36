"""Spend a budget of bits where each bit helps most: marginal gains along convex hulls.

Each unit's cost as a function of its bits is replaced by its lower convex hull: the choices on it are reached in order, each next stretch with less
gain a bit than the one before. All stretches of all units are sorted by gain a bit and taken while they fit. That is the Lagrangian solution of

    minimize  sum cost_i(b_i) + lambda sum n_i b_i

and optimal whenever the last stretch taken ends exactly at the budget. What is left after a stretch that does not fit is offered to the smaller ones
behind it. With up to EXACT_UNITS units (single tensors of a small block) what the greedy pass leaves unspent can matter: there all sums of bits are
gone through by dynamic programming, which is optimal, provided that sizes have a common measure.

Closed form, for cost_i(b) = c_i 4^-b and bits that need not be whole (METHODS 14.3):   b_i = B + 1/2 log2(c_i / n_i) - weighted mean of the same.
"""

import itertools
import math

import torch
from torch import Tensor

from rotviz.allocation import Units

EXACT_UNITS = 64
EXACT_STATES = 200_000
"""Dynamic programming is used up to so many units, and so many sums of bits in units of the sizes' common measure."""


def spend(units: Units, budget: float) -> Tensor:
    """Bits of each unit, int64 [U], of the least cost (nearly) whose average is at most the budget."""
    room = units.room(budget)
    measure = math.gcd(*(int(n) for n in units.numbers.tolist()))
    if len(units.numbers) <= EXACT_UNITS and room / measure <= EXACT_STATES / len(units.choices):
        return _exact(units, int(room / measure), measure)
    return _greedy(units, room)


def hull(bits: list[int], cost: list[float]) -> list[int]:
    """Indices of the choices on the lower convex hull, from the fewest bits to the least cost."""
    kept: list[int] = []
    for i in range(len(bits)):
        if kept and cost[i] >= cost[kept[-1]]:
            continue  # more bits for nothing
        while len(kept) > 1 and _slope(bits, cost, kept[-2], kept[-1]) >= _slope(bits, cost, kept[-1], i):
            kept.pop()
        kept.append(i)
    return kept


def closed_form(cost: Tensor, numbers: Tensor, budget: float) -> Tensor:
    """Real-valued bits for cost_i(b) = c_i 4^-b: cost [U] holds the c_i."""
    spread = 0.5 * torch.log2(cost / numbers)
    return budget + spread - (spread * numbers).sum() / numbers.sum()


def _greedy(units: Units, room: float) -> Tensor:
    choices, numbers = list(units.choices), units.numbers.tolist()
    stretches = []
    for unit, cost in enumerate(units.cost.tolist()):
        path = hull(choices, cost)
        for a, b in itertools.pairwise(path):
            extra = numbers[unit] * (choices[b] - choices[a])
            stretches.append(((cost[a] - cost[b]) / extra, unit, a, b, extra))
    stretches.sort(key=lambda s: (-s[0], s[1], s[2]))
    level = [0] * len(numbers)
    spent = sum(numbers) * choices[0]
    for _, unit, a, b, extra in stretches:
        # a stretch counts only when the one before it was taken
        if level[unit] == a and spent + extra <= room:
            level[unit], spent = b, spent + extra
    return torch.tensor([choices[i] for i in level])


def _exact(units: Units, room: int, measure: int) -> Tensor:
    """Dynamic programming: best[r] is the least cost of the units so far with r bits (in the common measure) or fewer."""
    choices = units.choices
    sizes = [int(n) // measure for n in units.numbers.tolist()]
    best = torch.zeros(room + 1, dtype=torch.float64)
    taken = []
    for size, cost in zip(sizes, units.cost.tolist()):
        options = torch.full((len(choices), room + 1), torch.inf, dtype=torch.float64)
        for i, (bits, price) in enumerate(zip(choices, cost)):
            need = size * bits
            if need <= room:
                options[i, need:] = best[: room + 1 - need] + price
        best, choice = options.min(0)
        taken.append(choice)
    found, left = [], room
    for size, choice in zip(reversed(sizes), reversed(taken)):
        bits = choices[int(choice[left])]
        found.append(bits)
        left -= size * bits
    return torch.tensor(found[::-1])


def _slope(bits: list[int], cost: list[float], a: int, b: int) -> float:
    return (cost[b] - cost[a]) / (bits[b] - bits[a])
