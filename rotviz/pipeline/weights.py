"""The weights of one block on their way: scaled, quantized, and the calibration windows pushed through what came of it.

    rewritten float block -> scales (SmoothQuant) -> quantizer -> block to deploy

Two streams of calibration windows go along with the evaluation windows: through the float block in the rewritten basis, and through the block as it
is deployed, its activations rounded. A calibrated quantizer sees both as they are before its block; the second is what the quantized prefix really
produces.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.models.family import BlockView
from rotviz.models.walk import Ends, Entry, forward, narrowed
from rotviz.numerics.errors import relative_mse
from rotviz.pipeline.batches import Batches
from rotviz.pipeline.checkpoint import WalkState
from rotviz.pipeline.importance import Importance
from rotviz.pipeline.inputs import Inputs, calibration_inputs
from rotviz.pipeline.prepare import Prepared
from rotviz.pipeline.recipe import Recipe
from rotviz.quantizers import BlockResult, BlockTask, Progress, is_calibrated, parts_of, quantize_parts
from rotviz.quantizers.block import BATCH_TOKENS, batches, linear_paths
from rotviz.surgery.scales import put, scaled
from rotviz.surgery.smoothing import ranges_of, smoothing_scales
from rotviz.types import QuantSpec

Bits = Mapping[str, int | Tensor]


@dataclass(frozen=True)
class WeightStack:
    """What all blocks' weights are quantized with.

    Attributes:
        recipe: what to do.
        entry: how the calibration windows enter the rewritten model, with each block's arguments; None where nothing is calibrated.
        bits: for each block the bits of single linears by path, where they differ (mixed precision).
        input_bits: the same of their inputs.
        before_rounding: is shown each block when its scales are in place and nothing is rounded.
        fisher: for each block the second moments [D, D] of the gradient at its output, where a method asks for them.
        stop_if_cancelled: raises Cancelled.
        together: how many calibration windows go through a block together.
        finish: the rewritten model's end: hidden states after the last block -> logits, differentiable.
    """

    recipe: Recipe
    entry: Entry | None
    bits: Mapping[int, Bits]
    fisher: Mapping[int, Tensor]
    stop_if_cancelled: Callable[[], None]
    together: Batches
    finish: Callable[[Tensor], Tensor] | None = None
    input_bits: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    before_rounding: Callable[[BlockView], None] | None = None

    def arguments(self, index: int) -> Callable[[int], dict[str, Any]]:
        """A block's keyword arguments for so many calibration windows."""
        return lambda count: narrowed(self.entry.arguments[index], count)


@dataclass(frozen=True)
class Quantization:
    """What came of one block: relative errors of its weights, and what its quantizer reports."""

    errors: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def report(self, index: int) -> list[dict[str, Any]]:
        """For the result, where there is anything to tell."""
        return [{"block": index, "notes": list(self.notes), "metrics": dict(self.metrics)}] if self.notes or self.metrics else []


def stack_for(prepared: Prepared, ends: Ends, state: WalkState, importance: Importance, stop_if_cancelled: Callable[[], None],
              together: Batches | None = None, before_rounding: Callable[[BlockView], None] | None = None) -> WeightStack:
    """What a recipe's weights are quantized with; calibration windows enter the state where they are needed. `ends` are the rewritten model's,
    `together` the size of the batches where others share it.
    """
    recipe = prepared.recipe
    most = together.size if together else 0
    entry = embed_calibration(prepared, ends, calibration_inputs(prepared), state, most) if recipe.calibrates else None
    positions = recipe.text.length if state.calibration is None else state.calibration.shape[1]
    together = together or Batches(BATCH_TOKENS // positions, "window", prepared.device)
    return WeightStack(recipe, entry, importance.bits, importance.fisher, stop_if_cancelled, together, _end_of(ends),
                       importance.input_bits, before_rounding)


def _end_of(ends: Ends) -> Callable[[Tensor], Tensor]:
    """The end of a model for hidden states of any dtype: learned methods work in float32 on the blocks of a bfloat16 model."""
    return lambda hidden: ends.logits(hidden.to(ends.model.dtype))


def embed_calibration(prepared: Prepared, ends: Ends, inputs: Inputs, state: WalkState, most: int = 0) -> Entry:
    """The calibration windows or images before the first block, into the state where it has none yet; how they enter the blocks, `most` at a time
    if that is more than a batch."""
    values = inputs.values.to(prepared.device)
    parts = list(batches(values, inputs.batch))
    if state.calibration is None:
        hidden = torch.cat([ends.entry(values[part]).hidden for part in parts])
        state.calibration, state.float_calibration = hidden, hidden.clone()
    state.calibration, state.float_calibration = (s.to(prepared.device) for s in (state.calibration, state.float_calibration))
    return ends.entry(values[:max(most, inputs.batch)])


def quantize_weights(view: BlockView, stack: WeightStack, state: WalkState) -> Generator[Progress, None, Quantization]:
    """Scale and quantize a block's linears in place (the block belongs to the caller). The float calibration stream moves on past the block."""
    spec = stack.recipe.weights.spec()
    before = state.float_calibration
    if stack.entry is not None:
        if stack.recipe.scaling.method == "smoothquant":
            _smooth(view, stack, before)
        state.float_calibration = _pushed(view, stack, before)
    if stack.before_rounding is not None:
        stack.before_rounding(view)
    if not spec.quantizes:
        return Quantization()
    if not is_calibrated(stack.recipe.weight_settings):
        return Quantization(_quantize_each(view, stack))
    floats = {path: module.weight.data for path, (module, _) in linear_paths(view).items()}
    task = BlockTask(view, spec, state.calibration, before, stack.arguments(view.index), stack.recipe.activations.spec(), stack.recipe.kv.spec(),
                     torch.Generator().manual_seed(stack.recipe.seed * 4096 + view.index), stack.stop_if_cancelled, stack.bits.get(view.index, {}),
                     stack.fisher.get(view.index), stack.finish, stack.input_bits.get(view.index, {}))
    result: BlockResult = yield from stack.recipe.weight_settings.quantize_block(task)
    put(view, result.tensors)
    errors = [_error(view, path, roles, result.weight_errors.get(path, relative_mse(floats[path], module.weight.data)), stack, module)
              for path, (module, roles) in linear_paths(view).items()]
    return Quantization(errors, result.notes, result.metrics)


def push_calibration(view: BlockView, stack: WeightStack, state: WalkState) -> None:
    """The calibration windows through the block as it is deployed."""
    if stack.entry is not None and is_calibrated(stack.recipe.weight_settings):
        state.calibration = _pushed(view, stack, state.calibration)


def collected_notes(learned: list[dict[str, Any]]) -> tuple[str, ...]:
    """The blocks' notes, equal ones together."""
    by_text: dict[str, list[int]] = {}
    for entry in learned:
        for note in entry["notes"]:
            by_text.setdefault(note, []).append(entry["block"])
    return tuple(f"block{'s' if len(blocks) > 1 else ''} {_ranges(blocks)}: {note}" for note, blocks in by_text.items())


def _quantize_each(view: BlockView, stack: WeightStack) -> list[dict[str, Any]]:
    spec, bits = stack.recipe.weights.spec(), stack.bits.get(view.index, {})

    def quantize(rows: Tensor, one: QuantSpec) -> Tensor:
        return stack.recipe.weight_settings.quantize(rows, one).weight

    found = []
    for path, (module, roles) in linear_paths(view).items():
        stack.stop_if_cancelled()
        weight = module.weight.data
        quantized = quantize_parts(weight, parts_of(spec, bits[path], len(weight)), quantize) if path in bits else quantize(weight, spec)
        found.append(_error(view, path, roles, relative_mse(weight, quantized), stack, module))
        module.weight = nn.Parameter(quantized, requires_grad=False)
    return found


def _error(view: BlockView, path: str, roles: tuple, error: float, stack: WeightStack, module: nn.Module) -> dict[str, Any]:
    found = {"block": view.index, "role": "+".join(roles), "relative_mse": error, "elements": module.weight.numel()}
    bits = stack.bits.get(view.index, {}).get(path)
    if bits is not None:
        found["bits"] = float(bits) if isinstance(bits, int) else float(bits.double().mean())
    return found


def _smooth(view: BlockView, stack: WeightStack, stream: Tensor) -> None:
    def passes():
        for part in batches(stream):
            stack.stop_if_cancelled()
            yield forward(view.block, stream[part], stack.arguments(view.index)(part.stop - part.start))

    scales = smoothing_scales(view, ranges_of(view, passes()), stack.recipe.scaling.alpha)
    put(view, scaled(view, scales))


def _pushed(view: BlockView, stack: WeightStack, stream: Tensor) -> Tensor:
    """A stream after a block; a new tensor."""
    found: list[Tensor] = []

    def push(part: slice) -> None:
        stack.stop_if_cancelled()
        found.append(forward(view.block, stream[part], stack.arguments(view.index)(part.stop - part.start)))

    stack.together.over(len(stream), push, f"block {view.index}, calibration")
    return torch.cat(found)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
