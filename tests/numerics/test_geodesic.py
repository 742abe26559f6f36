"""The path to a rotation: its ends, its evenness, and matrices whose angles coincide."""

import math

import pytest
import torch

from rotviz.numerics.geodesic import geodesic
from rotviz.numerics.rotation import DenseRotation
from rotviz.rotations import ROTATIONS
from rotviz.types import Slot


def end(rotation, path):
    matrix = rotation.dense()
    if path.flipped:
        matrix[:, -1].neg_()
    return matrix


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "size"), [("hadamard", 2), ("hadamard", 12), ("hadamard", 96), ("orthogonal", 7), ("orthogonal", 64), ("none", 5)])
def test_it_leads_from_the_identity_to_the_rotation_by_even_steps(name, size, seed):
    rotation = ROTATIONS[name]().build(Slot.R1, size, torch.Generator().manual_seed(seed))
    path = geodesic(rotation)
    tolerance = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(path.matrix(0.0), torch.eye(size, dtype=torch.float64), **tolerance)
    torch.testing.assert_close(path.matrix(1.0), end(rotation, path), **tolerance)
    step = path.matrix(0.25)
    torch.testing.assert_close(step @ step @ step @ step, end(rotation, path), **tolerance)
    for t in (0.1, 0.5, 0.77):
        torch.testing.assert_close(path.matrix(t).T @ path.matrix(t), torch.eye(size, dtype=torch.float64), **tolerance)


def test_a_plane_is_turned_by_its_angle():
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    path = geodesic(DenseRotation(turn))
    assert path.length == pytest.approx(angle) and not path.flipped
    half = torch.tensor([[math.cos(angle / 2), -math.sin(angle / 2)], [math.sin(angle / 2), math.cos(angle / 2)]], dtype=torch.float64)
    torch.testing.assert_close(path.matrix(0.5), half)


@pytest.mark.parametrize("signs", [[-1, -1, 1], [-1, -1, -1, -1], [-1, 1, 1], [-1, -1, -1]])
def test_half_turns_and_reflections(signs):
    rotation = DenseRotation(torch.diag(torch.tensor(signs, dtype=torch.float64)))
    path = geodesic(rotation)
    assert path.flipped == (math.prod(signs) < 0)
    torch.testing.assert_close(path.matrix(1.0), end(rotation, path), rtol=0, atol=1e-12)
    middle = path.matrix(0.5)
    torch.testing.assert_close(middle @ middle, end(rotation, path), rtol=0, atol=1e-12)


def test_an_angle_that_the_mixture_mirrors_is_told_apart():
    """a cos + b sin is cos(theta - c) with tan c = b / a: theta and 2 c - theta have the same eigenvalue there."""
    c = math.atan2(0.5403023058681398, 0.8414709848078965)
    angles = (0.9, 2 * c - 0.9)
    blocks = [torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]], dtype=torch.float64) for t in angles]
    mix = ROTATIONS["orthogonal"]().build(Slot.R1, 4, torch.Generator().manual_seed(0)).dense()
    rotation = DenseRotation(mix.T @ torch.block_diag(*blocks) @ mix)
    path = geodesic(rotation)
    torch.testing.assert_close(path.matrix(1.0), rotation.dense(), rtol=0, atol=1e-11)
    torch.testing.assert_close(path.matrix(0.5) @ path.matrix(0.5), rotation.dense(), rtol=0, atol=1e-11)
