"""The quantized model of a recipe as a whole, in memory: to generate with, to export, to compare with the walk.

    load -> rotations (built, loaded, learned or found where they were kept) -> importance -> for each block: rewrite, quantize weights,
    round activations and cache from now on -> a model like any other

It is made from the same pieces in the same order as a run makes its blocks (run.py), without the evaluation windows: on the same tokens it
gives the run's numbers, and a test says so for every method. The proof of the rewrite is the run's business and is not repeated. Weights are
fake-quantized; activations are rounded by hooks, keys and values by attention edits, which belong to the blocks: deepcopy leaves the edits behind
(models.attention.copy_block does not).

`assembled` is the same with another hand on the blocks: what rounds them here packs them in rotviz.deployment.

Two models are in memory at the end, the float one and this one, and while calibrating the windows' two streams.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from rotviz.models.attention import copy_block
from rotviz.models.family import BlockView
from rotviz.models.loading import LoadedModel
from rotviz.models.walk import with_blocks
from rotviz.pipeline.checkpoint import WalkState
from rotviz.pipeline.importance import importance_of
from rotviz.pipeline.inputs import calibration_inputs
from rotviz.pipeline.learn import plan_for
from rotviz.pipeline.prepare import Prepared, prepare
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.weights import Bits, WeightStack, push_calibration, quantize_weights, stack_for
from rotviz.quantizers import Progress
from rotviz.surgery.online import quantize_activations, quantize_cache
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import Step, rewrite_block, rewrite_ends, steps_for

_ROTATED, _WEIGHED = 0.3, 0.4
"""Shares of the bar; learned rotations are kept by the run, so that this is mostly the walk over the blocks."""


def quantized_model(recipe: Recipe, loaded: LoadedModel | None = None,
                    stop_if_cancelled: Callable[[], None] = lambda: None) -> Generator[Progress, None, PreTrainedModel]:
    """The model that a recipe makes. Drive it to its end: model = rotviz.finish(quantized_model(recipe)).

    Args:
        recipe: what to do; its evaluation text is not read.
        loaded: the recipe's model where the caller has it in memory already; it is not changed.
        stop_if_cancelled: raises Cancelled.

    Yields:
        Progress, from 0 to 1.

    Raises:
        BadInput, Cancelled.
    """
    return (yield from assembled(recipe, lambda quantized, _: _rounded(quantized, recipe), loaded, stop_if_cancelled)).model


@dataclass(frozen=True)
class QuantizedBlock:
    """A block with quantized weights, R3 and R4 in force, activations and cache in float; the bits of its single linears, and of what enters them,
    where they differ.
    """

    view: BlockView
    bits: Bits
    input_bits: Mapping[str, int]


@dataclass(frozen=True)
class Assembled:
    """A recipe's model, its rotations, and what it was made from."""

    model: PreTrainedModel
    plan: RotationPlan
    prepared: Prepared


def assembled(recipe: Recipe, finish: Callable[[QuantizedBlock, RotationPlan], nn.Module], loaded: LoadedModel | None = None,
              stop_if_cancelled: Callable[[], None] = lambda: None) -> Generator[Progress, None, Assembled]:
    """A recipe's model whose blocks are what `finish` makes of the quantized ones (they belong to it); otherwise as `quantized_model`."""
    yield Progress(0.0, f"loading {recipe.model}")
    prepared = prepare(recipe, loaded)
    plan, _ = yield from _shared(plan_for(prepared, stop_if_cancelled), 0.0, _ROTATED)
    importance = yield from _shared(importance_of(prepared, plan, lambda: calibration_inputs(prepared), stop_if_cancelled), _ROTATED, _WEIGHED)
    steps, source = steps_for(plan, prepared.source.family), prepared.source
    ends, state = rewrite_ends(source.ends, steps), WalkState(0, torch.empty(0), torch.empty(0))
    stack = stack_for(prepared, ends, state, importance, stop_if_cancelled)
    blocks: list[nn.Module] = []
    for index in range(len(source)):
        low, high = (_WEIGHED + (1 - _WEIGHED) * done / len(source) for done in (index, index + 1))
        quantized = yield from _shared(_block(prepared, steps, stack, state), low, high)
        blocks.append(finish(quantized, plan))
        yield Progress(high, f"block {index + 1} of {len(source)}")
    return Assembled(with_blocks(ends.model, source.family, blocks), plan, prepared)


def _block(prepared: Prepared, steps: list[Step], stack: WeightStack, state: WalkState) -> Generator[Progress, None, QuantizedBlock]:
    """The next block; the calibration windows have gone through a copy that rounds as the block will when it is deployed."""
    stack.stop_if_cancelled()
    view = rewrite_block(prepared.source.owned(state.block), steps)
    yield from quantize_weights(view, stack, state)
    quantized = QuantizedBlock(view, stack.bits.get(state.block, {}), stack.input_bits.get(state.block, {}))
    if stack.entry is not None:
        twin = copy_block(view)
        _rounded(replace(quantized, view=twin), stack.recipe)
        push_calibration(twin, stack, state)
    state.block += 1
    return quantized


def _rounded(quantized: QuantizedBlock, recipe: Recipe) -> nn.Module:
    """A block that rounds activations and cache from now on."""
    quantize_activations(quantized.view, recipe.activations.spec(), bits=quantized.input_bits)
    quantize_cache(quantized.view, recipe.kv.spec())
    return quantized.view.block


def _shared(steps: Generator, low: float, high: float) -> Generator[Progress, None, object]:
    """A stage's own progress from 0 to 1, as a part of the whole's."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        yield Progress(low + (high - low) * step.fraction, step.message)
