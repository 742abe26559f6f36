"""Massive activations: what is planted is found, and what is not persistent is not."""

import math

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.massive import DFROT_THRESHOLD, dfrot_massive_mask, dfrot_threshold, find_massive, massive_tokens, spike_energy
from rotviz.numerics.orthogonal import random_signs
from rotviz.numerics.rotation import HadamardRotation


def stream(blocks: int = 8, tokens: int = 20, width: int = 64) -> list[tuple[int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(b, torch.randn(tokens, width, generator=generator)) for b in range(blocks)]


def planted() -> list[tuple[int, torch.Tensor]]:
    blocks = stream()
    for b in range(2, 7):
        blocks[b][1][0, 11] = -2000.0 - b  # the sink token; its peak stands in block 6
        blocks[b][1][0, 30] = 1500.0
    blocks[4][1][9, 5] = 3000.0            # a passing spike
    return blocks


def test_an_ordinary_stream_has_none():
    assert find_massive(stream()) == []


def test_planted_spikes_are_found():
    found = find_massive(iter(planted()))
    assert [(m.block, m.index, m.channel) for m in found] == [(2, 0, 11), (3, 0, 11), (4, 0, 11), (4, 9, 5), (5, 0, 11), (6, 0, 11)]
    first = found[0]
    median = float(planted()[2][1].abs().median())
    assert first.value == -2002.0 and first.ratio == pytest.approx(2002 / median, rel=1e-6) and first.absolute
    assert [channel for channel, _ in first.spikes] == [11, 30]


def test_persistent_tokens_keep_their_channel():
    tokens = massive_tokens(find_massive(planted()))
    assert [(t.index, t.channel, t.first_block, t.last_block) for t in tokens] == [(0, 11, 2, 6), (0, 30, 2, 6)]
    assert (tokens[0].value, tokens[0].block) == (-2006.0, 6)
    assert tokens[0].ratio == pytest.approx(2006 / float(planted()[6][1].abs().median()), rel=1e-6)
    assert len(massive_tokens(find_massive(planted()), persistence=1)) == 3
    assert massive_tokens(find_massive(planted()), persistence=6) == []


def test_a_gap_breaks_the_run():
    blocks = planted()
    blocks[4][1][0] = torch.randn(64)
    blocks[4][1][9] = torch.randn(64)
    assert massive_tokens(find_massive(blocks)) == []


def test_the_absolute_rule_is_recorded_and_not_required():
    blocks = [(b, h * 1e-3) for b, h in planted()]
    found = find_massive(blocks)
    assert len(found) == 6 and not any(m.absolute for m in found)


def test_broken_streams_are_refused_and_empty_ones_have_none():
    with pytest.raises(BadInput, match="block 3: the hidden state holds NaN"):
        find_massive([(3, torch.tensor([[math.nan, 1.0]]))])
    with pytest.raises(BadInput, match="tokens and channels"):
        find_massive([(3, torch.ones(4))])
    assert find_massive([(0, torch.zeros(2, 4))]) == []


def test_spike_energy():
    x = torch.zeros(3, 64)
    x[0, 3], x[0, 9] = 3.0, 4.0
    x[1] = 1.0
    assert spike_energy(x, k=2).tolist() == [1.0, 2 / 64, 0.0]
    assert spike_energy(x, k=1).tolist() == pytest.approx([16 / 25, 1 / 64, 0.0])


@pytest.mark.parametrize("width", [576, 1536, 4096])
def test_dfrot_mask_takes_spikes_and_leaves_gaussians(width):
    """METHODS.md 11: a two-spike token loses next to nothing un-rotated; of Gaussian tokens a few in a hundred at most look as quiet."""
    x = torch.randn(400, width, generator=torch.Generator().manual_seed(0))
    x[3] *= 0.02
    x[3, 141], x[3, 253] = 50.0, -40.0
    mask = dfrot_massive_mask(x)
    assert mask[3] and float(mask.float().mean()) < 0.05
    assert not dfrot_massive_mask(torch.zeros(1, 8)).any()


def test_dfrot_threshold_is_the_papers_at_its_width():
    assert dfrot_threshold(4096) == 8.5 / 64
    assert dfrot_threshold(5120) == pytest.approx(8.5 / 64, rel=0.02)
    x = torch.randn(400, 576, generator=torch.Generator().manual_seed(0))
    assert dfrot_massive_mask(x, threshold=DFROT_THRESHOLD).float().mean() > 0.3, "the constant would do at width 576 after all"


def test_gaussian_token_error():
    """METHODS.md 17: a Gaussian row of width 4096 and norm 64 has an int4 error of about 10.1."""
    x = torch.randn(500, 4096, generator=torch.Generator().manual_seed(0))
    x = x * 64 / x.norm(dim=1, keepdim=True)
    below = dfrot_massive_mask(x, threshold=10.1 / 64).float().mean()
    assert 0.4 < float(below) < 0.7


def test_rotation_ends_massiveness():
    x = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    x[0, 5] = 5000.0
    assert len(find_massive([(0, x)])) == 1
    turned = HadamardRotation(4096, random_signs(4096, torch.Generator().manual_seed(1))).apply(x)
    assert find_massive([(0, turned)]) == []
