"""The model as a function of R1 and R2: it is the rewritten model, and its gradient is that of finite differences."""

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.models.families import family_of
from rotviz.models.loading import load
from rotviz.models.norms import in_own_precision
from rotviz.models.tiny import TINY
from rotviz.models.walk import BlockSource
from rotviz.rotations import ROTATIONS
from rotviz.surgery.differentiable import RotatedModel
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.whole import rewrite_model
from rotviz.types import QuantSpec, Slot

FLOAT = QuantSpec()
GEMMA = ("tiny-gemma2", "tiny-gemma3")
TOKENS = torch.randint(5, 200, (1, 12), generator=torch.Generator().manual_seed(0))


def source(name):
    model = load(name, torch.float64).model
    return BlockSource(in_own_precision(model, family_of(model)))


def plan_of(blocks, slots=tuple(Slot)):
    return make_plan(ROTATIONS["orthogonal"]().build, slots, source_sizes(blocks), seed=1)


def matrices(plan):
    return plan.r1.dense(), torch.stack([heads[0].dense() for heads in plan.r2])


@pytest.mark.parametrize("name", [name for name in TINY if name not in GEMMA])
def test_it_is_the_original_model_when_nothing_is_rounded(name):
    blocks = source(name)
    plan = plan_of(blocks)
    with torch.no_grad():
        wanted = blocks.model(TOKENS, use_cache=False).logits
        got = RotatedModel(blocks, plan, FLOAT, FLOAT, FLOAT).logits(TOKENS, *matrices(plan))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-opt", "tiny-phi3"])
def test_weights_are_turned_and_rounded_as_a_run_does(name):
    blocks, spec = source(name), QuantSpec(8, True)
    plan = plan_of(blocks)
    model = RotatedModel(blocks, plan, spec, FLOAT, FLOAT)
    rewritten = rewrite_model(blocks.model, plan)
    from rotviz.models.family import block_views
    from rotviz.numerics.grids import fake_quantize

    for view in block_views(rewritten, blocks.family):
        for module in view.quantized_modules():
            module.weight.data = fake_quantize(module.weight.data, spec)
    with torch.no_grad():
        wanted, got = rewritten(TOKENS, use_cache=False).logits, model.logits(TOKENS, *matrices(plan))
    # equal but for weights that a rounding of the last bit puts on the other side of a level
    assert float((got - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen2", "tiny-mixtral", "tiny-phi3"])
def test_gradients_are_those_of_finite_differences(name):
    """In float nothing depends on orthogonal rotations, so the derivative is taken along a direction that is not orthogonal."""
    blocks = source(name)
    plan = plan_of(blocks)
    model = RotatedModel(blocks, plan, FLOAT, FLOAT, FLOAT)
    start = matrices(plan)
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(m.shape, dtype=m.dtype, generator=generator) / m.shape[-1] for m in start]

    def loss(step, grad=False):
        moved = [m + step * d for m, d in zip(start, direction)]
        moved = [m.requires_grad_() for m in moved] if grad else moved
        value = model.logits(TOKENS, *moved).square().mean()
        if grad:
            value.backward()
            return sum(float((m.grad * d).sum()) for m, d in zip(moved, direction))
        return float(value)

    eps = 1e-5
    with torch.no_grad():
        wanted = (loss(eps) - loss(-eps)) / (2 * eps)
    assert loss(0.0, grad=True) == pytest.approx(wanted, rel=1e-5)


def test_rounding_passes_the_gradient_straight_through():
    blocks, spec = source("tiny-llama"), QuantSpec(4, True)
    plan = plan_of(blocks)
    model = RotatedModel(blocks, plan, spec, spec, spec)
    r1, r2 = (m.requires_grad_() for m in matrices(plan))
    model.logits(TOKENS, r1, r2).square().mean().backward()
    assert all(torch.isfinite(m.grad).all() and m.grad.abs().max() > 0 for m in (r1, r2))


def test_norms_on_the_residual_side_are_refused_in_words():
    blocks = source("tiny-gemma2")
    with pytest.raises(BadInput, match="Gemma"):
        RotatedModel(blocks, plan_of(blocks), FLOAT, FLOAT, FLOAT)
