"""Floating-point formats: their levels, ties, block scales and refusals."""

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.float_grids import E2M1, E4M3, levels, nearest_index
from rotviz.numerics.grids import fake_quantize, fake_quantize_through, quantize
from rotviz.rotations.hadamard import Hadamard
from rotviz.types import FORMATS, Granularity, QuantSpec, Slot

FLOATS = {"fp8": 8, "fp4": 4, "mxfp4": 4, "nvfp4": 4}


def draw(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(name: str, **more) -> QuantSpec:
    return QuantSpec(FLOATS[name], True, Granularity.CHANNEL, number_format=name, **more)


def test_e2m1_has_its_eight_levels():
    assert levels(E2M1).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_e4m3_is_torchs():
    patterns = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert torch.equal(levels(E4M3), patterns.double())


def test_rounding_to_e4m3_is_torchs():
    x = torch.cat([draw(1, 4000, 3)[0].abs() * 100, levels(E4M3), (levels(E4M3)[1:] + levels(E4M3)[:-1]) / 2]).float()
    expected = x.to(torch.float8_e4m3fn).float()
    assert torch.equal(levels(E4M3).float()[nearest_index(x, E4M3).long()], expected)


@pytest.mark.parametrize("name", FLOATS)
def test_values_are_the_nearest_levels_and_fixed_by_rounding_again(name):
    x = draw(3, 64)
    q = quantize(x, spec(name))
    kind = E4M3 if name == "fp8" else E2M1
    places = x.unflatten(-1, (q.scale.step.shape[-2], -1)) / q.scale.step
    table = torch.cat([-levels(kind), levels(kind)])
    nearest = (places[..., None] - table).abs().amin(-1)
    found = (q.values().unflatten(-1, (q.scale.step.shape[-2], -1)) / q.scale.step - places).abs()
    torch.testing.assert_close(found, nearest, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fake_quantize(q.values(), spec(name)), q.values(), rtol=1e-6, atol=0)


def test_mx_scales_are_powers_of_two_as_the_standard_says():
    x = torch.zeros(1, 64, dtype=torch.float64)
    x[0, :3] = torch.tensor([6.0, 1.4, -0.3])
    x[0, 32:34] = torch.tensor([7.9, 0.2])
    q = quantize(x, spec("mxfp4"))
    assert q.scale.step.flatten().tolist() == [1.0, 1.0]
    assert q.values()[0, :3].tolist() == [6.0, 1.5, -0.5] and q.values()[0, 32] == 6.0  # above the largest level: cut
    small = quantize(x * 2.0**-9, spec("mxfp4"))
    assert torch.equal(small.values(), q.values() * 2.0**-9)


def test_nv_scales_are_e4m3_times_the_tensors():
    x = draw(4, 64, 1)
    q = quantize(x, spec("nvfp4"))
    tensor = x.abs().max() / (448 * 6)
    stored = (q.scale.step / tensor).float()
    assert torch.equal(stored.to(torch.float8_e4m3fn).float(), stored)
    assert stored.max() == 448


def test_nv_scales_of_one_token_do_not_depend_on_the_others():
    x = draw(5, 64, 2)
    token = QuantSpec(4, True, number_format="nvfp4")
    whole = fake_quantize(x[None], token)
    assert torch.equal(whole[0, 1:2], fake_quantize(x[None, 1:2], token)[0])
    loud = x.clone()
    loud[0] *= 1e5
    assert torch.equal(fake_quantize(loud[None], token)[0, 1:], whole[0, 1:])


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("clip", ["none", "mse", 0.9])
def test_zeros_tiny_and_huge_numbers_are_finite(name, clip):
    x = torch.cat([torch.zeros(1, 64), torch.full((1, 64), 1e-30), draw(1, 64).float() * 1e30, torch.full((1, 64), 3.0)])
    out = fake_quantize(x, spec(name, clip=clip))
    assert torch.isfinite(out).all() and not out[0].any()


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinity_stay_visible(name, strange):
    """In the block where they stand, and in all that share its scale."""
    x = draw(2, 64, 7).float()
    x[1, 3] = strange
    out = fake_quantize(x[None], QuantSpec(spec(name).bits, True, number_format=name))[0]
    assert out[1, :16].isnan().all() and torch.isfinite(out[0]).all()


@pytest.mark.parametrize("name", FLOATS)
def test_searching_the_clip_never_hurts(name):
    x = draw(16, 64, 4)

    def loss(clip):
        return float((fake_quantize(x, spec(name, clip=clip)) - x).abs().pow(2.4).sum())

    assert loss("mse") <= loss("none")


def test_order_of_the_formats_on_gaussian_weights():
    """Finer scales lose less: a row's, MX's power of two, NV's; eight bits far less."""
    x = draw(64, 256, 5)
    error = {name: float((fake_quantize(x, spec(name)) - x).square().sum()) for name in FLOATS}
    assert error["fp8"] < 0.1 * error["nvfp4"] < 0.1 * error["mxfp4"] and error["nvfp4"] < error["fp4"]


@pytest.mark.parametrize("name", FLOATS)
def test_the_gradient_passes_where_nothing_is_cut(name):
    x = draw(2, 64, 6).requires_grad_()
    out = fake_quantize_through(x, spec(name))
    torch.testing.assert_close(out.detach(), fake_quantize(x.detach(), spec(name)), rtol=1e-9, atol=1e-12)
    out.sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.ne(0).float().mean() > 0.9


@pytest.mark.parametrize("bad, why", [({"bits": 4, "number_format": "fp8"}, "8 bits, not 4"), ({"bits": 8, "number_format": "nvfp4"}, "4 bits"),
                                      ({"bits": 4, "number_format": "fp4", "symmetric": False}, "symmetric = true"),
                                      ({"bits": 4, "number_format": "mxfp4", "group": 64}, "blocks of its own, of 32"),
                                      ({"bits": 4, "number_format": "fp5"}, "no number format"),
                                      ({"bits": 4, "number_format": "nvfp4", "clip": "mse"}, "for weights")])
def test_combinations_without_sense_are_refused(bad, why):
    with pytest.raises(BadInput, match=why):
        QuantSpec(**bad)


def test_a_width_without_whole_blocks_is_refused():
    with pytest.raises(BadInput, match="the blocks of mxfp4, of 32, do not divide the width 80; use another format"):
        fake_quantize(torch.zeros(1, 80), spec("mxfp4"))


def test_float_needs_no_grid():
    assert all(not QuantSpec(16, False, number_format=name).quantizes for name in FORMATS)


def test_blocks_keep_a_massive_channel_to_themselves_and_a_rotation_spreads_it():
    """Why rotations and block formats do not add up: one huge channel ruins one block; turned, all of them. A scale a token gains instead."""
    x = torch.randn(64, 576, generator=torch.Generator().manual_seed(7))
    massive = x.clone()
    massive[:, 17] += 700
    turned = Hadamard().build(Slot.R1, 576, torch.Generator().manual_seed(8)).apply(massive)

    def lost(numbers: torch.Tensor, grid: QuantSpec) -> float:
        return float((fake_quantize(numbers, grid) - numbers).square().mean())

    blocks, token = QuantSpec(4, True, number_format="nvfp4"), QuantSpec(4, True, clip=0.9)
    assert lost(turned, blocks) > 50 * lost(massive, blocks)
    assert lost(turned, token) < lost(massive, token) / 5
