"""The proof that a rewrite keeps the function: the logits of the rewritten model agree with the original's, step by step.

A short probe of tokens is pushed through the model once for the original and once after each cumulative step, block by block, so that one
block is in memory at a time. The measure is the relative difference of the logits, |L' - L| / |L| (Frobenius), computed in float32 or better.
The first step beyond the tolerance is the one that broke, and its block is the first where the un-rotated hidden states part.

Tolerances are for the arithmetic that a rewrite does: float64 leaves 1e-9, float32 1e-3 on a real model (METHODS.md 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import RewriteBroken
from rotviz.models.family import BlockView
from rotviz.models.walk import BlockSource, Ends, forward
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import Step, own_ends, steps_for

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True, slots=True)
class StepProof:
    """How far the logits are from the original's after this step and all before it.

    `block` is the first block whose hidden states part by more than the tolerance, None if none does (or the ends do).
    """

    name: str
    words: str
    error: float
    tolerance: float
    block: int | None

    @property
    def holds(self) -> bool:
        """Whether the function is kept. NaN never is."""
        return self.error <= self.tolerance


def prove(source: BlockSource, plan: RotationPlan, tokens: Tensor, dtype: torch.dtype = torch.float32,
          progress: Callable[[int, int], None] | None = None) -> list[StepProof]:
    """Prove every step of a plan on probe tokens [B, T].

    Args:
        source: the model's blocks and ends.
        plan: the rotations.
        tokens: the probe; 32 to 128 tokens are enough, a wrong rewrite is wrong everywhere.
        dtype: float32 or float64; the copies that are rewritten and run are cast to it.
        progress: called with the number of blocks done and of all.
    """
    steps = steps_for(plan, source.family)
    reference = _cast_ends(source.ends, dtype)
    ends = _ends_after_each(reference, steps)
    entries = [e.entry(tokens) for e in (reference, *ends)]
    hidden, parted = [entry.hidden for entry in entries], [None] * len(steps)
    for index in range(len(source)):
        view = _cast(source.owned(index), dtype)
        hidden[0] = forward(view.block, hidden[0], entries[0].arguments[index])
        for k, step in enumerate(steps, start=1):
            step.block(view)
            hidden[k] = forward(view.block, hidden[k], entries[k].arguments[index])
            if parted[k - 1] is None and _parts(hidden[0], hidden[k], plan, {s.name for s in steps[:k]}, dtype):
                parted[k - 1] = index
        if progress:
            progress(index + 1, len(source))
    logits = reference.finish(hidden[0])
    return [
        StepProof(step.name, step.words, relative_difference(logits, end.finish(h)), TOLERANCE[dtype], block)
        for step, end, h, block in zip(steps, ends, hidden[1:], parted)
    ]


def require(proofs: list[StepProof]) -> None:
    """Raises RewriteBroken naming the first step that does not hold."""
    for proof in proofs:
        if not proof.holds:
            where = f" (the hidden states part at block {proof.block})" if proof.block is not None else ""
            raise RewriteBroken(
                f"step {proof.name!r} ({proof.words}) changes the logits by {proof.error:.2e} relative, allowed is {proof.tolerance:.0e}{where}; "
                "nothing was quantized. Leave that slot out, or run in float32 if the model is in 16 bits"
            )


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """|other - reference| / |reference| in float64; NaN counts as infinitely far."""
    difference = float((other.double() - reference.double()).norm() / reference.double().norm().clamp_min(1e-300))
    return math.inf if math.isnan(difference) else difference


def _ends_after_each(reference: Ends, steps: list[Step]) -> list[Ends]:
    """Copies of the ends after the first step, the first two, and so on."""
    made, current = [], reference
    for step in steps:
        current = own_ends(current)
        step.ends(current)
        made.append(current)
    return made


def _cast_ends(ends: Ends, dtype: torch.dtype) -> Ends:
    if ends.family.entrances(ends.model)[0].parameter.dtype == dtype:
        return ends
    owned = own_ends(ends)
    blocks = owned.model.get_submodule(ends.family.blocks)
    inside = {id(m) for block in blocks for m in block.modules()}
    for module in owned.model.modules():
        if id(module) not in inside:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return owned


def _cast(owned: BlockView, dtype: torch.dtype) -> BlockView:
    owned.block.to(dtype)
    return owned


def _parts(reference: Tensor, hidden: Tensor, plan: RotationPlan, done: set[str], dtype: torch.dtype) -> bool:
    """Whether the hidden states differ by more than the tolerance, once R1 and the centring are taken out of the comparison."""
    straight = plan.r1.apply_inverse(hidden) if "R1" in done and plan.r1 is not None else hidden
    if "center" in done:
        reference = reference - reference.mean(-1, keepdim=True)
    return not relative_difference(reference, straight) <= 10 * TOLERANCE[dtype]
