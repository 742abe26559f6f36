"""Statistics against numpy and scipy, and the running summary against the exact one."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rotviz.errors import BadInput
from rotviz.numerics import statistics as S


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def spiky() -> torch.Tensor:
    x = gaussian(300, 64)
    x[0, 7] = -500.0
    x[17, 3] = 90.0
    return x


def test_summary_agrees_with_numpy_and_scipy(spiky):
    s, n = S.summarize(spiky), spiky.double().numpy().ravel()
    assert s.absmax == 500.0
    for value, expected in [(s.median_abs, np.median(np.abs(n))), (s.mean, n.mean()), (s.std, n.std()),
                            (s.kurtosis, scipy.stats.kurtosis(n)), (s.p99, np.quantile(np.abs(n), 0.99)),
                            (s.p999, np.quantile(np.abs(n), 0.999)), (s.crest, 500 / np.sqrt((n**2).mean())),
                            (s.incoherence, 500 * np.sqrt(n.size) / np.linalg.norm(n))]:
        assert value == pytest.approx(expected, rel=1e-10)
    rows = spiky.double()
    assert s.peak_ratio == pytest.approx(float((rows.abs().amax(1) * 8 / rows.norm(dim=1)).mean()), rel=1e-12)


def test_known_kurtosis():
    """METHODS.md 6: Gaussian 0, uniform -1.2, Laplace 3; each within five standard errors of a sample of a million."""
    source = np.random.default_rng(0)
    for draw, expected, error in [(source.normal, 0, 0.0049), (source.laplace, 3, 0.06), (source.uniform, -1.2, 0.002)]:
        assert S.summarize(torch.from_numpy(draw(size=(1000, 1000)))).kurtosis == pytest.approx(expected, abs=5 * error)


def test_peak_ratio_of_a_spike_is_the_root_of_the_width():
    assert S.summarize(torch.eye(64)).peak_ratio == pytest.approx(8, rel=1e-12)
    assert S.summarize(torch.ones(4, 64)).peak_ratio == pytest.approx(1, rel=1e-12)
    assert S.summarize(torch.ones(4, 64)).incoherence == pytest.approx(1, rel=1e-12)


def test_gaussian_peak_ratio_at_width_4096():
    """The mean of the largest of 4096 |Gaussian| numbers: the integral of P(largest > t), 3.81."""
    expected, _ = scipy.integrate.quad(lambda t: 1 - (2 * scipy.stats.norm.cdf(t) - 1) ** 4096, 0, 10)
    assert expected == pytest.approx(3.81, abs=0.01)
    assert S.summarize(gaussian(500, 4096)).peak_ratio == pytest.approx(expected, abs=5 * 0.31 / math.sqrt(500))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_float_dtype_is_read(dtype):
    s = S.summarize(gaussian(100, 32).to(dtype))
    assert s.std == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.full((3, 4), 2.0), torch.ones(1, 1)])
def test_constants_have_finite_statistics(x):
    s = S.summarize(x)
    running = S.RunningSummary()
    running.update(x)
    for summary in (s, running.summary()):
        assert all(math.isfinite(getattr(summary, name)) for name in S.Summary.__dataclass_fields__)


@pytest.mark.parametrize("x", [torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.inf]]), torch.ones(0, 4), torch.ones(2, 2).long()])
def test_what_has_no_statistics_is_refused(x):
    with pytest.raises(BadInput):
        S.summarize(x)


def test_channels_and_tokens(spiky):
    qs = (0.0, 0.25, 0.5, 0.9, 1.0)
    expected = np.quantile(spiky.double().numpy(), qs, axis=0)
    np.testing.assert_allclose(S.channel_quantiles(spiky, qs).numpy(), expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(S.channel_absmax(spiky), spiky.abs().amax(0))
    assert torch.equal(S.token_absmax(spiky), spiky.abs().amax(1))
    assert S.top_channels(spiky, 2) == [(7, 500.0, 0), (3, 90.0, 17)]
    assert len(S.top_channels(spiky, 1000)) == 64
    with pytest.raises(BadInput, match="between 0 and 1"):
        S.channel_quantiles(spiky, (1.5,))


@pytest.mark.parametrize("symmetric_log", [False, True])
def test_histogram_counts_everything_once(spiky, symmetric_log):
    counts, edges = S.histogram(spiky, bins=50, symmetric_log=symmetric_log)
    assert int(counts.sum()) == spiky.numel() and counts.shape == (50,) and edges.shape == (51,)
    expected, _ = np.histogram(spiky.double().numpy(), bins=edges.numpy())
    np.testing.assert_array_equal(counts.numpy(), expected)
    if symmetric_log:
        torch.testing.assert_close(edges, -edges.flip(0))
        assert float(edges[-1]) == 500.0


def test_histogram_of_one_value():
    for symmetric_log in (False, True):
        for value in (0.0, 3.0):
            assert int(S.histogram(torch.full((4, 4), value), symmetric_log=symmetric_log)[0].sum()) == 16


def test_normal_quantiles_of_a_gaussian_lie_on_the_diagonal():
    theoretical, observed = S.normal_quantiles(3 + 2 * gaussian(1000, 200), n=100)
    np.testing.assert_allclose(theoretical.numpy(), scipy.stats.norm.ppf((np.arange(100) + 0.5) / 100), rtol=1e-9)
    assert float((theoretical - observed).abs().max()) < 0.03


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_pooling_keeps_the_spike(t, d, rows, cols):
    x = gaussian(t, d)
    x[t // 2, d // 3] = -77.0
    pooled = S.max_pool(x, rows, cols)
    assert pooled.shape[0] <= rows and pooled.shape[1] <= cols
    assert float(pooled.max()) == 77.0
    assert float(pooled[(t // 2) // S.pool_window(t, rows), (d // 3) // S.pool_window(d, cols)]) == 77.0
    assert (pooled > 0).all()
    np.testing.assert_array_equal(S.max_pool(x.numpy(), rows, cols), pooled.numpy())


def test_pooling_what_is_small_enough_is_the_absolute_value(spiky):
    assert torch.equal(S.max_pool(spiky, 300, 64), spiky.abs())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.floats(-100, 100), st.integers(0, 1000))
def test_running_moments_equal_exact_ones(chunks, shift, seed):
    x = gaussian(sum(chunks), 5, seed=seed).double() ** 3 + shift
    running = S.RunningSummary()
    for chunk in x.split(chunks):
        running.update(chunk)
    exact, seen = S.summarize(x), running.summary()
    scale = max(1.0, abs(shift)) / max(exact.std, 1e-9)
    for name in ("absmax", "mean", "std", "crest", "incoherence", "peak_ratio"):
        assert getattr(seen, name) == pytest.approx(getattr(exact, name), rel=1e-10, abs=1e-10)
    assert seen.kurtosis == pytest.approx(exact.kurtosis, rel=1e-9 * scale**4, abs=1e-9 * scale**4)
    assert seen.kurtosis == pytest.approx(scipy.stats.kurtosis(x.numpy().ravel()), rel=1e-9 * scale**4, abs=1e-9 * scale**4)


def test_running_quantiles_are_within_a_bin():
    x = gaussian(2000, 100)
    running = S.RunningSummary()
    for chunk in x.split(300):
        running.update(chunk)
    for q in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        assert running.quantile(q) == pytest.approx(float(np.quantile(x.abs().numpy(), q)), rel=2 ** (1 / 16) - 1)


def test_running_summary_starts_empty():
    running = S.RunningSummary()
    running.update(torch.ones(0, 4))
    with pytest.raises(BadInput, match="no numbers"):
        running.summary()
    running.update(torch.zeros(3, 4))
    assert running.quantile(0.5) == 0.0
