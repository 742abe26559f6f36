"""More bits where rounding is thought to cost the model's loss most: the costs that sensitivity.py estimates, spent greedily (greedy.py)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.allocation import ALLOCATIONS, Units
from rotviz.allocation.greedy import spend


@ALLOCATIONS.register("importance")
@dataclass(frozen=True, slots=True)
class Importance:
    """Least estimated cost at the budget."""

    summary: ClassVar[str] = "More bits where rounding is estimated to cost the model's loss most (first order and curvature)."
    needs_costs: ClassVar[bool] = True

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        return spend(units, budget)
