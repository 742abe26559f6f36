"""The parts of learned rotations against finite differences, autograd, exact twins and known optima."""

import math

import pytest
import torch

from rotviz.numerics.cayley import cayley_exact, cayley_step
from rotviz.numerics.objectives import OBJECTIVES, peak, unit_rms, whip
from rotviz.numerics.orthogonal import haar, orthogonality_error
from rotviz.numerics.procrustes import procrustes
from rotviz.numerics.qr_orth import Descent, latent_gradient, orthonormal
from rotviz.types import QuantSpec

SPEC = QuantSpec(4, True)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 5, 24])
def test_qr_gradient_is_autograds(n):
    z, weights = gaussian(n, n).requires_grad_(), gaussian(n, n, seed=1)
    q, _ = orthonormal(z)
    loss = (q.tanh() * weights).sum()
    (wanted,) = torch.autograd.grad(loss, z)
    with torch.no_grad():
        q, u = orthonormal(z)
        got = latent_gradient(q, u, (1 - q.tanh().square()) * weights)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_qr_gradient_is_that_of_finite_differences():
    z, weights, eps = gaussian(6, 6), gaussian(6, 6, seed=1), 1e-6

    def loss(at):
        return float((orthonormal(at)[0] * weights).sum())

    q, u = orthonormal(z)
    got = latent_gradient(q, u, weights)
    for i in range(6):
        for j in range(6):
            step = torch.zeros_like(z)
            step[i, j] = eps
            assert float(got[i, j]) == pytest.approx((loss(z + step) - loss(z - step)) / (2 * eps), rel=1e-5, abs=1e-8)


def test_qr_of_a_batch_is_each_ones():
    z, g = gaussian(3, 8, 8), gaussian(3, 8, 8, seed=1)
    q, u = orthonormal(z)
    assert (u.diagonal(dim1=-2, dim2=-1) > 0).all()
    torch.testing.assert_close(q @ u, z)
    batch = latent_gradient(q, u, g)
    for k in range(3):
        torch.testing.assert_close(batch[k], latent_gradient(*orthonormal(z[k]), g[k]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_have_their_gradients(name):
    o = gaussian(7, 12)
    total, gradient = OBJECTIVES[name](o, SPEC)
    if name == "quantization":  # the grid is held fixed: differentiate (o - const)^2
        from rotviz.numerics.grids import fake_quantize

        fixed = fake_quantize(o, SPEC)
        torch.testing.assert_close(total, (o - fixed).square().sum())
        torch.testing.assert_close(gradient, 2 * (o - fixed))
        return
    x = o.clone().requires_grad_()
    c = x - x.mean(-1, keepdim=True)
    twin = {"whip": lambda: (-x.abs()).exp().sum(), "variance": lambda: x.var(-1, correction=0).sum(),
            "kurtosis": lambda: (c.pow(4).mean(-1) / c.square().mean(-1).square()).sum()}[name]()
    torch.testing.assert_close(total, twin.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(twin, x)[0])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 4])
def test_peak_has_its_gradient_and_is_the_peak_in_the_limit(symmetric, group):
    spec, o = QuantSpec(4, symmetric, group=group), gaussian(7, 12)
    x = o.clone().requires_grad_()
    grouped = x.unflatten(-1, (-1, group or 12))
    up, down = (y.clamp_min(0).pow(6).sum(-1).pow(1 / 6) for y in (grouped, -grouped))
    twin = (grouped.abs().pow(6).sum(-1).pow(1 / 6) if symmetric else (up + down) / 2).square().sum()
    total, gradient = peak(6.0)(o, spec)
    torch.testing.assert_close(total, twin.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(twin, x)[0])
    largest, smallest = o.unflatten(-1, (-1, group or 12)).amax(-1), o.unflatten(-1, (-1, group or 12)).amin(-1)
    exact = (torch.maximum(largest, -smallest) if symmetric else (largest.clamp_min(0) - smallest.clamp_max(0)) / 2).square().sum()
    limit = peak(400.0)(o, spec)[0]
    assert float(exact) <= float(limit) <= float(exact) * 12 ** (2 / 400)  # |a|_inf <= |a|_p <= n^(1/p) |a|_inf
    assert torch.isfinite(peak(8.0)(torch.zeros(2, 12), spec)[1]).all()


def test_whip_of_known_distributions():
    """METHODS.md 17: .3679 for equal magnitudes, .4752 uniform, .5233 Gaussian, .5858 Laplace, at unit RMS."""
    g = torch.Generator().manual_seed(0)
    u = torch.rand(1000, 1000, generator=g, dtype=torch.float64)
    laplace = -(2 * u - 1).sign() * (1 - (2 * u - 1).abs()).clamp_min(1e-12).log()
    samples = {math.exp(-1): torch.ones(2, 8), 0.4752: 2 * u - 1, 0.5233: torch.randn(1000, 1000, generator=g), 0.5858: laplace}
    for wanted, rows in samples.items():
        assert float(whip(unit_rms(rows), SPEC)[0]) / rows.numel() == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("n", [2, 16, 64])
def test_a_cayley_step_is_the_exact_curve_and_stays_orthogonal(n):
    start, gradient = haar(n, torch.Generator().manual_seed(0)), gaussian(n, n, seed=1)
    moved, _ = cayley_step(start, gradient, torch.zeros_like(start), rate=1e9)  # the largest step that is ever taken
    lifted = -gradient @ start.T
    skew = 0.5 * (lifted - lifted.T)  # P - P^T with P = L - R R^T L / 2 = L / 2
    exact = cayley_exact(start, skew, float(1 / skew.abs().sum(0).max()))
    # A = a/2 W, |A| <= 1/2: the first error is (I - A)^-1 2 A^2, at most 1/2, and each of five iterations multiplies it by A
    bound = 0.5**6
    assert float(torch.linalg.matrix_norm(moved - exact, 2)) <= bound * (1 + 1e-9)
    assert orthogonality_error(exact) < 1e-12 and orthogonality_error(moved) < 2 * bound + bound**2
    small, _ = cayley_step(start, gradient, torch.zeros_like(start), rate=1e-3)
    assert orthogonality_error(small) < 1e-9


def test_a_small_cayley_step_goes_downhill():
    start, target = haar(12, torch.Generator().manual_seed(0)), haar(12, torch.Generator().manual_seed(1))
    gradient = -target  # of -tr(R^T T)
    moved, velocity = cayley_step(start, gradient, torch.zeros_like(start), rate=1e-2)
    assert float((moved * target).sum()) > float((start * target).sum()) and velocity.shape == start.shape


def test_procrustes_finds_a_planted_rotation_and_never_raises_its_objective():
    x, planted = gaussian(40, 9), haar(9, torch.Generator().manual_seed(3))
    torch.testing.assert_close(procrustes(x.T @ (x @ planted)), planted)
    target = (x @ planted).round()
    best = float((x @ procrustes(x.T @ target) - target).norm())
    for seed in range(20):
        assert best <= float((x @ haar(9, torch.Generator().manual_seed(seed)) - target).norm()) + 1e-12
    assert best <= float((x @ planted - target).norm()) + 1e-12


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_descent_is_torchs(kind):
    z = gaussian(4, 4)
    mine, theirs = z.clone(), torch.nn.Parameter(z.clone())
    descent = Descent(kind, 0.9, z)
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9) if kind == "sgd" else torch.optim.Adam([theirs], lr=0.1)
    for seed in range(4):
        gradient = gaussian(4, 4, seed=seed)
        mine = descent.step(mine, gradient, 0.1)
        theirs.grad = gradient
        optimizer.step()
    torch.testing.assert_close(mine, theirs.data)
