"""A plan: which rotation acts in which slot of which block. Data, no model.

    R1  one matrix [D, D] for the whole residual stream
    R2  for each block one matrix [K, K] for each key-value head
    R3  one matrix [K, K] for queries and keys, online
    R4  one matrix [F, F] for each width of a down projection's input, online
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from rotviz.models.family import BlockView
from rotviz.numerics.rotation import Rotation
from rotviz.types import Slot

Build = Callable[[Slot, int, torch.Generator], Rotation]


@dataclass(frozen=True)
class RotationPlan:
    """The rotations of every slot; None or empty where a slot does not act."""

    r1: Rotation | None = None
    r2: tuple[tuple[Rotation, ...], ...] = ()
    r3: Rotation | None = None
    r4: Mapping[int, Rotation] = field(default_factory=dict)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that act."""
        acting = {Slot.R1: self.r1, Slot.R2: self.r2, Slot.R3: self.r3, Slot.R4: self.r4}
        return tuple(slot for slot, rotation in acting.items() if rotation)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a plan needs to know of a model."""

    width: int
    head_width: int
    kv_heads: int
    blocks: int
    down_widths: tuple[int, ...]


def sizes_of(views: list[BlockView], width: int) -> Sizes:
    """The sizes of the slots. `views` need their experts as linears where there are any."""
    heads = views[0].heads
    widths = sorted({mlp.down.weight.shape[1] for view in views for mlp in view.mlps})
    return Sizes(width, heads.width, heads.kv, len(views), tuple(widths))


def make_plan(build: Build, slots: tuple[Slot, ...], sizes: Sizes, seed: int) -> RotationPlan:
    """A plan with a rotation from `build` in each of the slots.

    Every matrix has a random stream of its own, drawn from the seed, its slot and its place: taking one slot out changes no other.
    The key-value heads of a block share their R2, as in QuaRot and SpinQuant.
    """
    def one(slot: Slot, size: int, place: int = 0) -> Rotation:
        return build(slot, size, generator_for(seed, slot, place))

    return RotationPlan(
        r1=one(Slot.R1, sizes.width) if Slot.R1 in slots else None,
        r2=tuple((one(Slot.R2, sizes.head_width, b),) * sizes.kv_heads for b in range(sizes.blocks)) if Slot.R2 in slots else (),
        r3=one(Slot.R3, sizes.head_width) if Slot.R3 in slots else None,
        r4={width: one(Slot.R4, width) for width in sizes.down_widths} if Slot.R4 in slots else {},
    )


def generator_for(seed: int, slot: Slot, place: int) -> torch.Generator:
    """The random stream of one matrix."""
    order = list(Slot).index(slot)
    return torch.Generator().manual_seed((seed * 4 + order) * 4096 + place)
