"""Rotation methods, one file each: from a slot, a size and a seed (or calibration activations) to an orthogonal matrix.

A method is a frozen configuration with a `build`; its name in the registry is its name in the recipe. A method that learns has a `learn` as well:
it starts from the plan that its `build` made and returns a better one.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from rotviz.numerics.rotation import Rotation
from rotviz.registry import Registry
from rotviz.surgery.plan import RotationPlan
from rotviz.types import QuantSpec, Slot

if TYPE_CHECKING:
    from rotviz.models.walk import BlockSource


class RotationMethod(Protocol):
    """What every file of this folder registers."""

    summary: ClassVar[str]
    """One sentence for the docs, the form and the table of methods."""

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """The rotation of one slot; of a method that learns, the one it starts from.

        Args:
            slot: where it will act; a method may choose differently for a folded and for an online slot.
            size: width of the axis that is turned.
            generator: source of all randomness (on the CPU, so that the same seed gives the same matrix on every machine).
        """


@dataclass(frozen=True)
class Specs:
    """How the model will be quantized once it is rotated: what a method may aim at."""

    weights: QuantSpec
    activations: QuantSpec
    kv: QuantSpec


@dataclass(frozen=True)
class LearningTask:
    """What a method learns from.

    Attributes:
        source: the float model.
        windows: calibration token ids [N, L].
        plan: where learning starts; slots that are None or empty stay so.
        specs: how the model will be quantized.
        seed: of every random choice.
        folder: a folder of this task's own. What is kept there (`kept.safetensors`) is found again when the task is resumed.
        stop_if_cancelled: raises Cancelled when somebody asked for it; call it often.
    """

    source: "BlockSource"
    windows: Tensor
    plan: RotationPlan
    specs: Specs
    seed: int
    folder: Path
    stop_if_cancelled: Callable[[], None]


@dataclass(frozen=True)
class LearningStep:
    """News of a method at work: the share that is done, words, and numbers by name ("loss", "orthogonality", "massive", "ordinary", ...)."""

    fraction: float
    message: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """What a method learned.

    Attributes:
        plan: the rotations.
        tokens: how many calibration tokens it looked at, each counted as often as it was looked at.
        steps: how many steps of optimization, in words a reader can compare ("R1 100, R2 100 a block").
        notes: compromises that a reader should know of.
    """

    plan: RotationPlan
    tokens: int
    steps: str
    notes: tuple[str, ...] = ()


class LearnedMethod(RotationMethod, Protocol):
    """A method that learns from calibration windows."""

    learned_slots: ClassVar[tuple[Slot, ...]]
    """The slots whose rotation is learned; the others stay as `build` made them."""

    start: str
    """Where R1 and R2 start: a registered method that does not learn, "identity", or the file of a saved rotation."""

    def learn(self, task: LearningTask) -> Generator[LearningStep, None, Learned]:
        """Improve the plan of the task. Deterministic: the same task gives the same plan."""

    def scope(self, specs: Specs) -> Mapping[str, Any]:
        """The part of the specs that decides what is learned: recipes that agree on it share what was learned."""


ROTATIONS: Registry[type[RotationMethod]] = Registry("rotation method", package="rotviz.rotations")


def learns(method: object) -> bool:
    """Whether a method (class or configuration) learns from calibration windows."""
    return hasattr(method, "learn")
