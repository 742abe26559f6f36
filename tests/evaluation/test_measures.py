"""Perplexity, divergence and site errors against their definitions."""

import math

import numpy as np
import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.evaluation.errors import SiteMeter, massive_mask
from rotviz.evaluation.perplexity import perplexity, ratio
from rotviz.evaluation.sites import Turn, block_errors, channel_errors, site_rows, token_errors
from rotviz.kernels.scores import score
from rotviz.numerics.errors import relative_mse, relative_mse_by_channel, relative_mse_by_token, split_error, sqnr_db
from rotviz.types import QuantSpec, Site, Slot


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    nll = score(torch.zeros(10, 37), torch.zeros(10, 37), torch.arange(10)).quantized
    p = perplexity([float(nll.mean())] * 4, 10, "words")
    assert p.value == pytest.approx(37) and p.stderr == pytest.approx(0, abs=1e-12) and p.tokens == 40


def test_standard_error_is_that_of_the_mean_of_windows():
    values = [3.0, 3.2, 2.8, 3.1]
    p = perplexity(values, 100, "")
    assert p.stderr == pytest.approx(math.exp(np.mean(values)) * np.std(values, ddof=1) / 2)
    assert math.isnan(perplexity([3.0], 100, "").stderr)


def test_nan_windows_are_counted_and_not_skipped():
    p = perplexity([3.0, math.nan], 10, "")
    assert math.isnan(p.value) and p.nan_windows == 1


def test_paired_ratio_has_no_error_when_every_window_suffers_alike():
    reference, quantized = perplexity([3.0, 4.0, 5.0], 10, ""), perplexity([3.1, 4.1, 5.1], 10, "")
    value, stderr = ratio(quantized, reference)
    assert value == pytest.approx(math.exp(0.1)) and stderr == pytest.approx(0, abs=1e-12) and quantized.stderr > 1


@pytest.mark.parametrize("vocabulary", [11, 60_000])
def test_scores_against_the_definition(vocabulary):
    """The cached, unnormalized sums against the plain formulas in float64; the wide vocabulary is scored in several parts."""
    generator = torch.Generator().manual_seed(0)
    a, b = (5 * torch.randn(40, vocabulary, generator=generator) + 30 for _ in range(2))
    before, targets = a.clone(), torch.randint(vocabulary, (40,), generator=generator)
    p, q = (x.double().log_softmax(-1) for x in (a, b))
    scores = score(a, b, targets)
    for got, log in ((scores.reference, p), (scores.quantized, q)):
        torch.testing.assert_close(got, -log.gather(-1, targets[:, None])[:, 0], rtol=0, atol=2e-5)  # a few roundings of numbers near 60
    torch.testing.assert_close(scores.kl, (p.exp() * (p - q)).sum(-1), rtol=1e-5, atol=2e-5)
    assert torch.equal(scores.same_top, (a.argmax(-1) == b.argmax(-1)).double()) and torch.equal(a, before)


def test_a_model_does_not_diverge_from_itself():
    logits = torch.randn(6, 50)
    scores = score(logits, logits.clone(), torch.arange(6))
    assert not scores.kl.any() and scores.same_top.all()


def test_relative_errors():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    y = torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    assert relative_mse(x, y) == pytest.approx(1 / 25)
    assert relative_mse_by_token(x, y).tolist() == [pytest.approx(1 / 25), 0.0]
    assert relative_mse_by_channel(x, y).tolist() == [0.0, pytest.approx(1 / 16)]
    assert sqnr_db(0.01) == pytest.approx(20) and sqnr_db(0) == math.inf
    assert relative_mse(torch.zeros(2), torch.ones(2)) == math.inf
    split = split_error(x, y, torch.tensor([False, True]))
    assert split.massive == 0 and split.ordinary == pytest.approx(1 / 25)


def test_meter_adds_up_over_calls_and_leaves_unaligned_rows_unsplit():
    meter = SiteMeter(torch.tensor([True, False]))
    x, y = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    meter(Site.ATTN_IN, x[None], y[None])
    meter(Site.DOWN_IN, x.repeat(2, 1), y.repeat(2, 1))
    attention, down = meter.errors(3)
    assert attention.relative_mse == pytest.approx(1 / 101) and attention.massive == pytest.approx(1 / 100) and attention.ordinary == 0
    assert down.relative_mse == pytest.approx(1 / 101) and math.isnan(down.massive)
    meter.on = False
    meter(Site.ATTN_IN, x[None], x[None] * 0)
    assert meter.errors(3)[0] == attention


@pytest.fixture(scope="module")
def capture():
    return look(Look("tiny-llama", "pydoc", 96))


ROTATED = ["orthogonal", "hadamard"]


@pytest.mark.parametrize("method", ROTATED)
@pytest.mark.parametrize("site", list(Site))
def test_a_turn_keeps_each_tokens_norm(capture, method, site):
    turned, plain = site_rows(capture, 1, site, Turn(method)), capture.site(1, site, folded=True)
    torch.testing.assert_close(turned.norm(dim=-1), plain.norm(dim=-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(turned, plain)


def test_a_slot_that_is_off_leaves_its_sites_alone(capture):
    turn = Turn("hadamard", slots=(Slot.R4,))
    assert torch.equal(site_rows(capture, 0, Site.ATTN_IN, turn), capture.site(0, Site.ATTN_IN))
    assert not torch.equal(site_rows(capture, 0, Site.DOWN_IN, turn), capture.site(0, Site.DOWN_IN))


def test_errors_by_token_channel_and_block_agree(capture):
    spec, turn = QuantSpec(4, True), Turn("hadamard")
    tokens = token_errors(capture, 1, Site.MLP_IN, turn, spec)
    rows = site_rows(capture, 1, Site.MLP_IN, turn)
    energy = rows.double().square().sum(-1).numpy()
    total = float((tokens.relative * energy).sum())
    assert tokens.all == pytest.approx(total / energy.sum())
    assert channel_errors(capture, 1, Site.MLP_IN, turn, spec).mean() == pytest.approx(tokens.all)
    plain = channel_errors(capture, 1, Site.MLP_IN, Turn("none"), spec)
    assert plain.mean() == pytest.approx(token_errors(capture, 1, Site.MLP_IN, Turn("none"), spec).all), "whatever unit the site has"
    assert block_errors(capture, Site.MLP_IN, turn, spec).all[1] == pytest.approx(tokens.all)


def test_eight_bits_lose_less_than_four_everywhere(capture):
    for site in Site:
        four, eight = (token_errors(capture, 0, site, Turn("none"), QuantSpec(b, True)).all for b in (4, 8))
        assert eight < four


def test_sites_follow_the_rotation_that_a_run_uses():
    """The page and the pipeline must turn the same site by the same matrix: local errors of a run on the captured text agree."""
    from rotviz.models.loading import load
    from rotviz.pipeline.recipe import Recipe
    from rotviz.pipeline.run import finish, run

    recipe = Recipe.from_dict({"model": "tiny-llama", "weights": {"method": "none"}, "activations": {"symmetric": True, "clip": 0.9},
                               "text": {"evaluation": "pydoc", "windows": 1, "length": 96}, "seed": 4})
    result = finish(run(recipe, loaded=load("tiny-llama")))
    errors = {e["site"]: e["relative_mse"] for e in result.errors if e["block"] == 0}
    capture, spec = look(Look("tiny-llama", "pydoc", 96)), QuantSpec(4, True, clip=0.9)
    assert errors["attn_in"] == pytest.approx(token_errors(capture, 0, Site.ATTN_IN, Turn("hadamard", 4), spec).all, rel=1e-3)


def test_massive_mask_needs_a_thousandfold():
    h = torch.ones(3, 50)
    h[1, 7] = 999
    assert not massive_mask(h).any()
    h[1, 7] = -1000
    assert massive_mask(h).tolist() == [False, True, False]
