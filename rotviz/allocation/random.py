"""Bits by lot: the baseline that every importance has to beat. Units in a random order each climb a random number of choices while it fits; what is
left of the budget is used up one choice at a time.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.allocation import ALLOCATIONS, Units


@ALLOCATIONS.register("random")
@dataclass(frozen=True, slots=True)
class Random:
    """Drawn from the generator."""

    summary: ClassVar[str] = "Bits by lot, the baseline of every importance."
    needs_costs: ClassVar[bool] = False

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        room, choices = units.room(budget), units.choices
        numbers = units.numbers.tolist()
        level = [0] * len(numbers)
        spent = float(sum(numbers)) * choices[0]
        last = len(choices) - 1
        # each unit in turn climbs a random way; what is left is used up one choice at a time
        for climb in [last] + [1] * last:
            for unit in torch.randperm(len(level), generator=generator).tolist():
                top = min(last, level[unit] + climb)
                wanted = int(torch.randint(level[unit], top + 1, (1,), generator=generator)) if climb > 1 else top
                extra = numbers[unit] * (choices[wanted] - choices[level[unit]])
                if spent + extra <= room:
                    level[unit], spent = wanted, spent + extra
        return torch.tensor([choices[i] for i in level])
