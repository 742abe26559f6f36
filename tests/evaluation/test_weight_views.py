"""A weight on a grid: three forms with one function, levels that the rounded weight really takes, shares that are right by hand."""

import numpy as np
import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.evaluation.sites import Turn
from rotviz.evaluation.weights import (
    FOLDED,
    FORMS,
    ROTATED,
    STORED,
    distinct_in_groups,
    inputs_of,
    linears,
    loss_of,
    plan_of,
    sampled,
    spread_of,
)
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import fake_quantize
from rotviz.surgery.doctor import source_sizes
from rotviz.types import FORMATS, Granularity, QuantSpec, Slot

CHANNEL, GROUP = Granularity.CHANNEL, Granularity.GROUP
SPECS = [QuantSpec(4, True, CHANNEL, 0, "none"), QuantSpec(3, False, CHANNEL, 0, "mse"), QuantSpec(4, False, GROUP, 16, 0.8),
         QuantSpec(4, True, CHANNEL, 0, "none", "power"), QuantSpec(8, True, CHANNEL, 0, "none", "fp8"),
         QuantSpec(4, True, CHANNEL, 0, 0.9, "mxfp4"), QuantSpec(4, True, CHANNEL, 0, "none", "nvfp4")]


def _weight(rows: int = 12, width: int = 64) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-opt"])
def test_every_form_gives_the_same_outputs(model: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    source = BlockSource(load(model).model)
    turn = Turn("hadamard", 3)
    plan, seen = plan_of(turn, source_sizes(source)), look(Look(model, tokens=24))
    found = {form: linears(source, plan, 1, form) for form in FORMS}
    for one in range(len(found[STORED])):
        sizes = [float((inputs_of(seen, 1, (w := found[form][one]).roles[0], turn, form) @ w.weight.T).norm()) for form in FORMS]
        if model == "tiny-opt":
            sizes = sizes[1:]  # LayerNorm's offset moves to the bias, and writers lose their mean
        assert sizes == pytest.approx([sizes[0]] * len(sizes), rel=1e-4), found[STORED][one].path


def test_slots_that_do_not_act_change_nothing() -> None:
    source = BlockSource(load("tiny-llama").model)
    plan = plan_of(Turn("hadamard", 0, (Slot.R3,)), source_sizes(source))
    plain, turned = linears(source, plan, 0, STORED), linears(source, plan, 0, ROTATED)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain, turned, strict=True))
    assert {one.role for one in plain} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert FOLDED in FORMS


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.number_format}{s.bits}g{s.group}")
def test_the_loss_is_that_of_fake_quantization_and_levels_are_those_it_takes(spec: QuantSpec) -> None:
    weight, rows = _weight(), _weight(5)
    loss = loss_of(weight, spec, rows)
    assert loss.weight == pytest.approx(relative_mse(weight, fake_quantize(weight, spec)))
    assert loss.output == pytest.approx(relative_mse(rows @ weight.T, rows @ fake_quantize(weight, spec).T))
    spread = spread_of(weight, spec, channel=2)
    assert spread.counts.sum() == weight.shape[1]
    assert spread.own_unit == (not spec.group and not FORMATS[spec.number_format].block)
    if spread.own_unit:
        taken = fake_quantize(weight, spec)[2].double().numpy()
        assert np.abs(taken[:, None] - spread.levels).min(1).max() < 1e-5


def test_what_is_cut_off_is_counted() -> None:
    weight = torch.tensor([[*range(-7, 8), 14.0]])
    none, half = (loss_of(weight, QuantSpec(4, True, CHANNEL, 0, clip)) for clip in ("none", 0.5))
    assert none.clipped == 0 and half.clipped == 1 / 16
    assert half.weight == pytest.approx(49 / float(weight.square().sum()))


def test_a_weight_that_was_stored_with_4_bits_is_recognized() -> None:
    codes = torch.randint(0, 16, (4, 64), generator=torch.Generator().manual_seed(1))
    stored = (codes.unflatten(1, (2, 32)) * torch.rand(4, 2, 1) + torch.randn(4, 2, 1)).flatten(1)
    assert distinct_in_groups(stored) <= 16 < distinct_in_groups(_weight())
    assert distinct_in_groups(_weight(2, 48)) is None


def test_samples_are_spread_evenly() -> None:
    assert sampled(torch.arange(100)[:, None], 10)[:, 0].tolist() == list(range(0, 100, 10))
    assert len(sampled(torch.zeros(5, 1), 10)) == 5
