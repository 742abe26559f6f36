"""Learned rounding: what each freedom allows, what its variables are, and that every switch does something."""

import dataclasses
import itertools

import pytest
import torch
from block_tasks import drive, make_task

from rotviz.errors import BadInput
from rotviz.kernels.scores import score
from rotviz.models.attention import copy_block
from rotviz.numerics.grids import fake_quantize, quantize
from rotviz.quantizers import QUANTIZERS, parts_of
from rotviz.quantizers.block import mean_error, outputs
from rotviz.quantizers.codes import FREEDOMS, SELECTIONS, LearnedCodes
from rotviz.quantizers.descent import OPTIMIZERS, Descent, Group
from rotviz.quantizers.reconstruction import LOSSES, kl_nats
from rotviz.quantizers.rounding import _looks
from rotviz.surgery.scales import put
from rotviz.types import Granularity, QuantSpec

W3 = QuantSpec(3, True, Granularity.CHANNEL, clip="mse")
Rounding = QUANTIZERS["rounding"]


def learned(weight, spec=W3, **settings):
    defaults = {"freedom": "signround", "levels": 1.5, "in_weights": False, "learn_range": False, "learn_exponent": False, "share": 1.0,
                "selection": "channels", "generator": torch.Generator().manual_seed(0)}
    return LearnedCodes(weight, parts_of(spec, spec.bits, len(weight)), **(defaults | settings))


@pytest.fixture
def weight():
    return torch.randn(10, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("spec", [W3, QuantSpec(2, False, Granularity.GROUP, 8), QuantSpec(2, False, Granularity.GROUP, 8, number_format="int_min"),
                                  QuantSpec(4, True, Granularity.CHANNEL, number_format="power")])
@pytest.mark.parametrize("freedom", FREEDOMS)
def test_before_learning_it_is_plain_rounding(weight, freedom, spec):
    codes = learned(weight, spec, freedom=freedom)
    assert torch.equal(codes.weight(hard=True), fake_quantize(weight, spec))
    soft = codes.weight(hard=False)
    if freedom == "up_down":  # between the levels it is the weight itself, but for what is clipped
        assert (soft - weight).abs().sum() < (fake_quantize(weight, spec) - weight).abs().sum()
    else:
        torch.testing.assert_close(soft, fake_quantize(weight, spec))


@pytest.mark.parametrize("freedom, reach", [("up_down", 1), ("signround", 1), ("wide", 3), ("latent", 100)])
def test_how_far_a_weight_may_go(weight, freedom, reach):
    """Push every variable as far as it goes: the codes move by at most the freedom's reach, and do reach it."""
    spec = QuantSpec(8, True, Granularity.CHANNEL)
    codes = learned(weight, spec, freedom=freedom, levels=2.5)
    (group,) = codes.groups()
    group.variable.data.fill_(100.0)
    codes.project()
    step = quantize(weight, spec).scale.step[..., 0]
    place = weight / step
    moved = (codes.weight(hard=True) / step - place).round()
    free = place < 127 - reach - 1
    assert moved[free].max() <= reach and moved[free].max() >= min(reach, 1)
    if freedom == "up_down":
        assert torch.equal((codes.weight(hard=True) / step).round()[free], place.floor()[free] + 1)
    if freedom == "latent":
        assert moved[free].min() > 90


@pytest.mark.parametrize("spec", [W3, QuantSpec(3, True, Granularity.CHANNEL, number_format="power")])
def test_gradients_reach_every_variable(weight, spec):
    codes = learned(weight.float(), spec, learn_range=True, learn_exponent=True)
    codes.groups()[0].variable.data.uniform_(-0.4, 0.4, generator=torch.Generator().manual_seed(3))
    loss = (codes.weight(hard=False) * torch.randn(10, 32, generator=torch.Generator().manual_seed(2))).sum()
    gradients = torch.autograd.grad(loss, [g.variable for g in codes.groups()])
    assert len(gradients) == (4 if spec.number_format == "power" else 3)
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)


def test_variables_in_weights_move_narrow_rows_further(weight):
    """In units of weights one step of the optimizer is the same for all rows: a row with small steps crosses more of them."""
    uneven = weight * torch.linspace(0.1, 2, 10, dtype=torch.float64)[:, None]
    moves = {}
    for in_weights in (False, True):
        codes = learned(uneven, freedom="latent", in_weights=in_weights)
        codes.groups()[0].variable.data.fill_(0.8)
        step = quantize(uneven, W3).scale.step[..., 0]
        moves[in_weights] = ((codes.weight(hard=True) - fake_quantize(uneven, W3)) / step).mean(-1)
    assert moves[True][0] > 1.5 * moves[False][0] and moves[True][-1] < moves[False][-1]


def test_only_the_chosen_rows_are_learned():
    task = make_task(generator=torch.Generator().manual_seed(0))
    tensors = drive(Rounding(iterations=10, share=0.5, learn_range=False, rate=0.2, keep_best=False), task)[0].tensors
    name = "mlp.up_proj.weight"
    moved = (tensors[name] != fake_quantize(task.view.block.mlp.up_proj.weight.data, W3)).any(-1)
    assert 0.3 < moved.float().mean() < 0.7


def test_every_switch_changes_the_result():
    def result(**settings):
        task = make_task(noise=0.05, windows=4, length=16, fisher=torch.diag(torch.linspace(0.1, 4, 80)))
        return drive(Rounding(**({"iterations": 6, "batch": 2, "rate": 0.4, "keep_best": False} | settings)), task)[0].tensors

    changes = [{}, {"freedom": "up_down"}, {"freedom": "wide"}, {"freedom": "latent"}, {"loss": "layer"}, {"loss": "block"},
               {"loss": "importance"}, {"loss": "cosine"}, {"loss": "kl"}, {"loss": "kl", "kl_tokens": 5},
               {"target": "same"}, {"optimizer": "sgd"}, {"optimizer": "adam"}, {"variable": "weights"}, {"iterations": 7},
               {"rate": 0.2}, {"batch": 4}, {"learn_range": False}, {"range_rate": 0.01}, {"share": 0.5},
               {"share": 0.5, "selection": "weights"}, {"share": 0.5, "selection": "undecided"}, {"augment": 0.3}, {"keep_best": True, "rate": 3.0}]
    found = [result(**change) for change in changes]
    narrow, wide = result(freedom="wide", levels=0.55), result(freedom="wide", levels=1.5)
    assert any(not torch.equal(narrow[path], wide[path]) for path in wide)
    for (a, first), (b, second) in itertools.combinations(zip(changes, found), 2):
        if {str(a), str(b)} == {"{'freedom': 'wide'}", "{'freedom': 'latent'}"}:
            continue  # the travel here never meets the bound of 1.5
        assert any(not torch.equal(first[path], second[path]) for path in first), (a, b)


def test_a_power_grids_exponent_is_learned():
    spec = QuantSpec(3, True, Granularity.CHANNEL, number_format="power")
    free, held = (drive(Rounding(iterations=20, rate=0.02, learn_exponent=learn), make_task(spec=spec))[0].metrics for learn in (True, False))
    name = "self_attn.q_proj.exponent"
    assert 0.1 <= free[name] <= 1.5 and free[name] != held[name] and free["loss_after"] < free["loss_before"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_find_the_minimum_of_a_bowl(optimizer):
    goal = torch.tensor([0.3, -0.2, 0.05])
    variable = torch.zeros(3, requires_grad=True)
    descent = Descent(optimizer, [Group(variable)])
    for i in range(200):
        descent.step(((variable - goal).square() * torch.tensor([1.0, 10.0, 100.0])).sum(), 0.01 * (1 - i / 200))
    assert (variable - goal).abs().max() < 0.05


def test_a_gradient_that_is_not_finite_moves_nothing():
    variable = torch.zeros(2, requires_grad=True)
    Descent("adam", [Group(variable)]).step((variable * float("nan")).sum(), 0.1)
    assert not variable.any()


def test_the_best_state_is_kept_even_when_learning_runs_away():
    found = drive(Rounding(iterations=10, rate=50.0, freedom="latent"), make_task())[0].metrics
    assert found["loss_after"] <= found["loss_before"]
    wild = drive(Rounding(iterations=10, rate=50.0, freedom="latent", keep_best=False), make_task())[0].metrics
    assert wild["loss_after"] > found["loss_after"]


def test_a_loss_that_is_not_finite_ends_learning_with_a_note():
    task = make_task()
    broken = task.inputs.clone()
    broken[1, 3] = float("nan")
    result = drive(Rounding(iterations=10, batch=1), dataclasses.replace(task, inputs=broken))[0]
    assert any("not finite" in note for note in result.notes)
    assert torch.equal(result.tensors["mlp.up_proj.weight"], fake_quantize(task.view.block.mlp.up_proj.weight.data, W3))


def test_refusals():
    assert "even and power grids" in Rounding().refusal(QuantSpec(4, True, number_format="mxfp4"))
    assert Rounding().refusal(W3) is None
    with pytest.raises(BadInput, match="gradient of the model's loss"):
        drive(Rounding(loss="importance"), make_task())
    with pytest.raises(BadInput, match="end of the model"):
        drive(Rounding(loss="kl"), make_task(finish=None))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("freedom", ["signround", "up_down"])
def test_every_loss_descends_and_ends_on_the_grid(loss, freedom):
    task = make_task(noise=0.02, windows=4, block=1, fisher=torch.eye(80))
    result = drive(Rounding(loss=loss, freedom=freedom, iterations=30, batch=2), task)[0]
    assert result.metrics["loss_after"] < 0.95 * result.metrics["loss_before"]
    assert all(len(row.unique()) <= 8 for path, weight in result.tensors.items() for row in weight)


def test_the_divergence_is_the_evaluations_and_has_its_gradient():
    """By central differences in float64; and it is blind to a constant added to all logits."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, 11, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    assert float(kl_nats(p, q)) == pytest.approx(float(score(p, q, torch.zeros(6, dtype=torch.long)).kl.mean()))
    assert float(kl_nats(p, p + 5)) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: kl_nats(p, x), q.requires_grad_())


def test_at_the_last_block_kl_is_the_models_own_divergence():
    """What learning reports there, before and after, is what one measures on the models' predictions; and it falls further than by another loss."""
    task = make_task(block=1, windows=4, length=16)

    def divergence(result):
        view = copy_block(task.view)
        put(view, result.tensors)
        logits = [task.finish(outputs(task, block, task.inputs)) for block in (task.view.block, view.block)]
        return float(kl_nats(*logits))

    result = drive(Rounding(loss="kl", kl_tokens=0, iterations=40, batch=4), task)[0]
    other = drive(Rounding(loss="block", iterations=40, batch=4), task)[0]
    assert result.metrics["loss_after"] == pytest.approx(divergence(result), rel=1e-4)
    assert divergence(result) < divergence(other)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("freedom", ["signround", "up_down"])
def test_what_is_not_selected_is_rounded_to_nearest(weight, freedom, selection):
    codes = learned(weight, freedom=freedom, share=0.3, selection=selection)
    (group,) = codes.groups()
    assert group.mask.mean() == pytest.approx(0.3, abs=0.15)
    if selection == "channels":
        assert torch.equal(group.mask.amin(-1), group.mask.amax(-1))
    if selection == "undecided":
        off = (weight / quantize(weight, W3).scale.step[..., 0] % 1 - 0.5).abs()
        assert off[group.mask.flatten(1) > 0].max() <= off[group.mask.flatten(1) == 0].min()
    Descent("sign", [group]).step(codes.weight(hard=False).square().sum(), 50.0)
    codes.project()
    moved = codes.weight(hard=True) != fake_quantize(weight, W3)
    assert moved.any() and not moved[group.mask.flatten(1) == 0].any()
    soft = codes.weight(hard=False)
    assert torch.allclose(soft[group.mask.flatten(1) == 0], fake_quantize(weight, W3)[group.mask.flatten(1) == 0])


def test_ranges_go_at_their_own_rate():
    """AdaRound's variable is fast; the ranges keep to the steps that they are given."""
    codes = learned(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), freedom="up_down", learn_range=True, learn_exponent=True)
    nudge, low, _ = groups = codes.groups(slower=0.01)
    before = nudge.variable.detach().clone(), low.variable.detach().clone()
    Descent("sign", groups).step(codes.weight(hard=False).square().sum(), 1.0)
    moved = [float((group.variable.detach() - was).abs().max()) for group, was in zip((nudge, low), before)]
    assert moved == pytest.approx([1.0, 0.01], rel=1e-4)


def test_a_learned_exponent_is_reported_beside_the_searched_one():
    spec = QuantSpec(3, True, Granularity.CHANNEL, number_format="power")
    found = drive(Rounding(iterations=5, learn_exponent=False), make_task(spec=spec))[0].metrics
    assert found["mlp.up_proj.exponent"] == pytest.approx(found["mlp.up_proj.searched_exponent"])


def test_a_massive_token_does_not_speak_for_the_others():
    """Why the default loss is relative to each token's energy: what the blocks before lost of one loud token cannot be mended here, and the plain
    mean tries to at the others' cost."""
    task = make_task(windows=4, length=32)
    loud, moved = task.inputs.clone(), task.inputs.clone()
    loud[:, 0] *= 1000
    moved[:, 0] *= 1000 + 50 * torch.randn(80, generator=torch.Generator().manual_seed(0))

    def others(loss):
        tensors = drive(Rounding(iterations=40, loss=loss), dataclasses.replace(task, inputs=moved, float_inputs=loud))[0].tensors
        view = copy_block(task.view)
        put(view, tensors)
        target = outputs(task, task.view.block, loud)
        return float(mean_error(outputs(task, view.block, loud)[:, 1:], target[:, 1:], normalized=True))

    assert others("normalized") < 0.7 * others("block")


@pytest.mark.parametrize("windows, count, looks", [(200 * 8, 16, 10), (60 * 2, 16, 5), (4, 16, 1)])
def test_the_state_is_judged_less_often_where_judging_would_cost_more_than_a_quarter_of_learning(windows, count, looks):
    assert _looks(windows, count) == looks
