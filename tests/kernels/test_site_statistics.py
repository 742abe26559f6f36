"""Statistics in one pass: counts and peaks exact, moments as good as float64's to the rounding of float32 tiles, outliers of 1e4 included."""

import pytest
import torch
from judging import draw

from rotviz.errors import BadInput
from rotviz.kernels.statistics import BINS, edges, site_statistics
from rotviz.numerics.statistics import summarize, top_channels

# a share's sums are rounded to some units in the last place of float32
MOMENTS = 16 * 2.0**-23


def site(tokens, channels, dtype, device):
    x = draw(tokens, channels, device=device) * 2 + 0.3
    x[0, 7], x[-1, min(50, channels - 1)] = 2e4, -1.3e4
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens, channels", [(1, 64), (3, 576), (17, 300), (97, 130)])
def test_one_pass_sees_what_many_see(tokens, channels, dtype, device):
    x = site(tokens, channels, dtype, device)
    ours, plain, truth = site_statistics(x, backend="triton"), site_statistics(x, backend="torch"), summarize(x.cpu())
    assert torch.equal(ours.counts, plain.counts) and int(ours.counts.sum()) == x.numel()
    assert torch.equal(ours.peaks, plain.peaks) and torch.equal(ours.peak_tokens, plain.peak_tokens)
    assert ours.absmax == truth.absmax and ours.tokens == tokens and ours.moments.count == x.numel()
    assert ours.moments.mean == pytest.approx(truth.mean, rel=MOMENTS, abs=MOMENTS * truth.absmax / x.numel())
    assert ours.moments.std == pytest.approx(truth.std, rel=MOMENTS)
    assert ours.moments.kurtosis == pytest.approx(truth.kurtosis, rel=MOMENTS)
    assert ours.top_channels(3) == top_channels(x.cpu(), 3)


def test_quantiles_are_within_a_bin(device):
    x = site(97, 130, torch.float32, device)
    seen, truth = site_statistics(x, backend="triton"), summarize(x.cpu())
    for q, value in ((0.5, truth.median_abs), (0.99, truth.p99), (0.999, truth.p999)):
        assert seen.quantile(q) == pytest.approx(value, rel=1 / 16)
    assert seen.quantile(1.0) == pytest.approx(seen.absmax, rel=1 / 16)
    with pytest.raises(BadInput, match="between 0 and 1"):
        seen.quantile(1.5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_bins_have_the_documented_edges(backend, device):
    found = edges()
    inside = found[1:-1].float()
    seen = site_statistics(torch.cat((torch.zeros(1), inside)).to(device)[None], backend=backend)
    assert seen.counts.tolist() == [1] * BINS, "an edge belongs to the bin that it opens"
    assert (found.diff()[1:-1] / found[1:-2] <= 1 / 16).all()


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_tokens_may_be_shared_out(splits, device):
    from rotviz.kernels.statistics.triton_kernel import launch

    x = site(130, 64, torch.float32, device)
    ours, plain = launch(x, splits), site_statistics(x, backend="torch")
    assert torch.equal(ours.counts, plain.counts) and torch.equal(ours.peak_tokens, plain.peak_tokens)
    assert ours.moments.kurtosis == pytest.approx(plain.moments.kurtosis, rel=MOMENTS)


def test_a_share_has_an_end(device):
    """Of 35 tiles one program looks at 32 at most, in whatever dtype."""
    from rotviz.kernels.statistics.triton_kernel import launch

    for dtype in (torch.float32, torch.bfloat16):
        x = site(1100, 8, dtype, device)
        x[1050, 3] = x[1060, 3] = -600.0
        ours, plain = launch(x, 1), site_statistics(x, backend="torch")
        assert torch.equal(ours.counts, plain.counts) and torch.equal(ours.peak_tokens, plain.peak_tokens) and ours.peak_tokens[3] == 1050
        assert ours.moments.kurtosis == pytest.approx(plain.moments.kurtosis, rel=MOMENTS)


@pytest.mark.parametrize("first, rest", [(1e-30, 1e3), (1.0, 2.0**29), (0.0, 1e-12), (0.0, 1e20), (1e20, 1e-12),
                                         (3e38, 1.0), (1e-40, 1.0)])
def test_a_first_tile_that_is_like_nothing_after_it(first, rest, device):
    x = draw(96, 64, device=device)
    x[:32] = x[:32] / x[:32].abs().max() * first
    x[32:] *= rest
    ours, plain = (site_statistics(x, backend=backend) for backend in ("triton", "torch"))
    assert torch.equal(ours.counts, plain.counts) and torch.equal(ours.peaks, plain.peaks) and torch.equal(ours.peak_tokens, plain.peak_tokens)
    assert ours.moments.std == pytest.approx(plain.moments.std, rel=MOMENTS) and ours.moments.mean == pytest.approx(plain.moments.mean, rel=MOMENTS)
    assert ours.moments.kurtosis == pytest.approx(plain.moments.kurtosis, rel=MOMENTS)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("factor", [2.0**24, 2.0**26, 2.0**28])
def test_fourth_powers_of_a_whole_share_fit(factor, device):
    from rotviz.kernels.statistics.triton_kernel import launch

    x = draw(1024, 128, device=device).abs().clamp(0.5, 1.5)
    x[32:] *= factor
    ours, plain = launch(x, 1).moments, site_statistics(x, backend="torch").moments
    assert ours.std == pytest.approx(plain.std, rel=32 * MOMENTS) and ours.kurtosis == pytest.approx(plain.kurtosis, abs=1e-3)


def test_a_mean_that_jumps_after_the_first_tile(device):
    """Sums about the first tile's mean are then up to as many times larger than the central ones as a share has tiles."""
    from rotviz.kernels.statistics.triton_kernel import launch

    x = draw(1024, 64, device=device) + 100
    x[:32] -= 100
    ours, plain = launch(x, 1).moments, site_statistics(x, backend="torch").moments
    assert ours.std == pytest.approx(plain.std, rel=32 * MOMENTS) and ours.kurtosis == pytest.approx(plain.kurtosis, rel=32 * MOMENTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_of_equal_peaks_the_first_counts(splits, dtype, device):
    from rotviz.kernels.statistics.triton_kernel import launch

    x = torch.zeros(96, 8, dtype=dtype, device=device)
    x[[5, 40, 80], [1, 1, 1]] = torch.tensor([-7.0, 7.0, 7.0], dtype=dtype, device=device)
    assert launch(x, splits).peak_tokens.tolist() == [0, 5, 0, 0, 0, 0, 0, 0] == site_statistics(x, backend="torch").peak_tokens.tolist()


def test_windows_add_up(device):
    x = site(64, 96, torch.float32, device)
    halves = site_statistics(x[:40], backend="triton") + site_statistics(x[40:], backend="triton")
    whole = site_statistics(x, backend="torch")
    assert torch.equal(halves.counts, whole.counts) and torch.equal(halves.peak_tokens, whole.peak_tokens)
    assert halves.moments.kurtosis == pytest.approx(whole.moments.kurtosis, rel=MOMENTS)
    with pytest.raises(BadInput, match="do not add up"):
        halves + site_statistics(x[:, :8])


def test_numbers_that_are_large_everywhere(device):
    """A constant of 1e30 with a little noise: fourth powers would overflow, and the mean is a million times the spread."""
    x = (draw(33, 128, device=device) * 1e24 + 1e30)
    ours, plain = (site_statistics(x, backend=backend).moments for backend in ("triton", "torch"))
    assert ours.mean == pytest.approx(plain.mean, rel=MOMENTS) and ours.kurtosis == pytest.approx(plain.kurtosis, abs=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nan_and_infinity_are_refused(strange, backend, device):
    x = draw(3, 64, device=device)
    x[2, 5] = strange
    with pytest.raises(BadInput, match="NaN or infinity"):
        site_statistics(x, backend=backend)
    with pytest.raises(BadInput, match="floating-point"):
        site_statistics(torch.ones(2, 0), backend=backend)
