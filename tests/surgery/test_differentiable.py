"""The model as a function of R1 and R2: it is the rewritten model, and its gradient is that of the model with turned weights."""

from dataclasses import replace

import pytest
import torch
from turned_weights import TurnedWeights

from rotviz.models.families import family_of
from rotviz.models.family import block_views
from rotviz.models.loading import load
from rotviz.models.norms import in_own_precision
from rotviz.models.tiny import TINY
from rotviz.models.walk import BlockSource
from rotviz.numerics.grids import fake_quantize
from rotviz.rotations import ROTATIONS
from rotviz.surgery.differentiable import RotatedModel, rounded_under
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.whole import rewrite_model
from rotviz.types import QuantSpec, Slot

FLOAT = QuantSpec()
TOKENS = torch.randint(5, 200, (1, 12), generator=torch.Generator().manual_seed(0))


def source(name):
    model = load(name, torch.float64).model
    return BlockSource(in_own_precision(model, family_of(model)))


def plan_of(blocks, slots=tuple(Slot)):
    return make_plan(ROTATIONS["orthogonal"]().build, slots, source_sizes(blocks), seed=1)


def matrices(plan):
    return plan.r1.dense(), torch.stack([heads[0].dense() for heads in plan.r2])


@pytest.mark.parametrize("name", list(TINY))
def test_it_is_the_original_model_when_nothing_is_rounded(name):
    blocks = source(name)
    plan = plan_of(blocks)
    with torch.no_grad():
        wanted = blocks.model(TOKENS, use_cache=False).logits
        got = RotatedModel(blocks, plan, FLOAT, FLOAT, FLOAT).logits(TOKENS, *matrices(plan))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-opt", "tiny-phi3", "tiny-gemma2", "tiny-mixtral"])
def test_weights_are_turned_and_rounded_as_a_run_does(name):
    blocks, spec = source(name), QuantSpec(8, True)
    plan = plan_of(blocks)
    model = RotatedModel(blocks, plan, spec, FLOAT, FLOAT)
    r1, r2 = matrices(plan)
    plan = replace(plan, r2=tuple((heads[0],) * len(heads) for heads in plan.r2))  # one R2 for all heads of a block
    rewritten = rewrite_model(blocks.model, plan)
    for view in block_views(rewritten, blocks.family):
        for module in view.quantized_modules():
            module.weight.data = fake_quantize(module.weight.data, spec)
    with torch.no_grad():
        wanted, got = rewritten(TOKENS, use_cache=False).logits, model.logits(TOKENS, r1, r2)
    # equal but for weights that a rounding of the last bit puts on the other side of a level
    assert float((got - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen2", "tiny-opt", "tiny-mixtral", "tiny-phi3"])
@pytest.mark.parametrize("weights", [FLOAT, QuantSpec(4, True, clip=0.9)], ids=["float weights", "4-bit weights"])
def test_logits_and_gradients_are_those_of_turned_weights(name, weights):
    """Gradients along the orthogonal group: the skew part of R^T G, which is all that a Cayley step takes of G."""
    blocks = source(name)
    plan = plan_of(blocks)
    specs = weights, QuantSpec(4, True, clip=0.9), QuantSpec(4, False, clip=0.95)
    found = []
    for made in (RotatedModel, TurnedWeights):
        r1, r2 = (m.clone().requires_grad_() for m in matrices(plan))
        logits = made(blocks, plan, *specs).logits(TOKENS, r1, r2)
        logits.square().mean().backward()
        found.append((logits.detach(), *(skew(m.detach().mT @ m.grad) for m in (r1, r2))))
    for got, wanted in zip(*found):
        assert float((got - wanted).norm()) <= 1e-9 * float(wanted.norm())
        assert wanted.norm() > 0


def skew(matrix):
    return matrix - matrix.mT


def test_rounding_under_a_rotation_is_rounding_of_the_turned_and_turned_back():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 24, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    whole, spec = torch.block_diag(*[rotation] * 3), QuantSpec(4, True)
    torch.testing.assert_close(rounded_under(x, spec, rotation), fake_quantize(x @ whole, spec) @ whole.T, rtol=1e-12, atol=1e-12)


def test_rounding_passes_the_gradient_straight_through():
    blocks, spec = source("tiny-gemma2"), QuantSpec(4, True)
    plan = plan_of(blocks)
    model = RotatedModel(blocks, plan, spec, spec, spec)
    r1, r2 = (m.requires_grad_() for m in matrices(plan))
    model.logits(TOKENS, r1, r2).square().mean().backward()
    assert all(torch.isfinite(m.grad).all() and m.grad.abs().max() > 0 for m in (r1, r2))
