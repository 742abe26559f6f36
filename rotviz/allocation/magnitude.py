"""More bits for units with larger weights: the cheapest importance there is, blind to what flows through them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.allocation import ALLOCATIONS, Units
from rotviz.allocation.greedy import spend


@ALLOCATIONS.register("magnitude")
@dataclass(frozen=True, slots=True)
class Magnitude:
    """cost_i(b) = n_i mean|w|^2 4^-b."""

    summary: ClassVar[str] = "More bits for units with larger weights, whatever flows through them."
    needs_costs: ClassVar[bool] = False

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        shrink = 4.0 ** -torch.tensor(units.choices, dtype=torch.float64)
        cost = (units.numbers * units.magnitude.double().square())[:, None] * shrink
        return spend(Units(units.numbers, units.magnitude, cost, units.choices), budget)
