"""What every registered rotation method owes its callers, over slots and sizes. A method in a new file is tested by being registered."""

import dataclasses

import pytest
import torch

from rotviz.config import from_mapping, settings_of, to_mapping
from rotviz.errors import BadInput, UnknownName
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.rotations import ROTATIONS
from rotviz.types import Slot

SIZES = [8, 48, 64, 96, 428, 576, 1536]  # 428 = 107 * 4 has no Hadamard matrix, as 13696 = 107 * 128 has none
METHODS = sorted(ROTATIONS)
EPS = torch.finfo(torch.float64).eps


def build(name, size, seed=0, slot=Slot.R1, **settings):
    return ROTATIONS[name](**settings).build(slot, size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", METHODS)
def test_it_is_orthogonal_and_undoes_itself(name, size):
    rotation = build(name, size)
    dense = rotation.dense()
    assert rotation.size == size
    assert rotation.orthogonality_error() < 1e-12 and orthogonality_error(dense) < 1e-12
    x = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bound = 4 * size * EPS * float(x.abs().max())
    torch.testing.assert_close(rotation.apply(x), x @ dense, rtol=0, atol=bound)
    torch.testing.assert_close(rotation.apply_inverse(rotation.apply(x)), x, rtol=0, atol=2 * bound)


@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("name", METHODS)
def test_every_slot_is_served(name, slot):
    assert build(name, 64, slot=slot).orthogonality_error() < 1e-12


@pytest.mark.parametrize("size", [64, 96, 428])
@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides(name, size):
    first = build(name, size, seed=3).dense()
    assert torch.equal(first, build(name, size, seed=3).dense())
    assert torch.equal(first, build(name, size, seed=4).dense()) == (name == "none")


@pytest.mark.parametrize("name", METHODS)
def test_the_global_random_state_is_left_alone(name):
    before = torch.get_rng_state()
    build(name, 64)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_is_frozen_documented_and_travels(name):
    method = ROTATIONS[name]
    assert method.summary and method.summary.endswith(".") and ROTATIONS.name_of(method) == name
    assert all(s.help for s in settings_of(method))
    assert from_mapping(method, to_mapping(method())) == method()
    assert method.__dataclass_params__.frozen
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method(), field.name, field.default)


def test_hadamard_without_signs_is_the_same_for_every_seed():
    assert torch.equal(build("hadamard", 96, seed=0, randomize=False).dense(), build("hadamard", 96, seed=1, randomize=False).dense())


@pytest.mark.parametrize("size, settings", [(576, {"block": 64}), (96, {"block": 12}), (428, {"fallback": "blocks"}),
                                            (428, {"block": 107}), (96, {"block": 48, "randomize": False})])
def test_hadamard_blocks(size, settings):
    rotation = build("hadamard", size, **settings)
    block = settings.get("block", 4)
    outside = torch.block_diag(*[torch.ones(block, block)] * (size // block)) == 0
    assert rotation.orthogonality_error() < 1e-12 and not rotation.dense()[outside].any()
    assert f"{size // block} blocks of {block}" in rotation.describe()


def test_a_block_that_does_not_divide_is_refused():
    with pytest.raises(BadInput, match="block 50 does not divide the width 576; these do: 2, 4, 8, 12"):
        build("hadamard", 576, block=50)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="did you mean"):
        from_mapping(ROTATIONS["hadamard"], {"blok": 2}, where="rotation.hadamard")
    with pytest.raises(BadInput, match="at least 0"):
        from_mapping(ROTATIONS["hadamard"], {"block": -2})
    with pytest.raises(UnknownName, match="did you mean 'hadamard'"):
        ROTATIONS["hadamrd"]
