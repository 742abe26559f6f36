"""More bits for what is named: the blocks or linears that were found to hurt are kept, everything else gets weights.bits.

    keep = ["7.down", "11", "o", "3.q=6"]      down projection of block 7, everything in block 11, output projections of all blocks, and queries of
                                               block 3 at bits of their own

This is the mend by hand that sensitivity studies end in ("keep the first and last layers at 8 bits"), and, with bits in every entry, the form in
which any mixed precision that was worked out elsewhere can be written down. It has no budget: the average follows from the list, and the result says
what it came to. Listed linears never get fewer bits than the others; where several entries name a linear, the most bits count.

What hurts in a block is often not its weights but what enters them, so that the kept linears' inputs get the same bits unless `inputs` is off; where
linears share an input (q, k, v; gate, up) and only some are kept, those read a rounding of their own. In a mixture, "7.gate" means every expert's
gate. The KV cache is not touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rotviz.allocation import ALLOCATIONS, Units
from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.types import BITS, Role

NAMED = 3
"""So many entries are named in a title."""
ROLES = tuple(role.value for role in Role if role is not Role.ROUTER)


class Entry(NamedTuple):
    """What one entry of the list says: block (None = all), role (None = all), bits (None = the list's)."""

    block: int | None
    role: str | None
    bits: int | None

    def fits(self, block: int, roles: Sequence[str]) -> bool:
        """Whether a linear is meant."""
        return self.block in (None, block) and (self.role is None or self.role in roles)


@ALLOCATIONS.register("listed")
@dataclass(frozen=True, slots=True)
class Listed:
    """Names in, bits out."""

    summary: ClassVar[str] = "Named blocks or linears are kept at more bits; the others get weights.bits."
    needs_costs: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False

    keep: tuple[str, ...] = setting((), "what is kept: a block (11), a linear (7.down), a role in all blocks (o), each perhaps with bits (7.down=6)")
    bits: int = setting(8, "bits of what is kept; 16 = float", choices=BITS)
    inputs: bool = setting(True, "the inputs of what is kept get these bits as well")

    def __post_init__(self) -> None:
        for name in self.keep:
            parsed(name)

    @property
    def title(self) -> str:
        """`keeps 7.down, 11 at 8`, for the title of a recipe."""
        more = f" and {len(self.keep) - NAMED} more" if len(self.keep) > NAMED else ""
        return f"keeps {', '.join(self.keep[:NAMED])}{more}" + ("" if all(parsed(name).bits for name in self.keep) else f" at {self.bits}")

    @property
    def levels(self) -> tuple[int, ...]:
        """All numbers of bits that the list gives."""
        return tuple(sorted({parsed(name).bits or self.bits for name in self.keep}))

    def allocate(self, units: Units, budget: float, generator: torch.Generator) -> Tensor:
        """Bits of each unit; `budget` is what the others get."""
        return torch.tensor([max(bits, int(budget)) for bits in self.kept(units.names)], dtype=torch.int64)

    def kept(self, names: Sequence[str]) -> list[int]:
        """Bits that the list gives to each unit, 0 where it does not name it.

        Args:
            names: of units, a block and its roles: "7.down", "3.q+k+v".

        Raises:
            BadInput: an entry of the list names nothing.
        """
        places = [_place(name) for name in names]
        entries = [parsed(name) for name in self.keep]
        for name, entry in zip(self.keep, entries):
            if places and not any(entry.fits(*place) for place in places):
                blocks, roles = max(b for b, _ in places), sorted({r for _, found in places for r in found}, key=ROLES.index)
                raise BadInput(f"allocation.listed.keep: {name!r} names nothing in this model; it has blocks 0 to {blocks} with {', '.join(roles)}")
        return [max((entry.bits or self.bits for entry in entries if entry.fits(*place)), default=0) for place in places]


def parsed(name: str) -> Entry:
    """An entry of the list.

    Raises:
        BadInput: it names neither a block, a linear nor a role, or bits that there are none of.
    """
    place, equals, bits = name.partition("=")
    if equals and bits not in map(str, BITS):
        raise BadInput(f"allocation.listed.keep: {name!r} asks for {bits or 'no'} bits; there are {', '.join(map(str, BITS))}")
    block, dot, role = place.partition(".")
    if not dot:
        block, role = (place, "") if place.isdecimal() else ("", place)
    good = (not block or block.isdecimal()) and (not role or role in ROLES) and (block and role if dot else block or role)
    if not good:
        raise BadInput(f"allocation.listed.keep: {name!r} is neither a block (11), a linear (7.down) nor a role ({', '.join(ROLES)})")
    return Entry(int(block) if block else None, role or None, int(bits) if equals else None)


def _place(name: str) -> tuple[int, tuple[str, ...]]:
    block, _, roles = name.partition(".")
    return int(block), tuple(roles.split("+"))
