"""The learner's own arithmetic: joint heads, rates by angle, and data whose best rotation is known."""

from pathlib import Path
from types import SimpleNamespace

import torch

from rotviz.capture.sample import SiteSample
from rotviz.numerics.objectives import peak, whip
from rotviz.numerics.orthogonal import haar
from rotviz.rotations.dartquant import DartQuant
from rotviz.rotations.learning import head_rows
from rotviz.rotations.qr_learner import Learner, Schedule, _over_all_heads
from rotviz.types import QuantSpec

SPEC = QuantSpec(4, True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_heads_of_a_token_are_judged_together():
    sample = SiteSample(Path(), 1, tokens=5, kv_heads=2, head_width=4)
    tokens = torch.randn(5, 2 * 3 * 4, dtype=torch.float64, generator=generator())
    rows = head_rows(tokens, sample)
    total, slope = _over_all_heads(peak(8.0), sample)(rows, SPEC)
    wanted, gradient = peak(8.0)(tokens, SPEC)
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(slope, head_rows(gradient, sample))


def descend(objective, rows, start, steps=60):
    learner = Learner(Schedule("test", objective, steps, len(rows)), SPEC, lambda: None)
    return list(learner.descend(start, lambda: [lambda: rows[:100], lambda: rows[100:]]))


def test_planted_signs_are_found():
    """Rows of +-1 turned by a small rotation: the bottom of Whip and of the peak is the rotation back, where every |o| is 1."""
    signs = torch.randint(0, 2, (400, 12), generator=generator()).double() * 2 - 1
    skew = 0.15 * torch.randn(12, 12, dtype=torch.float64, generator=generator(1))
    rows = signs @ torch.matrix_exp(skew - skew.T)
    for objective, lowest in ((whip, 12 * torch.e**-1), (peak(16.0), 12 ** (2 / 16))):
        states = descend(objective, rows, torch.eye(12, dtype=torch.float64))
        assert states[-1].loss < states[0].loss and min(s.loss for s in states) < lowest * 1.01
        assert float(((rows @ states[-1].best).abs() - 1).abs().mean()) < 0.1 < float((rows.abs() - 1).abs().mean())


def test_spiky_rows_are_lowered_from_any_start_and_the_best_is_kept():
    """METHODS.md 17: 64 channels of Laplacian numbers, some of them 20 times the others, tokens of unit RMS."""
    rows = torch.distributions.Laplace(0.0, 1.0).icdf(torch.rand(1024, 64, generator=generator(), dtype=torch.float64).clamp(1e-6, 1 - 1e-6))
    rows[:, :5] *= 20
    rows = rows / rows.square().mean(-1, keepdim=True).sqrt()
    for start in (torch.eye(64, dtype=torch.float64), haar(64, generator())):
        states = descend(whip, rows, start, steps=30)
        assert states[-1].loss < states[0].loss and states[-1].best.shape == (64, 64)
        best = min(range(len(states)), key=lambda i: states[i].loss)
        assert torch.equal(states[-1].best, states[best].rotation)


def test_published_rates_are_whips_by_sgd():
    """Other losses have gradients of another size, and Adam steps of another: their rates are found."""
    sample = SiteSample(Path(), 32, tokens=100, kv_heads=32, head_width=128)
    task = SimpleNamespace(plan=SimpleNamespace(r1=SimpleNamespace(size=4096)))
    ways = {}, {"loss": "kurtosis"}, {"optimizer": "adam"}, {"loss": "variance", "rate": 3.0}
    rates = [DartQuant(**how)._schedule(task, sample).rate for how in ways]
    assert rates == [0.002, 0.0, 0.0, 3.0]
