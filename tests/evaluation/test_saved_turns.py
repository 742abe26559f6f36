"""Looking at a saved rotation: its matrices and no others, head by head where heads differ, and in words where it does not fit."""

from dataclasses import replace

import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.errors import BadInput
from rotviz.evaluation.sites import R1_SITES, Turn, mark_of, r1_error, rounded, site_rows, token_errors
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.numerics.errors import split_error
from rotviz.numerics.orthogonal import haar
from rotviz.numerics.rotation import DenseRotation
from rotviz.rotations import ROTATIONS
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.saved import save_plan
from rotviz.types import QuantSpec, Site, Slot

SPEC = QuantSpec(4, True, clip=0.9)


@pytest.fixture(scope="module")
def capture():
    return look(Look("tiny-llama", "pydoc", 32))


@pytest.fixture(scope="module")
def plan():
    return make_plan(ROTATIONS["orthogonal"]().build, tuple(Slot), source_sizes(BlockSource(load("tiny-llama").model)), 3)


@pytest.fixture
def saved(plan, tmp_path):
    path = tmp_path / "orthogonal-0123456789ab.safetensors"
    save_plan(path, plan, {"method": "orthogonal"})
    return Turn("orthogonal", 3, file=str(path))


@pytest.mark.parametrize("site", list(Site))
def test_a_file_turns_as_the_method_that_made_it(capture, saved, site):
    for block in range(capture.blocks):
        assert torch.allclose(site_rows(capture, block, site, saved), site_rows(capture, block, site, replace(saved, file="")), atol=1e-5)


def different_heads(plan, tmp_path):
    """The plan with an R2 of its own for each key-value head."""
    size, generator = plan.r2[0][0].size, torch.Generator().manual_seed(0)
    heads = tuple(tuple(DenseRotation(haar(size, generator), name="own") for _ in block) for block in plan.r2)
    path = tmp_path / "own-fedcba987654.safetensors"
    save_plan(path, replace(plan, r2=heads), {"method": "own"})
    return heads, Turn("own", file=str(path))


def test_heads_that_differ_are_turned_each_by_its_own(capture, plan, tmp_path):
    heads, turn = different_heads(plan, tmp_path)
    size, kv = capture.head_width, capture.kv_heads
    assert kv > 1
    for site in (Site.VALUE, Site.O_IN):
        before, after = (site_rows(capture, 1, site, t).unflatten(-1, (-1, size)) for t in (Turn("none"), turn))
        repeats = before.shape[1] // kv
        for head in range(before.shape[1]):
            own = heads[1][head // repeats].dense().float()
            assert torch.allclose(after[:, head], before[:, head] @ own, atol=1e-5)
    assert site_rows(capture, 1, Site.O_IN, Turn("none")).shape[1] > kv * size  # query heads share key-value heads here


def test_slots_that_a_file_lacks_turn_nothing(capture, plan, tmp_path):
    path = tmp_path / "part.safetensors"
    save_plan(path, replace(plan, r2=(), r3=None, r4={}), {})
    turn = Turn("orthogonal", 3, file=str(path))
    assert turn.acts_on(Site.MLP_IN) and not turn.acts_on(Site.VALUE) and not turn.acts_on(Site.DOWN_IN)
    assert torch.equal(site_rows(capture, 0, Site.VALUE, turn), capture.site(0, Site.VALUE))
    assert not replace(turn, slots=(Slot.R2,)).acts_on(Site.MLP_IN)


def test_a_turn_of_a_file_is_a_cache_key_and_says_which(saved):
    assert len({saved, replace(saved), replace(saved, file="")}) == 2
    assert saved.label == "orthogonal (seed 3, 89ab)" and mark_of(saved.file) == "89ab"


def test_a_file_that_was_replaced_is_read_again(capture, plan, saved, tmp_path):
    before = site_rows(capture, 0, Site.MLP_IN, saved)
    other = make_plan(ROTATIONS["hadamard"]().build, (Slot.R1,), source_sizes(BlockSource(load("tiny-llama").model)), 0)
    save_plan(tmp_path / "orthogonal-0123456789ab.safetensors", other, {})
    assert not torch.allclose(before, site_rows(capture, 0, Site.MLP_IN, saved))


@pytest.mark.parametrize("site", [Site.MLP_IN, Site.VALUE, Site.KEY, Site.DOWN_IN])
def test_a_file_of_another_model_is_refused_in_words(capture, tmp_path, site):
    sizes = replace(source_sizes(BlockSource(load("tiny-llama").model)), width=48, head_width=8, blocks=3, down_widths=(96,))
    path = tmp_path / "other.safetensors"
    save_plan(path, make_plan(ROTATIONS["orthogonal"]().build, tuple(Slot), sizes, 0), {})
    with pytest.raises(BadInput, match="is for another model"):
        site_rows(capture, 1, site, Turn("peak", file=str(path)))


def test_a_missing_file_is_refused_in_words(capture, tmp_path):
    with pytest.raises(BadInput, match="no saved rotation"):
        site_rows(capture, 0, Site.MLP_IN, Turn("peak", file=str(tmp_path / "gone.safetensors")))


def test_r1_error_is_that_of_all_rows_together(capture):
    turn, rows, masks = Turn("hadamard", 1), [], []
    for block in range(capture.blocks):
        for site in R1_SITES:
            rows.append(site_rows(capture, block, site, turn))
            masks.append(torch.from_numpy(token_errors(capture, block, site, turn, SPEC).massive))
    together = torch.cat(rows)
    expected = split_error(together, rounded(together, Site.MLP_IN, SPEC, capture.head_width), torch.cat(masks))
    found = r1_error(capture, turn, SPEC)
    assert (found.all, found.massive, found.ordinary) == pytest.approx((expected.all, expected.massive, expected.ordinary), rel=1e-5)
