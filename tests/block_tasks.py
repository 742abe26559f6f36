"""Blocks to quantize, for tests: any tiny model's, rotated or not, with what runs through them."""

import functools
from typing import Any

import torch

from rotviz.models.families import family_of
from rotviz.models.family import ATTENTION
from rotviz.models.norms import in_own_precision
from rotviz.models.tiny import tiny
from rotviz.models.walk import BlockSource, forward, narrowed
from rotviz.quantizers import BlockResult, BlockTask, Progress
from rotviz.rotations import ROTATIONS
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import Granularity, QuantSpec, Slot

ALL = tuple(Slot)
W3 = QuantSpec(3, True, Granularity.CHANNEL, clip="mse")


@functools.cache
def rewritten(name: str, slots: tuple[Slot, ...], dtype: torch.dtype, outliers: bool):
    """The ends and the blocks of a tiny model, rewritten; not to be changed."""
    model, _ = tiny(name, outliers=outliers, attention=ATTENTION)
    if dtype == torch.float64:
        model = in_own_precision(model, family_of(model))
    source = BlockSource(model.to(dtype))
    plan = make_plan(ROTATIONS["hadamard"]().build, slots, source_sizes(source), 0)
    steps = steps_for(plan, source.family)
    return rewrite_ends(source.ends, steps), [rewrite_block(source.owned(i), steps) for i in range(len(source))]


def make_task(name: str = "tiny-llama", slots: tuple[Slot, ...] = (), *, block: int = 0, dtype: torch.dtype = torch.float32, windows: int = 3,
              length: int = 24, outliers: bool = False, noise: float = 0.0, **more: Any) -> BlockTask:
    """A task on a block of a tiny model; `noise` stands for what the blocks before it lost."""
    ends, views = rewritten(name, tuple(slots), dtype, outliers)
    tokens = torch.randint(0, 256, (windows, length), generator=torch.Generator().manual_seed(7))
    entry = ends.entry(tokens)
    hidden = entry.hidden
    for i in range(block):
        hidden = forward(views[i].block, hidden, entry.arguments[i])
    other = hidden + noise * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(8), dtype=hidden.dtype)
    return BlockTask(**{"view": views[block], "spec": W3, "inputs": other, "float_inputs": hidden,
                        "arguments": lambda count: narrowed(entry.arguments[block], count), "finish": ends.logits, **more})


def drive(method: Any, task: BlockTask) -> tuple[BlockResult, list[Progress]]:
    """Quantize a block to the end; the result and the news on the way."""
    steps, seen = method.quantize_block(task), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            return stop.value, seen
