"""The rotation lens: it begins with the rows, ends with the turned rows, loses no energy on the way, and follows a spike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.errors import BadInput
from rotviz.evaluation import lens as room
from rotviz.evaluation.lens import STOPS, channels_for, lens_on, sample
from rotviz.evaluation.sites import Turn, site_rows
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.numerics.orthogonal import haar
from rotviz.numerics.rotation import DenseRotation
from rotviz.rotations import ROTATIONS
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.saved import save_plan
from rotviz.types import QuantSpec, Site, Slot

SPEC = QuantSpec(4, True, clip=0.9)


@pytest.fixture(scope="module")
def tiny():
    return look(Look("tiny-llama", "pydoc", 48, True, None))


@pytest.mark.parametrize("method", ["hadamard", "orthogonal"])
@pytest.mark.parametrize("site", [Site.MLP_IN, Site.KEY, Site.O_IN, Site.DOWN_IN])
def test_way_leads_from_the_rows_to_the_turned_rows(tiny, site, method):
    turn = Turn(method, seed=3)
    seen = lens_on(tiny, 1, site, turn)
    assert torch.equal(seen.rows(0.0), tiny.site(1, site, folded=True))
    difference = (seen.rows(1.0) - site_rows(tiny, 1, site, turn)).abs().amax(0)
    size = seen.ways[0].angles.numel()
    mirrored = set((difference > 1e-3).nonzero().flatten().tolist())
    # a reflection's last column is negated, in each head that it turns
    assert mirrored <= (set(range(size - 1, len(difference), size)) if seen.flipped else set())
    assert torch.allclose(seen.rows(1.0).abs(), site_rows(tiny, 1, site, turn).abs(), atol=1e-3)


def test_energy_stays_and_a_spike_follows_its_row(tiny):
    seen = lens_on(tiny, 1, Site.MLP_IN, Turn("hadamard"))
    norms = seen.start.norm(dim=1)
    spike = seen.spikes()[0]
    assert spike.value == float(seen.start[spike.row, spike.channel]) and abs(spike.value) == float(seen.start.abs().max())
    shares = []
    for t in STOPS[::5]:
        assert torch.allclose(seen.rows(t).norm(dim=1), norms, rtol=1e-4)
        weights = seen.row_of_rotation(spike.channel, t)
        assert np.square(weights).sum() == pytest.approx(1, abs=1e-4)
        one = torch.zeros(1, seen.start.shape[1])
        one[0, spike.channel] = 1
        matrix_row = replace(seen, start=one, seen=room._in_bases(one, seen.ways, 80)).rows(t)
        assert np.allclose(weights, matrix_row.numpy(), atol=1e-5) or t == 0
        shares.append(float(weights[spike.channel] ** 2))
    assert shares[0] == pytest.approx(1, abs=1e-4) and shares[-1] == pytest.approx(1 / 80, rel=1e-2)
    assert [s.row for s in seen.spikes()] == list(dict.fromkeys(s.row for s in seen.spikes()))


@pytest.mark.parametrize("site", [Site.VALUE, Site.O_IN, Site.MLP_IN])
def test_saved_rotation_is_walked_each_head_by_its_own(tiny, tmp_path, site):
    plan = make_plan(ROTATIONS["orthogonal"]().build, tuple(Slot), source_sizes(BlockSource(load("tiny-llama").model)), 3)
    size, generator = plan.r2[0][0].size, torch.Generator().manual_seed(0)
    heads = tuple(tuple(DenseRotation(haar(size, generator), name="own") for _ in block) for block in plan.r2)
    save_plan(tmp_path / "own-fedcba987654.safetensors", replace(plan, r2=heads), {"method": "own"})
    turn = Turn("own", file=str(tmp_path / "own-fedcba987654.safetensors"))
    seen = lens_on(tiny, 1, site, turn)
    assert len(seen.ways) == (1 if site is Site.MLP_IN else tiny.kv_heads)
    assert torch.allclose(seen.rows(1.0).abs(), site_rows(tiny, 1, site, turn).abs(), atol=1e-3)
    last = seen.start.shape[1] - 1
    one = torch.zeros(1, last + 1)
    one[0, last] = 1
    expected = replace(seen, start=one, seen=room._in_bases(one, seen.ways, seen.ways[0].angles.numel())).rows(0.4)
    assert np.allclose(seen.row_of_rotation(last, 0.4), expected.numpy(), atol=1e-5)


def test_row_of_a_head_stays_in_its_head(tiny):
    seen = lens_on(tiny, 0, Site.O_IN, Turn("hadamard"))
    size = tiny.head_width
    weights = seen.row_of_rotation(size + 3, 0.7)
    assert np.square(weights[size : 2 * size]).sum() == pytest.approx(1, abs=1e-4)
    assert not weights[:size].any() and not weights[2 * size :].any()


def test_stop_agrees_with_the_other_views(tiny):
    from rotviz.evaluation.sites import token_errors

    seen = lens_on(tiny, 1, Site.MLP_IN, Turn("hadamard"))
    end, other = seen.stop(1.0, SPEC), token_errors(tiny, 1, Site.MLP_IN, Turn("hadamard"), SPEC)
    assert end.all.error == pytest.approx(other.all, rel=1e-3)
    assert end.massive.error == pytest.approx(other.mean_massive, rel=1e-3) and end.ordinary.error == pytest.approx(other.mean_ordinary, rel=1e-3)
    start = seen.stop(0.0, SPEC)
    assert start.all.kurtosis > end.all.kurtosis and start.all.peak_ratio > end.all.peak_ratio


def test_sample_keeps_every_massive_row():
    massive = np.zeros(3000, dtype=bool)
    massive[[0, 17, 2999]] = True
    kept = sample(massive, 576)
    assert {0, 17, 2999} <= set(kept) and len(kept) <= room.TOKENS and (np.diff(kept) > 0).all()
    assert len(sample(massive, 4096)) * 4096 <= room.NUMBERS
    assert (sample(massive[:40], 576) == np.arange(40)).all()
    assert sample(np.ones(900, dtype=bool), 576).size <= room.TOKENS


def test_channels_for_by_hand():
    assert channels_for(0.9, np.array([0.0, 1.0, 0.0])) == 1
    assert channels_for(0.9, np.full(10, 0.1)) == 9
    assert channels_for(0.5, np.array([0.1, 0.4, 0.2, 0.3])) == 2
    assert channels_for(0.9, np.zeros(4)) == 0


def test_no_way_and_too_wide_are_refused_in_words(tiny, monkeypatch):
    with pytest.raises(BadInput, match="leaves the MLP input as it is"):
        lens_on(tiny, 0, Site.MLP_IN, Turn("none"))
    with pytest.raises(BadInput, match="leaves the MLP input"):
        lens_on(tiny, 0, Site.MLP_IN, Turn("hadamard", slots=(Slot.R4,)))
    monkeypatch.setattr(room, "WIDEST", 64)
    with pytest.raises(BadInput, match="head by head"):
        lens_on(tiny, 0, Site.MLP_IN, Turn("hadamard"))
