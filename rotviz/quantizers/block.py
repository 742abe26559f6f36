"""What calibrated quantizers do with a block: run it, hook it, put tensors into it.

Nothing here changes a task's own block. `runnable` copies it and lets rounding of activations and KV cache act on the copy as it will in the
deployed model, with a gradient; `run` is the copy on hidden states, with any of its tensors replaced for the time of the call.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rotviz.models.attention import add_edit, copy_block
from rotviz.models.family import BlockView
from rotviz.models.shared_input import OfLatest
from rotviz.numerics.grids import fake_quantize_through
from rotviz.quantizers import BlockTask
from rotviz.types import SITE_OF_ROLE, Granularity, QuantSpec, Role, Site

BATCH_TOKENS = 2048
"""Tokens pushed through a block at a time where no gradient is kept; whole windows, at least one."""

_STAGES = (Site.ATTN_IN, Site.O_IN, Site.MLP_IN, Site.DOWN_IN)


def linear_paths(view: BlockView) -> dict[str, tuple[nn.Module, tuple[Role, ...]]]:
    """Every linear that is quantized by its path in the block, with the roles it plays."""
    names = {module: name for name, module in view.block.named_modules()}
    return {names[module]: (module, roles) for module, roles in view.quantized_modules().items()}


def stages(view: BlockView) -> list[list[str]]:
    """The linears in the order in which data meets them: {q, k, v}, {o}, {gate, up}, {down}; experts side by side."""
    order: dict[Site, list[str]] = {site: [] for site in _STAGES}
    for path, (_, roles) in linear_paths(view).items():
        order[SITE_OF_ROLE[roles[0]]].append(path)
    return [paths for paths in order.values() if paths]


def runnable(task: BlockTask, quantized: bool) -> BlockView:
    """A copy of the task's block in float32 or wider; with `quantized`, activations and KV cache are rounded in it, with a gradient."""
    twin = copy_block(task.view)
    twin.block.to(_wide(task.inputs.dtype))
    if quantized:
        _round_activations(twin, task.activations, task.input_bits)
        _round_cache(twin, task.kv)
    return twin


def run(block: nn.Module, hidden: Tensor, arguments: Mapping, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
    """A block on hidden states [B, L, D], with some tensors replaced during the call."""
    output = functional_call(block, dict(tensors), (hidden,), dict(arguments)) if tensors else block(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


def batches(stream: Tensor, windows: int = 0) -> Iterator[slice]:
    """Slices of a stream [N, L, D] of so many windows (0 = about BATCH_TOKENS tokens)."""
    size = windows or max(1, BATCH_TOKENS // stream.shape[1])
    for start in range(0, len(stream), size):
        yield slice(start, min(start + size, len(stream)))


def outputs(task: BlockTask, block: nn.Module, stream: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
    """What a block makes of a whole stream [N, L, D], without a gradient."""
    found = []
    for part in batches(stream):
        task.stop_if_cancelled()
        with torch.no_grad():
            wide = stream[part].to(_wide(stream.dtype))
            found.append(run(block, wide, task.arguments(len(wide)), tensors))
    return torch.cat(found)


def mean_error(output: Tensor, target: Tensor, normalized: bool) -> Tensor:
    """The mean squared difference of hidden states [B, L, D]; `normalized`: each token's relative to its own energy, so that a massive token counts
    as one.
    """
    error = (output - target).square()
    return (error.sum(-1) / target.square().sum(-1).clamp_min(1e-12)).mean() if normalized else error.mean()


class _AllMet(Exception):
    """Ends a forward whose rest is not asked for."""


def second_moments(task: BlockTask, view: BlockView, paths: list[str]) -> dict[str, Tensor]:
    """(2/n) sum x x^T of the inputs of some linears over the task's inputs: float64 [D, D] each.

    An expert's n counts the tokens that reach it; where none does the matrix is zero. A forward ends at the last of the linears: most of a block's
    work comes after q, k and v.
    """
    modules = {path: view.block.get_submodule(path) for path in paths}
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(paths, 0)
    met: set[str] = set()  # by the batch that is on its way
    last: list[Tensor] = []  # what was read last, and its product: q, k and v read one tensor

    def watch(path: str):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            if not last or last[0] is not inputs[0]:
                last[:] = inputs[0], (rows.T @ rows).double()
            counts[path] += len(rows)
            sums[path] = sums.get(path, 0) + last[1]
            met.add(path)
            if len(met) == len(paths):
                raise _AllMet
        return hook

    handles = [module.register_forward_pre_hook(watch(path)) for path, module in modules.items()]
    try:
        for part in batches(task.inputs):
            task.stop_if_cancelled()
            met.clear()
            last.clear()
            with torch.no_grad(), suppress(_AllMet):
                wide = task.inputs[part].to(_wide(task.inputs.dtype))
                run(view.block, wide, task.arguments(len(wide)))
    finally:
        for handle in handles:
            handle.remove()
    return {path: 2 / counts[path] * sums[path] if counts[path] else
            torch.zeros(module.weight.shape[1], module.weight.shape[1], dtype=torch.float64, device=module.weight.device)
            for path, module in modules.items()}


def with_hooks(task: BlockTask, view: BlockView, hooks: Mapping, stream: Tensor | None = None) -> None:
    """Push a stream (the task's inputs) through a block with forward pre-hooks by path, which are taken off again."""
    handles = [view.block.get_submodule(path).register_forward_pre_hook(hook) for path, hook in hooks.items()]
    try:
        outputs(task, view.block, task.inputs if stream is None else stream)
    finally:
        for handle in handles:
            handle.remove()


def weights_of(view: BlockView) -> dict[str, Tensor]:
    """The weights of a block's quantized linears by the path of the parameter."""
    return {f"{path}.weight": module.weight.data for path, (module, _) in linear_paths(view).items()}


def _round_activations(view: BlockView, spec: QuantSpec, bits: Mapping[str, int]) -> None:
    shared: dict[tuple[Site, int], _SharedRounding] = {}
    for path, (module, roles) in linear_paths(view).items():
        own = replace(spec, bits=bits.get(path, spec.bits))
        if own.quantizes:
            module.register_forward_pre_hook(shared.setdefault((SITE_OF_ROLE[roles[0]], own.bits), _SharedRounding(own)))


class _SharedRounding:
    """A forward pre-hook for linears that read the same tensor: it is rounded once."""

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec
        self._rounded = OfLatest()

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (self._rounded.of(inputs[0], lambda x: fake_quantize_through(x, self.spec)),)


def _round_cache(view: BlockView, spec: QuantSpec) -> None:
    if not spec.quantizes:
        return
    by_head = replace(spec, granularity=Granularity.HEAD)
    add_edit(view.attention, lambda q, k, v: (q, fake_quantize_through(k, by_head), fake_quantize_through(v, by_head)))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
