"""The same bits for every unit: the largest choice within the budget. What is left of the budget goes to the first units in order, so that the
average is met as nearly as by the others.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.allocation import ALLOCATIONS, Units, fill_in_order


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True, slots=True)
class Uniform:
    """Everyone alike."""

    summary: ClassVar[str] = "The same bits everywhere; what is left of the budget goes to the first units in order."
    needs_costs: ClassVar[bool] = False

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        return fill_in_order(torch.arange(len(units.numbers)), units, budget)
