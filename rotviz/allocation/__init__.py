"""Mixed precision: how many bits each unit of a model's weights gets, so that the average meets a budget.

    minimize  sum of cost_i(b_i)   such that   sum n_i b_i <= budget * sum n_i,     b_i among the choices

A unit is a linear's weight or one of its output channels, n_i its numbers, cost_i(b) what rounding it to b bits is thought to cost
(sensitivity.py). A strategy is a frozen configuration with an `allocate`; its name in the registry is its name in the recipe. All strategies with
a budget are compared at the same average bits; `listed` has none.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.registry import Registry
from rotviz.types import BITS, FLOAT_BITS

CHOICES = (2, 3, 4, 6, 8)
"""Bits that a unit may get unless something else is asked for."""


@dataclass(frozen=True, slots=True)
class Units:
    """What is allocated to. All of one length, U.

    numbers: weights in each unit; magnitude: their mean |w|; cost: [U, choices] float64, of rounding unit i to each choice; choices: ascending;
    names: block and roles of each unit ("7.down", "3.q+k+v"), where they are known.
    """

    numbers: Tensor
    magnitude: Tensor
    cost: Tensor
    choices: tuple[int, ...] = CHOICES
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if list(self.choices) != sorted(set(self.choices)) or not set(self.choices) <= set(BITS):
            raise BadInput(f"bits to choose from are {self.choices}; they ascend and each is one of {BITS}")
        if self.cost.shape != (len(self.numbers), len(self.choices)):
            wanted = f"one for each of {len(self.numbers)} units and {len(self.choices)} choices"
            raise BadInput(f"costs have the shape {tuple(self.cost.shape)}, not {wanted}")

    def room(self, budget: float) -> float:
        """The bits that a budget (an average) allows in all.

        Raises:
            BadInput: it is below the smallest choice.
        """
        low, high = self.choices[0], self.choices[-1]
        if not low <= budget <= FLOAT_BITS:
            raise BadInput(f"a budget of {budget:g} bits cannot be met with {', '.join(map(str, self.choices))} bits; take {low} to {high}")
        return budget * float(self.numbers.sum()) * (1 + 1e-12)


def average_bits(bits: Tensor, units: Units) -> float:
    """The mean bits a weight."""
    return int((bits * units.numbers).sum()) / int(units.numbers.sum())


def total_cost(bits: Tensor, units: Units) -> float:
    """The sum of the units' costs."""
    column = torch.searchsorted(torch.tensor(units.choices), bits)
    return float(units.cost.gather(1, column[:, None]).sum())


class Allocation(Protocol):
    """What every file of this folder that names a strategy registers."""

    summary: ClassVar[str]
    needs_costs: ClassVar[bool]
    """Whether it looks at the costs, which take gradients of the whole model to estimate."""
    budgeted: ClassVar[bool] = True
    """Whether it meets a budget; one that does not gets the bits of the rest in its place."""

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        """Bits of each unit, int64 [U], whose average is at most the budget where the strategy is `budgeted`."""


def is_budgeted(strategy: Any) -> bool:
    """Whether a strategy (or its class) meets a budget."""
    return bool(getattr(strategy, "budgeted", True))


ALLOCATIONS: Registry[type[Allocation]] = Registry("bit allocation", package="rotviz.allocation")


def fill_in_order(order: Tensor, units: Units, budget: float) -> Tensor:
    """Everyone gets the largest choice that all can have; what is left goes to the units in order, one choice up each, as long as it fits."""
    room = units.room(budget)
    level = max(i for i, b in enumerate(units.choices) if b <= budget)
    bits = torch.full((len(units.numbers),), units.choices[level], dtype=torch.int64)
    if level + 1 == len(units.choices):
        return bits
    spent = float((bits * units.numbers).sum())
    numbers = units.numbers.tolist()
    for unit in order.tolist():
        extra = numbers[unit] * (units.choices[level + 1] - units.choices[level])
        if spent + extra <= room:
            bits[unit] = units.choices[level + 1]
            spent += extra
    return bits
