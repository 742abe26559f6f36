"""Rotation operators: each agrees with its dense matrix, undoes itself, and holds the oracle numbers of METHODS.md section 17."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rotviz.errors import BadInput
from rotviz.numerics.hadamard import fwht, hadamard_base, hadamard_matrix
from rotviz.numerics.orthogonal import haar, orthogonality_error, random_signs
from rotviz.numerics.rotation import BlockDiagonalRotation, DenseRotation, HadamardRotation, IdentityRotation, factor_sizes

EPS = torch.finfo(torch.float64).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ROTATIONS = {
    "identity": lambda: IdentityRotation(12),
    "dense": lambda: DenseRotation(haar(20, generator())),
    **{f"hadamard {n}": lambda n=n: HadamardRotation(n, random_signs(n, generator()))
       for n in (1, 2, 12, 20, 28, 64, 92, 96, 128, 576, 896, 1536, 4096 // 2)},
    "hadamard without signs": lambda: HadamardRotation(56),
    "mixed base": lambda: HadamardRotation(428, random_signs(428, generator()), base=haar(107, generator(1))),
    "mixed base without signs": lambda: HadamardRotation(56, base=haar(7, generator(1))),
    "blocks": lambda: BlockDiagonalRotation(HadamardRotation(28), 3, random_signs(84, generator())),
    "blocks without signs": lambda: BlockDiagonalRotation(DenseRotation(haar(5, generator())), 4),
}


@pytest.fixture(params=ROTATIONS, scope="module")
def rotation(request):
    return ROTATIONS[request.param]()


def test_it_is_orthogonal(rotation):
    dense = rotation.dense()
    assert dense.dtype == torch.float64 and dense.shape == (rotation.size, rotation.size)
    assert orthogonality_error(dense) <= 4 * rotation.size * EPS
    assert rotation.orthogonality_error() <= 4 * rotation.size * EPS


def test_apply_is_the_product_with_the_dense_matrix(rotation):
    x = torch.randn(2, 3, rotation.size, dtype=torch.float64, generator=generator(7))
    bound = 4 * rotation.size * EPS * float(x.abs().max())
    torch.testing.assert_close(rotation.apply(x), x @ rotation.dense(), rtol=0, atol=bound)
    torch.testing.assert_close(rotation.apply_inverse(x), x @ rotation.dense().T, rtol=0, atol=bound)
    torch.testing.assert_close(rotation.apply_inverse(rotation.apply(x)), x, rtol=0, atol=2 * bound)


def test_apply_is_differentiable(rotation):
    x = torch.randn(2, rotation.size, dtype=torch.float64, generator=generator(3), requires_grad=True)
    upstream = torch.randn(2, rotation.size, dtype=torch.float64, generator=generator(4))
    (gradient,) = torch.autograd.grad(rotation.apply(x), x, upstream)
    torch.testing.assert_close(gradient, rotation.apply_inverse(upstream), rtol=0, atol=8 * rotation.size * EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_apply_keeps_dtype_and_norm(rotation, dtype):
    x = torch.randn(4, rotation.size, generator=generator(5)).to(dtype)
    y = rotation.apply(x)
    assert y.dtype == dtype and y.shape == x.shape
    torch.testing.assert_close(y.double().norm(), x.double().norm(), rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_the_matrix_cannot_be_changed_from_outside(rotation):
    before = rotation.dense()
    rotation.dense().zero_()
    assert torch.equal(rotation.dense(), before)
    with pytest.raises(AttributeError):
        rotation.size = 3
    assert rotation.describe() and str(rotation.size) in repr(rotation) and rotation.online_cost() >= 0


def test_a_rotation_built_in_inference_mode_can_still_be_trained_through():
    with torch.inference_mode():
        made = HadamardRotation(12, random_signs(12, generator()))
        dense = DenseRotation(haar(12, generator()))
        made.apply(torch.ones(12))
        dense.apply(torch.ones(12))
    for turn in (made, dense):
        x = torch.ones(12, requires_grad=True)
        turn.apply(x).sum().backward()
        assert x.grad is not None


def test_any_layout_and_an_empty_batch_are_turned():
    rotation = HadamardRotation(96, random_signs(96, generator()))
    x = torch.randn(96, 7, dtype=torch.float64, generator=generator(1)).T
    torch.testing.assert_close(rotation.apply(x), x @ rotation.dense(), rtol=0, atol=96 * 16 * EPS)
    assert rotation.apply(torch.ones(0, 96)).shape == (0, 96)
    assert rotation.apply(torch.ones(96)).shape == (96,)


def test_the_source_matrix_is_copied():
    matrix = haar(6, generator())
    rotation = DenseRotation(matrix)
    matrix.zero_()
    assert orthogonality_error(rotation.dense()) < 1e-12


@pytest.mark.parametrize("size", [12, 28, 64, 1024, 576])
def test_one_hot_becomes_plus_minus_one(size):
    """METHODS.md 17: RH on a one-hot sqrt(d) token gives |y| = 1 everywhere."""
    rotation = HadamardRotation(size, random_signs(size, generator()))
    y = rotation.apply(torch.eye(size, dtype=torch.float64) * math.sqrt(size))
    assert float((y.abs() - 1).abs().max()) <= 4 * EPS
    if size in (64, 1024):  # sqrt(d) and its inverse are exact
        assert (y.abs() == 1).all()


def test_two_spikes_become_four_levels():
    """METHODS.md 6 and 11: +-(a +- b) / sqrt(d), with a peak ratio of at most sqrt(2)."""
    x = torch.zeros(64, dtype=torch.float64)
    x[5], x[40] = 3.0, -2.0
    y = HadamardRotation(64, random_signs(64, generator())).apply(x)
    assert set((y * 8).tolist()) == {5.0, 1.0, -1.0, -5.0}
    assert float(y.abs().max() * 8 / y.norm()) <= math.sqrt(2)


@pytest.mark.parametrize("size", [12, 28, 20])
def test_the_matrix_is_signs_times_hadamard(size):
    signs = random_signs(size, generator())
    rotation = HadamardRotation(size, signs)
    expected = signs[:, None] * hadamard_matrix(size).double() / math.sqrt(size)
    torch.testing.assert_close(rotation.dense(), expected, rtol=2 * EPS, atol=0)
    assert torch.equal(rotation.signs, signs) and HadamardRotation(size).signs is None
    assert not torch.equal(hadamard_matrix(size), hadamard_matrix(size).T)


@pytest.mark.parametrize("size", [128, 1536, 896])
def test_small_factors_agree_with_butterflies(size):
    """The fast product against its slow twin: fwht over the power of two, then H_K over the other axis."""
    made = hadamard_base(size)
    x = torch.randn(5, size, dtype=torch.float64, generator=generator(2))
    z = fwht(x.unflatten(-1, (made.base, made.sylvester)))
    slow = torch.einsum("rjk,ji->rik", z, hadamard_matrix(made.base).double()).flatten(-2) / math.sqrt(size)
    torch.testing.assert_close(HadamardRotation(size).apply(x), slow, rtol=0, atol=size * EPS)


@given(st.sampled_from([1, 12, 28, 172, 107]), st.integers(0, 16))
def test_factor_sizes_multiply_to_the_size(base, t):
    sizes = factor_sizes(base, 2**t)
    assert math.prod(sizes) == base * 2**t and sizes[0] % base == 0
    assert all(size <= 64 for size in sizes[1:])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([12, 48, 64, 36, 92]), st.integers(0, 2**31))
def test_any_seed_is_orthogonal(size, seed):
    assert orthogonality_error(HadamardRotation(size, random_signs(size, generator(seed))).dense()) <= 4 * size * EPS


def test_costs_count_multiply_adds():
    assert IdentityRotation(64).online_cost() == 0
    assert DenseRotation(torch.eye(64)).online_cost() == 64 * 64
    assert HadamardRotation(64).online_cost() == 64 * 6
    assert HadamardRotation(1536).online_cost() == 1536 * (7 + 12)
    assert HadamardRotation(1536, torch.ones(1536)).online_cost() == 1536 * (7 + 12 + 1)
    assert BlockDiagonalRotation(HadamardRotation(64), 3).online_cost() == 3 * 64 * 6


@pytest.mark.parametrize("make, words", [
    (lambda: HadamardRotation(428), "order 428"),
    (lambda: HadamardRotation(12, torch.zeros(12)), r"\+1 or -1"),
    (lambda: HadamardRotation(12, torch.ones(13)), r"\+1 or -1"),
    (lambda: HadamardRotation(24, base=torch.eye(5)), "does not give 24"),
    (lambda: DenseRotation(torch.ones(3, 4)), "square"),
    (lambda: IdentityRotation(0), "at least one"),
    (lambda: HadamardRotation(12).apply(torch.ones(2, 13)), "last axis must be 12"),
    (lambda: HadamardRotation(12).apply(torch.ones(12, dtype=torch.int64)), "floating-point"),
])
def test_what_cannot_be_turned_is_refused(make, words):
    with pytest.raises(BadInput, match=words):
        make()


def test_haar_is_haar():
    """Second moments of Haar entries are 1/n, and no sign is preferred, unlike for the raw Q of a QR."""
    q = torch.stack([haar(4, generator(seed)) for seed in range(2000)])
    standard_error = 1 / math.sqrt(2000)
    assert float(q.mean(0).abs().max()) < 5 * 0.5 * standard_error
    assert float((q.square().mean(0) - 0.25).abs().max()) < 5 * 0.25 * standard_error
