"""A rewritten model in 16 bits is the float64 one, rounded once: every step rounding anew would add up."""

import pytest
import torch

from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.rotations import ROTATIONS
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import Slot


def rewritten(name, dtype):
    """Weights by name of the first block and of the ends; of a model of bfloat16 numbers in some dtype."""
    model = load(name, torch.bfloat16).model
    source = BlockSource(model.to(dtype) if dtype is torch.float64 else model)
    plan = make_plan(ROTATIONS["hadamard"]().build, tuple(Slot), source_sizes(source), 0)
    steps = steps_for(plan, source.family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    block, ends = rewrite_block(source.owned(0), steps).block, rewrite_ends(source.ends, steps)
    assert all(torch.equal(before[key], value) and before[key].dtype == value.dtype for key, value in model.state_dict().items())
    outside = {key: value for key, value in ends.model.named_parameters() if not key.startswith(f"{source.family.blocks}.")}
    return {key: value.detach() for part in (dict(block.named_parameters()), outside) for key, value in part.items()}


@pytest.mark.parametrize("name", ["tiny-llama-tied", "tiny-opt", "tiny-gemma2", "tiny-phi3", "tiny-mixtral", "tiny-qwen2-moe"])
def test_weights_of_16_bits_are_rounded_once(name):
    found, wanted = rewritten(name, torch.bfloat16), rewritten(name, torch.float64)
    assert found.keys() == wanted.keys() and {value.dtype for value in found.values()} == {torch.bfloat16}
    for key, exact in wanted.items():
        once = exact.to(torch.bfloat16)
        assert (found[key] != once).float().mean() < 1e-3, key  # where float32 stands at a tie
        assert (found[key].double() - exact).norm() <= 1.001 * (once.double() - exact).norm() + 1e-6 * exact.norm(), key
